"""Edits of a text: where they go in YAML and how the same places are found again for undo.

Every insertion is a whole item: whole lines in block style, an item with its comma in flow style.
So what was inserted can be taken out again without any record of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lazyci.data import to_data
from lazyci.document import MAX_DEPTH, Document, Node
from lazyci.errors import InternalError
from lazyci.pipeline.scalar import quoted
from lazyci.reader import parse

__all__ = ["Edit", "append_item", "apply", "insert_before", "remove_items"]

# Plain scalars that mean the same between brackets.
_FLOW_PLAIN = re.compile(r"[A-Za-z0-9_./$~+][A-Za-z0-9_./$@+#-]*(?:[: ][A-Za-z0-9_./$@+-]+)*\Z")
_SKIP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Replace text[start:end] by `text`."""

    start: int
    end: int
    text: str


def apply(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits made; several insertions at one place keep their order.

    Raises:
        InternalError: Two edits overlap.
    """
    # A stable sort by place alone keeps the order of insertions; equal edits are made once.
    # At one place the deepest goes first: it belongs to what ends there.
    ordered = sorted(dict.fromkeys(edits), key=lambda e: (e.start, e.end, -_depth(e)))
    pieces, offset = [], 0
    for edit in ordered:
        if edit.start < offset:
            raise InternalError(f"two edits meet at offset {edit.start}")
        pieces += [text[offset : edit.start], edit.text]
        offset = edit.end
    return "".join([*pieces, text[offset:]])


def _depth(edit: Edit) -> int:
    # What stays on its line goes before any line that is added after it.
    if "\n" not in edit.text:
        return MAX_DEPTH * 100
    lines = edit.text.lstrip("\r\n")
    return len(lines) - len(lines.lstrip(" "))


def _dash(document: Document, sequence: Node, index: int) -> int:
    """Offset of the `-` of an item of a block sequence."""
    start = sequence.items[index - 1].end if index else sequence.start
    return _SKIP.match(document.text, start).end()  # type: ignore[union-attr]


def _parts(node: Node) -> list[Node]:
    """Items of a sequence or keys of a mapping."""
    return node.items if node.kind == "sequence" else [key for key, _ in node.entries]


def _part_end(node: Node, index: int) -> int:
    return node.items[index].end if node.kind == "sequence" else node.entries[index][1].end


def _block_line(document: Document, node: Node, index: int) -> int | None:
    """Start of the line on which a block item begins, or None when something stands before it."""
    at = _dash(document, node, index) if node.kind == "sequence" else node.entries[index][0].start
    start = document.line_start(at)
    return start if not document.text[start:at].strip(" ") else None


def _indent(block: str, width: int, newline: str) -> str:
    pad = " " * width
    return "".join(f"{pad}{line}{newline}" if line else newline for line in block.splitlines())


def _flow_item(document: Document, node: Node, block: str) -> str:
    """A rendered block item in flow style, laid out like its neighbours."""
    rendered = parse(block)
    if not document.is_json:
        item = rendered.root.items[0] if node.kind == "sequence" else rendered.root
        text = _flow(rendered, item)
        return text if node.kind == "sequence" else text[1:-1]
    data = to_data(rendered.root)
    item_data = data[0] if isinstance(data, list) else data
    first = _parts(node)[0]
    before = document.text[document.line_start(first.start) : first.start]
    spread = not before.strip() and "\n" in document.text[first.start : _part_end(node, 0)]
    text = json.dumps(item_data, ensure_ascii=False, indent=2 if spread else None)
    text = text.replace("\n", document.newline + before) if spread else text
    return text if node.kind == "sequence" else text[1:-1].strip()


def _flow(rendered: Document, node: Node) -> str:
    """A node in one line; scalars as they are spelled, so that undo finds their spelling again."""
    if node.kind == "mapping":
        entries = (f"{_flow(rendered, k)}: {_flow(rendered, v)}" for k, v in node.entries)
        return "{" + ", ".join(entries) + "}"
    if node.kind == "sequence":
        return "[" + ", ".join(_flow(rendered, item) for item in node.items) + "]"
    raw = rendered.text[node.start : node.end]
    if node.kind == "alias" or (node.style in ("'", '"') and "\n" not in raw):
        return raw
    return raw if _FLOW_PLAIN.match(raw) else quoted(node.value)


def _separator(document: Document, node: Node) -> str:
    """The comma between items of a flow collection, with the line break its neighbours have."""
    first = _parts(node)[0]
    start = document.line_start(first.start)
    before = document.text[start : first.start]
    return f",{document.newline}{before}" if start and not before.strip() else ", "


def insert_before(document: Document, node: Node, index: int, block: str) -> Edit | None:
    """Put an item before another one.

    Args:
        document: The document.
        node: The sequence or mapping.
        index: Which item the new one comes before; `len(items)` appends.
        block: The item as block YAML, unindented, its `-` included in a sequence.

    Returns:
        The edit, or None when the place is written in a way that leaves no room for it.
    """
    if index >= len(_parts(node)):
        return append_item(document, node, block)
    if node.flow:
        at = _parts(node)[index].start
        # The item's properties (anchor, tag) stand before its content.
        lead = re.search(r"(?:[&!][^\s,\[\]{}]*[ \t]+)*\Z", document.text[:at][-200:])
        at -= len(lead.group()) if lead else 0
        return Edit(at, at, _flow_item(document, node, block) + _separator(document, node))
    start = _block_line(document, node, index)
    if start is None:
        return None
    at = _dash(document, node, index) if node.kind == "sequence" else _parts(node)[index].start
    # Comments right above an item speak of that item; a scalar before it may hold such lines, too.
    floor = document.line_end(_part_end(node, index - 1) - 1) if index else node.start
    while start > floor:
        previous = document.line_start(start - 1)
        if previous < floor or not document.text[previous : start - 1].strip().startswith("#"):
            break
        start = previous
    return Edit(start, start, _indent(block, document.column(at), document.newline))


def _spaced(document: Document, node: Node, index: int) -> bool:
    """Whether a blank line, and it alone, parts an item of a block collection from the one before.

    What is appended is set apart likewise; undo asks the same of the items that remain.
    """
    if index < 1:
        return False
    start = _block_line(document, node, index)
    before = document.text[_part_end(node, index - 1) : start]
    return re.fullmatch(r"[ \t]*(?:#[^\n]*)?\r?\n[ \t]*\r?\n", before) is not None


def append_item(document: Document, node: Node, block: str) -> Edit | None:
    """Put an item after the last one; arguments and result as for `insert_before`."""
    count = len(_parts(node))
    if not count:
        return None
    end = _part_end(node, count - 1)
    if node.flow:
        return Edit(end, end, _separator(document, node) + _flow_item(document, node, block))
    first = _dash(document, node, 0) if node.kind == "sequence" else _parts(node)[0].start
    if node.kind == "mapping" and "?" in document.text[document.line_start(first) : first]:
        return None  # `? key` stands deeper than the mapping does.
    at = document.line_end(end - 1 if document.text[end - 1 : end] == "\n" else end)
    newline = document.newline
    lines = _indent(block, document.column(first), newline)
    if _spaced(document, node, count - 1):
        lines = newline + lines
    if document.text[at - 1 : at] != "\n":
        # No line break ends the file, and none shall end it afterwards.
        lines = newline + lines[: -len(newline)]
    return Edit(at, at, lines)


def remove_items(document: Document, node: Node, indices: list[int]) -> Iterator[Edit]:
    """Take out items that `insert_before` or `append_item` put there.

    Args:
        document: The document.
        node: The sequence or mapping.
        indices: The items, in order.

    Raises:
        InternalError: An item of a block collection shares its line with something else.
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    for run in runs:
        yield _remove_run(document, node, run[0], run[-1])


def _remove_run(document: Document, node: Node, first: int, last: int) -> Edit:
    part, end = _parts(node)[first], _part_end(node, last)
    if node.flow:
        if last + 1 < len(_parts(node)):
            return Edit(part.start, _parts(node)[last + 1].start, "")
        return Edit(_part_end(node, first - 1) if first else part.start, end, "")
    start = _block_line(document, node, first)
    if start is None:
        line, column = document.position(part.start)
        raise InternalError(
            "an injected item shares its line with something else",
            path=document.path,
            line=line,
            column=column,
            hint="Take it out by hand.",
        )
    stop = document.line_end(end - 1 if document.text[end - 1 : end] == "\n" else end)
    blank = re.search(r"\n\r?\n\Z", document.text[:start][-4:])
    if blank and last + 1 == len(_parts(node)) and _spaced(document, node, first - 1):
        start -= 2 if document.text[start - 2 : start] == "\r\n" else 1
    if stop == len(document.text) and not document.text.endswith("\n"):
        start -= 2 if document.text[start - 2 : start] == "\r\n" else 1
    return Edit(start, stop, "")
