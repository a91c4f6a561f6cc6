"""Where each character of a scalar's value stands in the text, and how to write one there.

The presentation rules are those of YAML 1.2.2, chapters 7.3 (flow scalars) and 8.1 (block
scalars). Nothing here is trusted: a map is used only when it yields exactly the value that the
parser read.
"""

from __future__ import annotations

import json
import re

from lazyci.document import Document, Node

__all__ = ["SourceMap", "encode", "is_plain_in_block", "plain_or_quoted", "quoted", "source_map"]

_BREAK = re.compile(r"\r\n|\r|\n")
_ESCAPES = dict(
    zip('0abt\tnvfre "/\\N_LP', '\0\a\b\t\t\n\v\f\r\x1b "/\\\x85\xa0\u2028\u2029', strict=True)
)
_HEX = {"x": 2, "u": 4, "U": 8}
# What may be written plain in any context without a second look.
_SAFE_PLAIN = re.compile(r"[A-Za-z_./$][A-Za-z0-9_./$@+-]*(?:[: ][A-Za-z0-9_./$@+-]+)*\Z")
_NOT_TEXT = re.compile(r"(?i)(?:true|false|yes|no|on|off|null|y|n|~|\.nan|[-+]?\.inf|0x.*|0o.*)\Z")


class SourceMap:
    """Places of a value's characters.

    Attributes:
        characters: The value, one character an item.
        starts: Offset in the text at which each character of the value begins.
        ends: Offset in the text after each character.
    """

    __slots__ = ("characters", "ends", "starts")

    def __init__(self) -> None:
        self.characters: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, character: str, start: int, end: int) -> None:
        self.characters.append(character)
        self.starts.append(start)
        self.ends.append(end)

    @property
    def value(self) -> str:
        """The value that was read."""
        return "".join(self.characters)

    def before(self, index: int) -> int:
        """Offset at which text must be inserted to stand before value[index]."""
        return self.starts[index] if index < len(self.starts) else self.after(index)

    def after(self, index: int) -> int:
        """Offset at which text must be inserted to stand after value[index - 1]."""
        return self.ends[index - 1]


def source_map(document: Document, node: Node) -> SourceMap | None:
    """The places of a scalar's characters, or None when they cannot be told."""
    if node.style in ("|", ">"):
        return _block(document, node)
    result = _Flow(document.text, node).read()
    return result if result.value == node.value else None


def _lines(text: str, start: int, end: int) -> list[tuple[int, int, int]]:
    """Start, end and end with its break of each line of a range."""
    result = []
    for found in _BREAK.finditer(text, start, end):
        result.append((start, found.start(), found.end()))
        start = found.end()
    result.append((start, end, end))
    return result


def _block(document: Document, node: Node) -> SourceMap | None:
    text = document.text
    header_end = document.line_end(node.start)
    # The value may end in line breaks that lie after the last character of content.
    lines = _lines(text, header_end, _blank_end(text, node.end))
    widths = [
        len(text[a:b]) - len(text[a:b].lstrip(" ")) for a, b, _ in lines if text[a:b].strip(" ")
    ]
    if not widths:
        return None
    read = _literal if node.style == "|" else _folded
    for indent in range(widths[0], 0, -1):
        found = read(text, lines, indent)
        value = found.value
        # Chomping drops line breaks at the end.
        if value.startswith(node.value) and not value[len(node.value) :].strip("\n"):
            return found
    return None


def _blank_end(text: str, end: int) -> int:
    found = re.compile(r"(?:[ ]*(?:\r\n|\r|\n))*").match(text, end)
    return found.end() if found else end


def _literal(text: str, lines: list[tuple[int, int, int]], indent: int) -> SourceMap:
    result = SourceMap()
    for start, end, after in lines:
        for offset in range(min(start + indent, end), end):
            result.add(text[offset], offset, offset + 1)
        result.add("\n", end, after)
    return result


def _folded(text: str, lines: list[tuple[int, int, int]], indent: int) -> SourceMap:
    result = SourceMap()
    previous_more = False
    pending: list[tuple[int, int]] = []
    seen = False
    for start, end, after in lines:
        start = min(start + indent, end)
        content = text[start:end]
        if not content:
            pending.append((end, after))
            continue
        more = content[0] in " \t"
        if pending:
            # A single break folds to a space; n breaks to n - 1, unless a line is indented more.
            keep = pending if (more or previous_more or not seen) else pending[1:]
            if keep:
                for a, b in keep:
                    result.add("\n", a, b)
            else:
                result.add(" ", pending[0][0], pending[0][1])
        for offset in range(start, end):
            result.add(text[offset], offset, offset + 1)
        pending = [(end, after)]
        previous_more, seen = more, True
    for a, b in pending:
        result.add("\n", a, b)
    return result


class _Flow:
    """Reads plain, single-quoted and double-quoted scalars."""

    def __init__(self, text: str, node: Node) -> None:
        self.text = text
        self.style = node.style
        self.offset = node.start + (1 if node.style else 0)
        self.stop = node.end - (1 if node.style else 0)
        self.result = SourceMap()

    def read(self) -> SourceMap:
        while self.offset < self.stop:
            character = self.text[self.offset]
            if character in " \t\r\n":
                self.white()
            elif self.style == '"' and character == "\\":
                self.escape()
            elif self.style == "'" and character == "'":
                self.take("'", 2)
            else:
                self.take(character, 1)
        return self.result

    def take(self, character: str, width: int) -> None:
        self.result.add(character, self.offset, self.offset + width)
        self.offset += width

    def white(self) -> None:
        start = self.offset
        end = start
        while end < self.stop and self.text[end] in " \t\r\n":
            end += 1
        breaks = list(_BREAK.finditer(self.text, start, end))
        if not breaks:
            for _ in range(end - start):
                self.take(self.text[self.offset], 1)
            return
        # Blanks around breaks do not count; one break is a space, n breaks are n - 1 breaks.
        if len(breaks) == 1:
            self.result.add(" ", start, end)
        for found in breaks[1:]:
            self.result.add("\n", found.start(), found.end())
        self.offset = end

    def escape(self) -> None:
        following = self.text[self.offset + 1 : self.offset + 3]
        code = following[:1]
        if code in ("\r", "\n"):
            # An escaped break joins the lines; the next line's leading blanks do not count.
            end = self.offset + (3 if following == "\r\n" else 2)
            while end < self.stop and self.text[end] in " \t":
                end += 1
            self.offset = end
        elif code in _HEX:
            width = 2 + _HEX[code]
            self.take(chr(int(self.text[self.offset + 2 : self.offset + width], 16)), width)
        else:
            self.take(_ESCAPES.get(code, ""), 2)


def encode(value: str, style: str) -> str:
    """Text to insert into a scalar of a style so that it reads as `value`, one line long."""
    if style == '"':
        return quoted(value)[1:-1]
    if style == "'":
        return value.replace("'", "''")
    return value


def quoted(value: str) -> str:
    """A scalar in double quotes, which JSON readers take, too."""
    return json.dumps(value, ensure_ascii=False)


def is_plain_in_block(value: str) -> bool:
    """Whether a text may stand unquoted as the value of a key in block style."""
    return bool(
        re.match(r"[A-Za-z_./$]", value)
        and value.isprintable()
        and not re.search(r":(?:\s|\Z)|\s#|\s\Z", value)
        and not _NOT_TEXT.match(value)
    )


def plain_or_quoted(value: str) -> str:
    """A scalar of its own that every YAML and JSON reader takes for this very text."""
    if _SAFE_PLAIN.match(value) and not _NOT_TEXT.match(value):
        return value
    if '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return quoted(value)
