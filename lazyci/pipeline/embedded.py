"""A shell script that stands in one or several YAML scalars."""

from __future__ import annotations

import bisect

from lazyci.document import Document, Node
from lazyci.pipeline.scalar import SourceMap, encode, source_map
from lazyci.pipeline.shell import Script, read_script
from lazyci.pipeline.splice import Edit

__all__ = ["EmbeddedScript"]


class EmbeddedScript:
    """One script; several scalars are joined by line breaks, as Buildkite's agent joins them.

    Args:
        document: The document.
        nodes: Its scalars, in order.
        buildkite: Whether the text is interpolated by `buildkite-agent pipeline upload`.

    Attributes:
        text: The script.
    """

    def __init__(self, document: Document, nodes: list[Node], *, buildkite: bool) -> None:
        self.document = document
        self.nodes = nodes
        self.buildkite = buildkite
        self.text = "\n".join(node.value for node in nodes)
        self._starts: list[int] = []
        offset = 0
        for node in nodes:
            self._starts.append(offset)
            offset += len(node.value) + 1
        self._maps: dict[int, SourceMap | None] = {}
        self._script: Script | None = None

    @property
    def script(self) -> Script:
        """The script as read."""
        if self._script is None:
            self._script = read_script(self.text, buildkite=self.buildkite)
        return self._script

    def _locate(self, offset: int) -> tuple[Node, SourceMap | None, int]:
        index = bisect.bisect_right(self._starts, offset) - 1
        if index not in self._maps:
            self._maps[index] = source_map(self.document, self.nodes[index])
        return self.nodes[index], self._maps[index], offset - self._starts[index]

    def position(self, offset: int) -> int:
        """Offset in the document of an offset in the script."""
        node, places, local = self._locate(offset)
        return places.before(local) if places and node.value else node.start

    def wrap(self, start: int, end: int, before: str, after: str) -> list[Edit] | None:
        """Edits that put text around script[start:end], or None when its place cannot be told."""
        node, places, first = self._locate(start)
        other, _, last = self._locate(end)
        if places is None or other is not node:
            return None
        opening, closing = places.before(first), places.after(last)
        return [
            Edit(opening, opening, encode(before, node.style)),
            Edit(closing, closing, encode(after, node.style)),
        ]

    def cut(self, start: int, end: int) -> Edit | None:
        """The edit that takes script[start:end] out, or None when its place cannot be told."""
        node, places, first = self._locate(start)
        other, _, last = self._locate(end)
        if places is None or other is not node:
            return None
        return Edit(places.before(first), places.after(last), "")
