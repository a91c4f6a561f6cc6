"""Tar archives read while they arrive, with all bytes of each header kept.

Formats: V7, POSIX ustar and PAX (POSIX.1-2001, pax), GNU (GNU tar manual, "Basic Tar Format").
Where implementations differ this follows Go's archive/tar, with which the engines unpack:
global PAX headers describe nothing, ustar prefixes count in ustar archives only.
"""

from __future__ import annotations

import struct
from typing import Protocol

from lazyci.errors import ImageError
from lazyci.image.tar import sparse
from lazyci.image.tar.entry import BLOCK, Entry
from lazyci.image.tar.numeral import number
from lazyci.image.tar.pax import apply_records, decimal, parse_records

__all__ = ["MAX_META", "TarEvents", "TarReader"]

# The largest long name, PAX header or sparse map, in bytes: what Go reads, and so the engines.
MAX_META = 1 << 20
# All of them together, in a layer: readers keep most of what they say. A million files with two
# attributes each need a third of it.
MAX_ALL_META = 256 << 20

_ZERO_BLOCK = bytes(BLOCK)
# POSIX ustar: name, mode, uid, gid, size, mtime, chksum, typeflag, linkname, magic and version,
# uname, gname, devmajor, devminor, prefix.
_unpack = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x").unpack
_USTAR, _GNU, _STAR_END = b"ustar\0", b"ustar  \0", b"tar\0"
_TYPES = {
    b"\0": "reg",
    b"0": "reg",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
    b"7": "reg",  # contiguous
    b"S": "reg",  # GNU sparse
}
_META = frozenset((b"x", b"g", b"L", b"K"))


class TarEvents(Protocol):
    """Takes what a TarReader reads, in the order of the archive."""

    def entry(self, entry: Entry) -> None:
        """An entry begins. Its payload follows when it is a regular file."""

    def payload(self, data: memoryview) -> None:
        """The next bytes of the file, never none; holes of sparse files come as zeros."""

    def padding(self, data: memoryview) -> None:
        """The next bytes after the file that fill its last block."""


