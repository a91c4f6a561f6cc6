"""The places of a scalar's characters, in every style."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import (
    DoubleQuotedScalarString,
    FoldedScalarString,
    LiteralScalarString,
    SingleQuotedScalarString,
)

from lazyci.document import Document, Node
from lazyci.pipeline.scalar import encode, plain_or_quoted, source_map
from lazyci.reader import parse
from tests.conftest import corpus_files, text_of


def scalars(node: Node) -> list[Node]:
    found = [node] if node.kind == "scalar" and node.value else []
    for key, value in node.entries:
        found += scalars(key) + scalars(value)
    for item in node.items:
        found += scalars(item)
    return found


def check(document: Document, node: Node) -> None:
    places = source_map(document, node)
    assert places is not None, document.text[node.start : node.end]
    value = "".join(places.characters)
    assert value.startswith(node.value)
    for index, character in enumerate(node.value):
        if character.isalnum() and document.text[places.before(index)] != "\\":
            assert document.text[places.before(index)] == character


@pytest.mark.parametrize("path", corpus_files(), ids=lambda path: path.name)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_scalar_of_the_corpus(path: Path, newline: str) -> None:
    document = parse(text_of(path).replace("\n", newline))
    for node in scalars(document.root):
        check(document, node)


@pytest.mark.parametrize(
    "text",
    [
        "a: >\n  x y\n  z\n\n  w\n\n\n  q\n    more\n    more2\n  less\n\n    b\n",
        "a: >-\n\n\n  x\n  y\n\n",
        "- >+\n  a\n\n- b",
        "a: |2\n    x\n  y\n",
        'a: "x\\\n   y z  \n  \n  w \\u00e9 \\x41 \\U0001F600"',
        "a: 'it''s\n  b'",
        "a: x\n  y\n\n  z\n",
        "a: |\n  \n  x\n",
        "a: |-\n  x\n\n\n",
        "a: >\n  x\n  \ty\n  z",
        "a: !!str &b plain text # c",
        "{a: x y, b: [c d, 'e']}",
        "? |\n  key\n: v\n",
        "a: | # comment\n  x\n",
        "a: |+\n  x\n\n\nb: 1",
    ],
)
def test_by_hand(text: str) -> None:
    for variant in (text, text.replace("\n", "\r\n")):
        document = parse(variant)
        for node in scalars(document.root):
            check(document, node)


_styles = st.sampled_from(
    [
        str,
        SingleQuotedScalarString,
        DoubleQuotedScalarString,
        LiteralScalarString,
        FoldedScalarString,
    ]
)
_texts = st.text(
    alphabet=st.sampled_from("abc \t\n'\"\\#:-{}[]&*!|>%@`é😀,?"), min_size=1, max_size=60
)


@given(_texts, _styles, st.sampled_from([20, 80]))
def test_generated(text: str, style: type[str], width: int) -> None:
    yaml = YAML()
    yaml.width = width
    stream = io.StringIO()
    yaml.dump({"key": [style(text)]}, stream)
    document = parse(stream.getvalue())
    for node in scalars(document.root):
        places = source_map(document, node)
        # Where the places cannot be told nothing is edited; what is told must be right.
        if places is not None:
            check(document, node)


@given(_texts.filter(lambda text: "\n" not in text and "\t" not in text))
def test_encoded_text_reads_the_same(text: str) -> None:
    for style, quoted in (("'", "'{}'"), ('"', '"{}"')):
        value = parse(f"a: {quoted.format(encode(text, style))}").root.get("a")
        assert value is not None
        assert value.value == text
    value = parse(f"a: {plain_or_quoted(text)}").root.get("a")
    assert value is not None
    assert value.value == text
