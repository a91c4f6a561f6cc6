"""Nodes, places, limits and errors of the YAML reader."""

from __future__ import annotations

import time

import pytest

from lazyci.data import to_data
from lazyci.errors import InputError
from lazyci.reader import MAX_CHARACTERS, decode, parse


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: [", 1, 5, "not YAML"),
        ("a: 1\nb: 2\na: 2", 3, 1, "'a' stands twice"),
        ("---\na\n---\nb", 3, 1, "several YAML documents"),
        ("x:\n  a: *x", 2, 6, "no anchor above"),
        ("", 1, 1, "empty"),
        ("# only a comment\n", 1, 1, "empty"),
        ("[" * 10_000, 1, 201, "levels deep"),
        ("- " * 10_000 + "a", 1, 401, "levels deep"),
        ("a: é\x07b", 1, 5, "control characters"),
        ("a: &x [*x]", 1, 8, "stands inside what it names"),
        ("a:\n\t- b", 2, 1, "not YAML"),
        ("a: 'x\nb: c", 2, 5, "not YAML"),
        ("x: \ud800", 1, 4, "surrogate"),
        ("a: b: c", 1, 5, "not YAML"),
        ("a: |\n  x\n y: z\n  q", 3, 2, "not YAML"),
    ],
)
def test_errors_name_the_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, "p.yml")
    assert words in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"p.yml:{line}:{column}: ")


def test_not_utf8() -> None:
    with pytest.raises(InputError) as caught:
        decode(b"a: b\nc: \xff", "p.yml")
    assert (caught.value.line, caught.value.column) == (2, 4)


def test_too_large_is_refused_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match="lazyci reads pipelines of up to"):
        parse("a" * (MAX_CHARACTERS + 1))
    with pytest.raises(InputError, match="lazyci reads pipelines of up to"):
        decode(b"a" * (4 * MAX_CHARACTERS + 1), "p.yml")
    assert time.monotonic() - started < 5


def test_alias_bomb_stays_small() -> None:
    lines = ["a0: &a0 {k0: v}"]
    for level in range(1, 60):
        lines.append(f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}], k{level}: v}}")
    lines.append("steps: [{<<: *a59, command: x}]")
    document = parse("\n".join(lines))
    steps = document.root.get("steps")
    assert steps is not None
    assert len(steps.items[0].effective()) == 61


def test_merge_keys() -> None:
    document = parse(
        "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}\nd: {<<: *a, <<: *b}\n"
    )
    assert to_data(document.root) == {
        "a": {"x": 1, "y": 1},
        "b": {"y": 2, "z": 2},
        "c": {"x": 1, "y": 1, "z": 3},
        "d": {"x": 1, "y": 1, "z": 2},
    }


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("~", None),
        ("null", None),
        ("true", True),
        ("'true'", "true"),
        ("yes", "yes"),
        ("12", 12),
        ("-1.5", -1.5),
        ("1e3", "1e3"),
        ("0123", "0123"),
        ("1.2.3", "1.2.3"),
        ("[a, {b: 1}]", ["a", {"b": 1}]),
        ("a: {b: c:d, e: http://x/y}", {"a": {"b": "c:d", "e": "http://x/y"}}),
    ],
)
def test_data(text: str, data: object) -> None:
    assert to_data(parse(text).root) == data


@pytest.mark.parametrize("text", ["a: {b:, c: d}", "a: [:b]", "a: x\u2028y"])
def test_what_libyaml_refuses_is_read_again(text: str) -> None:
    """YAML 1.2 knows these; libyaml reads YAML 1.1."""
    assert parse(text).root.get("a") is not None


def test_places_in_text_with_wide_characters() -> None:
    text = "é: 😀 x\r\nb: &y !!str foo # c\r\n"
    document = parse(text)
    node = document.root.get("b")
    assert node is not None
    assert text[node.start : node.end] == "foo"
    assert document.position(node.start) == (2, 13)
