"""YAML, and JSON as its subset, read into nodes.

The events come from libyaml, which the parser of Buildkite's agent descends from, too; PyYAML
brings it. What that parser of YAML 1.1 refuses is read again by ruamel.yaml's, which knows YAML
1.2 and is slower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from lazyci.document import MAX_DEPTH, MERGE, Document, Kind, Node
from lazyci.errors import InputError

__all__ = ["MAX_CHARACTERS", "decode", "parse"]

# Generators print up to some MB (500 jobs a Buildkite upload); beyond this it is no pipeline.
MAX_CHARACTERS = 32 * 1024 * 1024
# The longest text that is read a second time when libyaml refuses it.
_SECOND_READING = 4_000_000
# A node's properties: tag and anchor, in either order, before its content.
_PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*(?:[ \t]+|(?=[\r\n]|$)))+")


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
            if key.kind == "scalar" and key.value != MERGE:
                if key.value in seen:
                    raise self.error(
                        f"key {key.value!r} stands twice in one mapping",
                        key.start,
                        "Clients differ in which one they take; remove one.",
                    )
                seen.add(key.value)
