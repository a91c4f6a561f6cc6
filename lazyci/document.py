"""YAML (and JSON, its subset) read into nodes that know their place in the text.

Nothing is ever written back from these nodes: they only say where to cut. The events come from
libyaml, which Buildkite's agent descends from, too; PyYAML brings it. What that parser of YAML 1.1
refuses is read again by ruamel.yaml's, which knows YAML 1.2 and is about twenty times as slow.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from lazyci.errors import InputError

__all__ = [
    "MAX_CHARACTERS",
    "MAX_DATA",
    "MAX_DEPTH",
    "Document",
    "Node",
    "Verbatim",
    "decode",
    "parse",
    "to_data",
]

# Generators print up to some MB (500 jobs a Buildkite upload); beyond this it is no pipeline.
MAX_CHARACTERS = 32 * 1024 * 1024
# Values are copied into steps: agents, a matrix, a login. None comes near this.
MAX_DATA = 20_000
# The deepest of the public pipelines that we know nests 14 levels.
MAX_DEPTH = 200

# The longest text that is read a second time when libyaml refuses it.
_SECOND_READING = 4_000_000
_MERGE = "<<"
# A node's properties: tag and anchor, in either order, before its content.
_PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*(?:[ \t]+|(?=[\r\n]|$)))+")

_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?\Z")
# Numbers of other forms, and YAML 1.1's further words for true and false.
_DISPUTED = re.compile(r"(?:[-+.]?[0-9][0-9A-Za-z_.,:+-]*|(?i:y|n|yes|no|on|off))\Z")

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
                if name.kind == "scalar" and name.value != _MERGE:
                    result[name.value] = (name, value)
            for name, value in node.entries:
                if name.kind == "scalar" and name.value == _MERGE:
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


def decode(data: bytes, path: str) -> str:
    """Bytes of a file as text, a byte order mark kept.

    Raises:
        InputError: They are not UTF-8, or too many.
    """
    if len(data) > 4 * MAX_CHARACTERS:
        raise _too_large(len(data), path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise InputError(
            f"byte {data[error.start]:#04x} is not UTF-8",
            path=path,
            line=line,
            column=column,
            hint="Save the file as UTF-8.",
        ) from None


def _too_large(size: int, path: str) -> InputError:
    return InputError(
        f"{size / 1e6:.1f} MB; lazyci reads pipelines of up to {MAX_CHARACTERS / 1e6:.1f} MB",
        path=path,
        line=1,
        column=1,
        hint="Is this the right file?",
    )


def parse(text: str, path: str = "<text>") -> Document:
    """Read one YAML document.

    Args:
        text: The text, without a byte order mark.
        path: The name of the file, for messages.

    Raises:
        InputError: The text is not YAML, holds several documents or duplicate keys, nests more
            than `MAX_DEPTH` levels, or is longer than `MAX_CHARACTERS`.
    """
    if len(text) > MAX_CHARACTERS:
        raise _too_large(len(text), path)
    if "\r" in text:
        lone = re.search(r"\r(?!\n)", text)
        if lone:
            raise _Composer(text, path).error(
                "a carriage return without a line feed", lone.start(), "Save it with LF or CRLF."
            )
    return _Composer(text, path).compose()


class Verbatim(str):
    """A plain scalar whose type readers disagree about, such as `0123`; it is copied as it is."""

    __slots__ = ()


def to_data(node: Node) -> Any:
    """A node as plain data by YAML 1.2's core schema, merge keys resolved.

    Raises:
        InputError: Aliases make it more than `MAX_DATA` nodes.
    """
    return _Data().read(node)


class _Data:
    def __init__(self) -> None:
        self.count = 0

    def read(self, node: Node) -> Any:
        self.count += 1
        if self.count > MAX_DATA:
            raise InputError(f"aliases make more than {MAX_DATA} nodes of one value")
        node = node.real
        if node.kind == "mapping":
            return {key: self.read(value) for key, (_, value) in node.effective().items()}
        if node.kind == "sequence":
            return [self.read(item) for item in node.items]
        return node.value if node.style else _plain(node.value)


def _plain(value: str) -> Any:
    if value in ("", "~", "null", "Null", "NULL"):
        return None
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    if _INT.match(value):
        return int(value) if len(value) < 19 and str(int(value)) == value else Verbatim(value)
    if _FLOAT.match(value):
        return float(value) if repr(float(value)) == value else Verbatim(value)
    return Verbatim(value) if _DISPUTED.match(value) else value


def _libyaml(text: str) -> Iterator[Any]:
    # Without libyaml PyYAML still has its own parser, slower and otherwise alike.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return iter(yaml.parse(text, Loader=loader))


class _Composer:
    """Builds nodes from events with a stack of its own, so that no nesting exhausts Python's."""

    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.path = path
        self.anchors: dict[str, Node] = {}
        self.shared: set[int] = set()

    def error(self, message: str, offset: int, hint: str = "") -> InputError:
        line = self.text.count("\n", 0, offset) + 1
        column = offset - self.text.rfind("\n", 0, offset)
        return InputError(message, path=self.path, line=line, column=column, hint=hint)

    def compose(self) -> Document:
        try:
            root = self._compose(_libyaml(self.text))
        except yaml.YAMLError as error:
            root = self.second_reading(error)
        except UnicodeEncodeError as error:
            raise self.error("a lone surrogate is not text", error.start) from None
        return Document(self.text, root, self.path, self.shared)

    def second_reading(self, first: yaml.YAMLError) -> Node:
        # Bounded: a file of many MB that one parser refuses is not worth a minute of the other.
        if len(self.text) <= _SECOND_READING:
            from ruamel.yaml import YAML
            from ruamel.yaml.error import YAMLError

            self.anchors.clear()
            self.shared.clear()
            try:
                return self._compose(YAML(typ="safe", pure=True).parse(self.text))
            except YAMLError:
                pass
        raise self.explain(first)

    def explain(self, error: yaml.YAMLError) -> InputError:
        if isinstance(error, yaml.MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            problem = error.problem or error.context or "not YAML"
            at = min(mark.index, len(self.text)) if mark else 0
            return self.error(f"not YAML: {problem}", at)
        # libyaml counts its reader's position in bytes.
        position = getattr(error, "position", 0) or 0
        before = self.text.encode()[:position].decode(errors="ignore")
        return self.error(f"not YAML: {getattr(error, 'reason', error)}", len(before))

    def _compose(self, events: Iterable[Any]) -> Node:
        root: Node | None = None
        stack: list[tuple[Node, list[Node]]] = []
        documents = 0
        for event in events:
            # By name: the two parsers have classes of their own.
            kind = type(event).__name__
            if kind == "ScalarEvent":
                node = self.scalar(event)
            elif kind in ("MappingStartEvent", "SequenceStartEvent"):
                if len(stack) >= MAX_DEPTH:
                    raise self.error(f"more than {MAX_DEPTH} levels deep", event.start_mark.index)
                stack.append((self.collection(event, kind == "MappingStartEvent"), []))
                continue
            elif kind in ("MappingEndEvent", "SequenceEndEvent"):
                node, parts = stack.pop()
                self.finish(node, parts, event.end_mark.index)
            elif kind == "AliasEvent":
                node = self.alias(event)
            else:
                documents += kind == "DocumentStartEvent"
                if documents > 1:
                    raise self.error(
                        "several YAML documents in one file",
                        event.start_mark.index,
                        "A pipeline is one document; split the file at `---`.",
                    )
                continue
            if stack:
                stack[-1][1].append(node)
            else:
                root = node
        if root is None:
            raise self.error("the file is empty", 0)
        return root

    def content_start(self, event: Any) -> int:
        start: int = event.start_mark.index
        if event.anchor is not None or event.tag is not None:
            found = _PROPERTIES.match(self.text, start)
            if found:
                start = found.end()
        return start

    def remember(self, node: Node) -> Node:
        if node.anchor is not None:
            self.anchors[node.anchor] = node
        return node

    def scalar(self, event: Any) -> Node:
        start, end = self.content_start(event), event.end_mark.index
        style = event.style or ""
        if style in ("|", ">"):
            end = self.block_scalar_end(start, end)
        node = Node("scalar", min(start, end), end, event.value, style, anchor=event.anchor)
        return self.remember(node)

    def block_scalar_end(self, start: int, end: int) -> int:
        raw = self.text[start:end]
        if "+" in raw.partition("\n")[0].partition("#")[0]:
            return start + len(raw.rstrip(" "))
        return start + len(raw.rstrip())

    def collection(self, event: Any, mapping: bool) -> Node:
        kind: Kind = "mapping" if mapping else "sequence"
        start = self.content_start(event)
        # The end is not known yet; until then -1 marks the collection as open.
        node = Node(kind, start, -1, flow=bool(event.flow_style), anchor=event.anchor)
        return self.remember(node)

    def alias(self, event: Any) -> Node:
        at = event.start_mark.index
        target = self.anchors.get(event.anchor)
        if target is None:
            raise self.error(f"alias *{event.anchor} has no anchor above it", at)
        if target.kind != "scalar" and target.end < 0:
            raise self.error(f"alias *{event.anchor} stands inside what it names", at)
        self.shared.add(id(target))
        return Node("alias", at, event.end_mark.index, target=target)

    def finish(self, node: Node, parts: list[Node], end: int) -> None:
        if node.flow:
            node.end = end
        else:
            node.end = max((part.end for part in parts), default=node.start)
            if parts and node.kind == "mapping":
                node.start = parts[0].start
        if node.kind == "sequence":
            node.items = parts
            return
        node.entries = list(zip(parts[::2], parts[1::2], strict=True))
        seen: set[str] = set()
        for key, _ in node.entries:
            # Merge keys repeat in real files; the clients take them all.
            if key.kind == "scalar" and key.value != _MERGE:
                if key.value in seen:
                    raise self.error(
                        f"key {key.value!r} stands twice in one mapping",
                        key.start,
                        "Clients differ in which one they take; remove one.",
                    )
                seen.add(key.value)