class TarReader:
    """Reads a tar archive that is fed to it in pieces of any size.

    What follows the end-of-archive mark is passed over; the mark may be missing, and so may the
    padding of the last file.
    """

    def __init__(self, events: TarEvents) -> None:
        self._events = events
        self._partial = bytearray()  # less than a block
        self._raw: list[bytes] = []  # header blocks of the entry that is being read
        self._need = 0  # bytes of payload to come, of an entry or of a long name or PAX header
        self._pad = 0  # bytes of padding to come
        self._meta: bytearray | None = None  # the payload of a long name or PAX header
        self._meta_type = b""
        self._meta_size = 0
        self._all_meta = 0
        self._long_name = b""
        self._long_link = b""
        self._records: dict[bytes, bytes] = {}
        self._repeated: list[bytes] = []
        self._entry: Entry | None = None  # a sparse one
        self._map: sparse.MapReader | None = None
        self._file: sparse.Expander | None = None
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ImageError: They are no tar archive, or contradict themselves.
        """
        view = memoryview(data)
        at, size = 0, len(view)
        while at < size and not self._ended:
            if self._need:
                used = min(self._need, size - at)
                self._need -= used
                self._body(view[at : at + used])
            elif self._pad:
                used = min(self._pad, size - at)
                self._pad -= used
                if self._file is None:
                    self._events.padding(view[at : at + used])
                elif not self._pad:
                    self._file = None
            elif not self._partial and size - at >= BLOCK:
                used = BLOCK
                self._block(bytes(view[at : at + BLOCK]))
            else:
                used = min(BLOCK - len(self._partial), size - at)
                self._partial += view[at : at + used]
                if len(self._partial) == BLOCK:
                    block = bytes(self._partial)
                    self._partial.clear()
                    self._block(block)
            at += used

    def finish(self) -> None:
        """End of the archive.

        Raises:
            ImageError: It ends in the middle of an entry.
        """
        if self._ended:
            return
        if self._partial or self._need or self._raw:
            raise ImageError("the layer's tar archive ends in the middle of an entry")
        if self._pad and self._file is None:
            self._events.padding(memoryview(_ZERO_BLOCK)[: self._pad])
        self._ended = True

    def _block(self, block: bytes) -> None:
        if self._map is not None:
            self._raw.append(block)
            self._map.feed(block)
            self._go_on_with_map(self._map)
        elif block != _ZERO_BLOCK:
            self._header(block)
        elif self._raw:
            raise ImageError("the layer's tar archive ends after the header of a long name")
        else:
            self._ended = True

    def _header(self, block: bytes) -> None:
        fields = _unpack(block)
        _check_sum(block, number(fields[6]))
        typeflag = fields[7]
        self._raw.append(block)
        if typeflag in _META:
            self._begin_meta(typeflag, number(fields[4]))
            return
        kind = _TYPES.get(typeflag)
        if kind is None:
            raise ImageError(f"a tar entry has the type {typeflag!r}, which no engine unpacks")
        entry = Entry(kind, _name(fields, block), number(fields[4]), number(fields[1]))
        _describe(entry, fields)
        if self._records:
            apply_records(entry, self._records)
            if self._records.get(b"size"):
                entry.size = decimal(self._records[b"size"])
        if self._long_name:
            entry.name = _text(self._long_name)
        if self._long_link:
            entry.linkname = _text(self._long_link)
        if typeflag == b"\0" and entry.name.endswith("/"):
            entry.type = "dir"
        if entry.size < 0:
            raise ImageError(f"a tar entry has the size {entry.size}: {entry.name[:200]!r}")
        # Some archivers give links and folders a size; they never have a payload.
        entry.size = entry.stored = entry.size if entry.type == "reg" else 0
        found = self._find_map(entry, typeflag, block)
        if found is None:
            self._begin(entry)
        else:
            self._entry, self._map = entry, found
            self._go_on_with_map(found)

    def _find_map(self, entry: Entry, typeflag: bytes, block: bytes) -> sparse.MapReader | None:
        if typeflag == b"S":
            return sparse.GnuMap(block)
        records = self._records
        if (
            records
            and entry.type == "reg"
            and (self._repeated or b"GNU.sparse.map" in records or b"GNU.sparse.major" in records)
        ):
            return sparse.pax_map(entry, records, self._repeated)
        return None

    def _go_on_with_map(self, found: sparse.MapReader) -> None:
        """Begin a sparse entry when its map is complete."""
        entry = self._entry
        assert entry is not None
        if found.done:
            self._entry = self._map = None
            self._file = sparse.Expander(entry, found)
            self._begin(entry)
        elif found.read > MAX_META or (found.inside and found.read >= entry.stored):
            raise ImageError(f"the map of a sparse file does not end: {entry.name[:200]!r}")

    def _begin(self, entry: Entry) -> None:
        raw = self._raw
        entry.raw = raw[0] if len(raw) == 1 else b"".join(raw)
        self._raw = []
        self._long_name = self._long_link = b""
        if self._records:
            self._records = {}
            self._repeated = []
        self._events.entry(entry)
        self._need = entry.stored
        self._pad = -entry.stored % BLOCK
        if self._file is not None and not self._need:
            self._end_sparse(self._file)

    def _body(self, data: memoryview) -> None:
        if self._meta is not None:
            self._meta += data
            if not self._need:
                self._end_meta(self._meta)
        elif self._file is not None:
            for piece in self._file.feed(data):
                self._events.payload(piece)
            if not self._need:
                self._end_sparse(self._file)
        else:
            self._events.payload(data)

    def _end_sparse(self, file: sparse.Expander) -> None:
        for piece in file.finish():
            self._events.payload(piece)
        if file.size % BLOCK:
            self._events.padding(memoryview(_ZERO_BLOCK)[: -file.size % BLOCK])
        if not self._pad:
            self._file = None

    def _begin_meta(self, typeflag: bytes, size: int) -> None:
        self._all_meta += max(size, 0)
        if self._all_meta > MAX_ALL_META:
            raise ImageError(f"the layer has over {MAX_ALL_META} bytes of names and attributes")
        if not 0 <= size <= MAX_META or len(self._raw) > 32:
            raise ImageError(f"a tar header of type {typeflag.decode()!r} has the size {size}")
        self._meta_type, self._meta_size = typeflag, size
        self._meta = bytearray()
        self._need = size + -size % BLOCK
        if not size:
            self._end_meta(self._meta)

    def _end_meta(self, meta: bytearray) -> None:
        data = bytes(meta[: self._meta_size])
        self._raw.append(bytes(meta))
        self._meta = None
        if self._meta_type == b"x":
            self._records, self._repeated = parse_records(data)
        elif self._meta_type == b"L":
            self._long_name = data.partition(b"\0")[0]
        elif self._meta_type == b"K":
            self._long_link = data.partition(b"\0")[0]
        else:
            parse_records(data)
            self._begin(Entry("global", ""))


def _check_sum(block: bytes, expected: int) -> None:
    """The sum of all bytes with blanks for the sum itself; some archivers took them as signed."""
    total = sum(block) - sum(block[148:156]) + 256
    if total != expected:
        negative = sum(byte > 127 for byte in block[:148] + block[156:])
        if total - 256 * negative != expected:
            raise ImageError("the layer is no tar archive, or damaged: wrong header checksum")


def _name(fields: tuple[bytes, ...], block: bytes) -> str:
    name, magic, prefix = fields[0], fields[9], fields[14]
    if prefix[0]:
        if magic[:6] == _USTAR:
            prefix = prefix[:131] if block[508:] == _STAR_END else prefix
            return f"{_text(prefix)}/{_text(name)}"
        if magic == _GNU and not _is_times(prefix):
            # Go before 1.8 wrote prefixes into GNU headers (golang/go issue 12594).
            text = prefix.partition(b"\0")[0]
            if text.isascii():
                return f"{_text(text)}/{_text(name)}"
    return _text(name)


def _is_times(field: bytes) -> bool:
    """Whether the place of the prefix holds times of access and change, as GNU headers may."""
    try:
        return all(number(part) is not None for part in (field[:12], field[12:24]))
    except ImageError:
        return False


def _describe(entry: Entry, fields: tuple[bytes, ...]) -> None:
    # What is the same in most entries of a layer is cheap: `number` remembers.
    entry.uid = number(fields[2])
    entry.gid = number(fields[3])
    entry.mtime = number(fields[5])
    kind = entry.type
    if kind in ("symlink", "hardlink"):
        entry.linkname = _text(fields[8])
    if fields[9][:5] == b"ustar":
        entry.uname = _text(fields[10])
        entry.gname = _text(fields[11])
        if kind in ("char", "block"):
            entry.devmajor = number(fields[12])
            entry.devminor = number(fields[13])


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
