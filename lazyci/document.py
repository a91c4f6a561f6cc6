"""A text and its YAML nodes, which know their place in it.

Nothing is ever written back from the nodes: they only say where to cut.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from lazyci.errors import InputError

__all__ = ["MAX_DEPTH", "MERGE", "Document", "Kind", "Node"]

# Far deeper than any pipeline; it bounds the work on hostile ones.
MAX_DEPTH = 200
MERGE = "<<"

Kind = Literal["scalar", "mapping", "sequence", "alias"]


@dataclass(slots=True, eq=False)
class Node:
    """One YAML node and its place.

    Attributes:
        kind: `scalar`, `mapping`, `sequence` or `alias`.
        start: Offset of the first character of its content, properties left out.
        end: Offset after its last character; no trailing blank lines or comments.
        value: The value of a scalar, as text.
        style: `''` (plain), `'`, `"`, `|` or `>`.
        flow: Whether a collection is written with brackets.
        entries: Keys and values of a mapping, in order, merge keys unresolved.
        items: Items of a sequence.
        anchor: The name after `&`, or None.
        target: What an alias stands for.
    """

    kind: Kind
    start: int
    end: int
    value: str = ""
    style: str = ""
    flow: bool = False
    entries: list[tuple[Node, Node]] = field(default_factory=list)
    items: list[Node] = field(default_factory=list)
    anchor: str | None = None
    target: Node | None = None
    _effective: dict[str, tuple[Node, Node]] | None = None

    @property
    def real(self) -> Node:
        """The node itself, or what the alias stands for."""
        return self.target if self.target is not None else self

    def own(self, key: str) -> tuple[Node, Node] | None:
        """The entry written in this very mapping, merge keys left out."""
        for name, value in self.entries:
            if name.kind == "scalar" and name.value == key:
                return name, value
        return None

    def effective(self, depth: int = 0) -> dict[str, tuple[Node, Node]]:
        """Keys to entries with merge keys resolved; the value of an entry may be an alias.

        Raises:
            InputError: Merge keys lead through more than `MAX_DEPTH` mappings.
        """
        if depth > MAX_DEPTH:
            raise InputError(f"merge keys lead through more than {MAX_DEPTH} mappings")
        node = self.real
        if node.kind != "mapping":
            return {}
        if node._effective is None:
            node._effective = result = {}
            for name, value in node.entries:
                if name.kind == "scalar" and name.value != MERGE:
                    result[name.value] = (name, value)
            for name, value in node.entries:
                if name.kind == "scalar" and name.value == MERGE:
                    for source in value.real.items or [value]:
                        for key, entry in source.effective(depth + 1).items():
                            result.setdefault(key, entry)
        return node._effective

    def get(self, key: str) -> Node | None:
        """The value of a key, merge keys and aliases resolved, or None."""
        entry = self.effective().get(key)
        return entry[1].real if entry else None

    def first(self, *keys: str) -> Node | None:
        """The value of the first of these keys that is there."""
        for key in keys:
            found = self.get(key)
            if found is not None:
                return found
        return None

    def text(self, *keys: str) -> str:
        """The scalar value of the first of these keys that has one, or an empty text."""
        found = self.first(*keys)
        return found.value if found is not None and found.kind == "scalar" else ""

    def children(self) -> Iterator[Node]:
        """The items of a sequence, aliases resolved; nothing for other nodes."""
        for item in self.real.items:
            yield item.real

    def strings(self) -> list[Node]:
        """The scalar itself, or the scalars of a sequence."""
        node = self.real
        if node.kind == "scalar":
            return [node]
        return [item for item in node.children() if item.kind == "scalar"]

    @property
    def is_true(self) -> bool:
        """Whether a scalar is one of YAML's spellings of true (1.1 and 1.2, or a string)."""
        return self.kind == "scalar" and self.value.lower() in ("true", "yes", "on", "1", "y")


@dataclass(slots=True, eq=False)
class Document:
    """A text and its nodes.

    Attributes:
        text: The text without a byte order mark.
        root: Its root node.
        path: The name of the file, for messages.
        shared: Nodes with an anchor that an alias uses.
    """

    text: str
    root: Node
    path: str
    shared: set[int]
    _lines: list[int] | None = None
    _json: bool | None = None

    @property
    def is_json(self) -> bool:
        """Whether the text is JSON, so that what is added to it must be, too."""
        if self._json is None:
            try:
                self._json = self.root.flow and json.loads(self.text) is not None
            except ValueError:
                self._json = False
        return self._json

    @property
    def newline(self) -> str:
        """The line break of the first line, which added lines get, too."""
        end = self.text.find("\n")
        return "\r\n" if self.text[max(end - 1, 0) : end] == "\r" else "\n"

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both counted from 1."""
        if self._lines is None:
            self._lines = [0, *(m.end() for m in re.finditer("\n", self.text))]
        line = bisect.bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def line_start(self, offset: int) -> int:
        """Offset of the first character of the line that holds `offset`."""
        return self.text.rfind("\n", 0, offset) + 1

    def line_end(self, offset: int) -> int:
        """Offset after the line break of the line that holds `offset`, or the text's end."""
        found = self.text.find("\n", offset)
        return len(self.text) if found < 0 else found + 1

    def column(self, offset: int) -> int:
        """Number of characters before `offset` on its line."""
        return offset - self.line_start(offset)

    def is_shared(self, node: Node) -> bool:
        """Whether an alias elsewhere stands for this node."""
        return id(node) in self.shared
