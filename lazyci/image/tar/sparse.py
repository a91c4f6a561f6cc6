"""Sparse files in tar archives: where their data lies, and the holes filled with zeros.

Formats: GNU tar manual, "Storing Sparse Files": the old GNU format, and PAX 0.0, 0.1 and 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from lazyci.errors import ImageError
from lazyci.image.tar.numeral import number
from lazyci.image.tar.pax import decimal

if TYPE_CHECKING:
    from lazyci.image.tar.entry import Entry

__all__ = ["Expander", "GnuMap", "MapReader", "pax_map"]

_ZEROS = memoryview(bytes(1 << 20))


class MapReader(Protocol):
    """A sparse map while it is read, in blocks of 512 bytes.

    Attributes:
        done: Whether the map is complete.
        read: Bytes of map blocks read.
        inside: Whether these blocks count as the entry's payload.
        pairs: Offset and length of each stretch of data.
        size: Of the file with its holes.
    """

    done: bool
    read: int
    inside: bool
    pairs: list[tuple[int, int]]
    size: int

    def feed(self, block: bytes) -> None:
        """Take the next block."""


class GnuMap:
    """The map of the old GNU format, in the header and in blocks that follow it."""

    inside = False

    def __init__(self, header: bytes) -> None:
        self.pairs: list[tuple[int, int]] = []
        self.read = 0
        self.size = number(header[483:495])
        self._take(header[386:482])
        self.done = not header[482]

    def feed(self, block: bytes) -> None:
        self.read += len(block)
        self._take(block[:504])
        self.done = not block[504]

    def _take(self, area: bytes) -> None:
        for at in range(0, len(area), 24):
            if not area[at]:
                break
            self.pairs.append((number(area[at : at + 12]), number(area[at + 12 : at + 24])))


class _Known:
    """A map that the PAX records hold."""

    inside = False
    done = True
    read = 0

    def __init__(self, numbers: list[bytes], size: int) -> None:
        values = [decimal(value) for value in numbers]
        if len(values) % 2:
            raise ImageError("the map of a sparse file is malformed")
        self.pairs = list(zip(values[::2], values[1::2], strict=True))
        self.size = size

    def feed(self, block: bytes) -> None:
        """Never called: the map is complete."""


class _Inside:
    """The map of PAX 1.0, at the start of the payload: decimal numbers, one in a line."""

    inside = True

    def __init__(self, size: int) -> None:
        self.done = False
        self.read = 0
        self.size = size
        self.pairs: list[tuple[int, int]] = []
        self._text = b""
        self._numbers: list[int] = []

    def feed(self, block: bytes) -> None:
        self.read += len(block)
        *lines, self._text = (self._text + block).split(b"\n")
        for line in lines:
            if self._numbers and len(self._numbers) == 1 + 2 * self._numbers[0]:
                break
            self._numbers.append(decimal(line))
            if not 0 <= self._numbers[0] < 1 << 20:
                raise ImageError("the map of a sparse file is malformed")
        if self._numbers and len(self._numbers) == 1 + 2 * self._numbers[0]:
            self.done = True
            self.pairs = list(zip(self._numbers[1::2], self._numbers[2::2], strict=True))
        elif len(self._text) > 20:
            raise ImageError("the map of a sparse file is malformed")


def pax_map(entry: Entry, records: dict[bytes, bytes], repeated: list[bytes]) -> MapReader | None:
    """The map that an entry's PAX records announce, or None when it is not sparse.

    The records may give the entry its true name.
    """
    version = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
    if version == (b"1", b"0"):
        size = records.get(b"GNU.sparse.realsize", b"")
    elif version in ((None, None), (b"0", b"0"), (b"0", b"1")):
        size = records.get(b"GNU.sparse.size", b"")
    else:
        return None
    name = records.get(b"GNU.sparse.name", b"")
    if name:
        entry.name = name.decode("utf-8", "surrogateescape")
    real = decimal(size) if size else entry.stored
    if version == (b"1", b"0"):
        return _Inside(real)
    listed = records.get(b"GNU.sparse.map")
    numbers = repeated if listed is None else listed.split(b",") if listed else []
    return _Known(numbers, real)


class Expander:
    """Turns the stored bytes of a sparse file into the file, holes and all.

    Describes the entry anew: its size is the file's from now on.

    Raises:
        ImageError: The map contradicts itself or the entry's size.
    """

    def __init__(self, entry: Entry, found: MapReader) -> None:
        if found.inside:
            entry.stored -= found.read
        end = total = 0
        for offset, length in found.pairs:
            if length < 0 or offset < end:
                raise ImageError(f"the map of a sparse file is malformed: {entry.name[:200]!r}")
            end = offset + length
            total += length
        if end > found.size or total != entry.stored:
            raise ImageError(f"the map of a sparse file is wrong: {entry.name[:200]!r}")
        entry.sparse = True
        entry.size = found.size
        self.size = found.size
        self._pairs = iter([pair for pair in found.pairs if pair[1]])
        self._at = 0
        self._until = 0

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """The file's next bytes, from stored ones."""
        while data:
            if self._at == self._until:
                offset, length = next(self._pairs)
                yield from self._zeros(offset)
                self._until = offset + length
            piece = data[: self._until - self._at]
            self._at += len(piece)
            yield piece
            data = data[len(piece) :]

    def finish(self) -> Iterator[memoryview]:
        """The hole at the end, if there is one."""
        return self._zeros(self.size)

    def _zeros(self, until: int) -> Iterator[memoryview]:
        while self._at < until:
            piece = _ZEROS[: until - self._at]
            self._at += len(piece)
            yield piece
