"""A layer's tar stream, read as engines read it and written so that nydus-image reads the same.

nydus-image 2.2.0 fails on or, worse, misreads what engines take: of a path that is there twice it
makes a hard link to the file after it; a directory's header after its content does the same; it
ignores owners and times in PAX records, refuses global PAX headers and sparse files, and reads the
first member of a gzip stream only. So each entry is written again in the one way that it reads
rightly.
"""

from __future__ import annotations

from collections.abc import Callable

from lazyci.errors import ImageError
from lazyci.image.nydus.header import (
    BLOCK,
    FILE,
    HARD_LINK,
    Entry,
    convert,
    encode,
    is_read_alike,
)
from lazyci.image.nydus.order import FirstReading, Plan, SecondReading
from lazyci.image.tar import entry as tar_entry
from lazyci.image.tar.reader import TarReader

__all__ = ["OutOfOrderError", "TarFeed"]

MAX_ENTRIES = 10_000_000
# With the holes of sparse files, which the limit on unpacked layers does not see.
MAX_FILES = 1 << 40
_WRITE_AT = 1 << 16
_ZEROS = bytes(2 * BLOCK)


class OutOfOrderError(Exception):
    """The layer has a path twice, or a directory after its content: it takes a second reading."""


class TarFeed:
    """Reads a tar stream piece by piece and passes on its ordered form.

    Args:
        write: Takes the bytes of the ordered tar; called with views that do not stay valid. None:
            the layer is only looked at.
        plan: What the first reading found; None on the first.
    """

    def __init__(
        self, write: Callable[[bytes | memoryview], object] | None, plan: Plan | None = None
    ) -> None:
        # Whether nydus-image would read the stream as it is in the same way.
        self.verbatim = True
        self._sink = write
        self._reading = SecondReading(plan) if plan else FirstReading()
        self._reader = TarReader(self)
        self._out = bytearray()
        self._number = -1
        self._files = 0
        self._file: Entry | None = None  # its payload comes next
        self._missing = 0
        self._keep = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ImageError: They are no tar, or hold what no engine unpacks or nydus cannot carry.
        """
        self._reader.feed(data)

    def finish(self) -> None:
        """End of the tar: write what only its end decides.

        Raises:
            ImageError: It ends in the middle of an entry.
            OutOfOrderError: Nothing was lost, but it must be read again with `plan()`.
        """
        self._reader.finish()
        if not self._reading.in_order:
            raise OutOfOrderError
        self._emit(self._reading.end())
        self._write(_ZEROS)
        self._flush()

    def plan(self) -> Plan:
        """What a second reading needs to know."""
        return self._reading.plan()

    # What the reader finds.

    def entry(self, entry: tar_entry.Entry) -> None:
        """An entry begins."""
        self.verbatim = self.verbatim and is_read_alike(entry)
        if entry.type == "global":
            # It describes nothing: engines ignore it too.
            return
        self._number += 1
        self._files += entry.size
        if self._number >= MAX_ENTRIES or self._files > MAX_FILES:
            raise ImageError(f"the layer has over {MAX_ENTRIES} entries or {MAX_FILES} bytes")
        converted = convert(entry)
        write = self._reading.place(self._number, converted)
        self._emit(write)
        if converted.kind == HARD_LINK and write and write[-1] is not converted:
            self.verbatim = False
        if converted.kind == FILE:
            # A whiteout is written as an entry of its own, without data.
            self._keep = bool(write) and write[-1] is converted
            self._file, self._missing = converted, entry.size
            self._end_file()

    def payload(self, data: memoryview) -> None:
        """The next bytes of the file."""
        if self._keep:
            self._write(data)
        self._missing -= len(data)
        self._end_file()

    def padding(self, data: memoryview) -> None:
        """Padding is written with the file's end."""

    # Writing.

    def _end_file(self) -> None:
        if self._missing or self._file is None:
            return
        if self._keep:
            self._write(_ZEROS[: -self._file.size % BLOCK])
            self._emit(self._reading.after(self._number, self._file))
        self._file = None

    def _emit(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._write(encode(entry))

    def _write(self, data: bytes | memoryview) -> None:
        if self._sink is None or not self._reading.in_order:
            return
        if len(data) < _WRITE_AT:
            self._out += data
            if len(self._out) >= _WRITE_AT:
                self._flush()
            return
        self._flush()
        self._sink(data)

    def _flush(self) -> None:
        if self._out and self._sink is not None:
            self._sink(bytes(self._out))
            self._out.clear()
