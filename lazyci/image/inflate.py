"""Layers unpacked while they arrive: gzip, zstd, or not compressed at all.

gzip by RFC 1952: any number of members, as eStargz layers have one per file. zstd by RFC 8878:
any number of frames, skippable frames among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import isal.isal_zlib
import zstandard

from lazyci.errors import ImageError

__all__ = ["LIMIT", "Inflater", "inflater"]

# The largest layer that is unpacked, in bytes: far above real ones, and it ends an endless one.
LIMIT = 1 << 40

# isal's own stubs call it an instance.
_GzipError: type[Exception] = isal.isal_zlib.error  # type: ignore[assignment]
_GZIP = 31  # zlib's code for "gzip header and trailer, largest window"
_PIECE = 256 << 10
_SMALLEST_STEP, _LARGEST_STEP = 4 << 10, 256 << 10
_LARGEST_HEADER = 128 << 10
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 128 << 10
_ZSTD_WINDOW = 128 << 20
_RLE, _RESERVED = 1, 3


class Inflater(Protocol):
    """Unpacks one layer and passes it on in pieces of bounded size.

    Attributes:
        total: How many bytes it has passed on.
        members: How many gzip members have begun.
    """

    total: int
    members: int

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the layer.

        Raises:
            ImageError: They are malformed, or unpack to more than the limit.
        """

    def finish(self) -> None:
        """End of the layer.

        Raises:
            ImageError: It ends in the middle.
        """


def inflater(compression: str, sink: Callable[[bytes], object], limit: int = LIMIT) -> Inflater:
    """What unpacks a layer.

    Args:
        compression: `none`, `gzip` or `zstd`.
        sink: Takes the unpacked bytes, in order, at most 1 MiB at a time.
        limit: More unpacked bytes than this are an error.
    """
    if compression == "none":
        return _Plain(sink, limit)
    if compression == "gzip":
        return _Gzip(sink, limit)
    if compression == "zstd":
        return _Zstd(sink, limit)
    raise ImageError(f"layers compressed by {compression!r} are not supported")


class _Counted:
    def __init__(self, sink: Callable[[bytes], object], limit: int) -> None:
        self._sink = sink
        self._limit = limit
        self.total = 0
        self.members = 0

    def _pass(self, data: bytes) -> None:
        self.total += len(data)
        if self.total > self._limit:
            raise ImageError(f"the layer unpacks to more than {self._limit} bytes")
        self._sink(data)


class _Plain(_Counted):
    def feed(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE * 4):
            self._pass(data[start : start + _PIECE * 4])

    def finish(self) -> None:
        """Nothing can be missing that the tar reader would not miss."""


class _Gzip(_Counted):
    """gzip members, one after the other, with zeros between and after them."""

    def __init__(self, sink: Callable[[bytes], object], limit: int) -> None:
        super().__init__(sink, limit)
        self._member: isal.isal_zlib.Decompress | None = None
        self._seen_member = False
        self._head = b""  # of a member whose header is not complete
        self._step = _SMALLEST_STEP

    def feed(self, data: bytes) -> None:
        if self._head:
            data = self._head + data
            self._head = b""
        view = memoryview(data)
        at = 0
        while at < len(view):
            if self._member is None:
                at += self._begin(view[at : at + _LARGEST_STEP])
                continue
            # What a member leaves over is copied: small steps first, as members may be tiny.
            step = view[at : at + self._step]
            self._step = min(self._step * 4, _LARGEST_STEP)
            at += len(step) - self._inflate(self._member, step)

    def finish(self) -> None:
        if self._member is not None or self._head or not self._seen_member:
            raise ImageError("the layer's gzip stream ends in the middle")

    def _begin(self, view: memoryview) -> int:
        """Begin a member at the next byte that is not zero; return how many bytes are done with.

        isal misreads a header of several fields that comes in pieces: it gets headers whole.
        """
        start = bytes(view)
        if self._seen_member:
            start = start.lstrip(b"\0")
        size = _header_size(start)
        if size > len(start):
            if len(start) > _LARGEST_HEADER:
                raise ImageError("the layer's gzip stream is malformed: a header does not end")
            self._head = start
            return len(view)
        self._member = isal.isal_zlib.decompressobj(_GZIP)
        self.members += 1
        self._step = max(_SMALLEST_STEP, size)
        return len(view) - len(start)

    def _inflate(self, member: isal.isal_zlib.Decompress, step: memoryview) -> int:
        """Unpack some bytes; return how many of them belong to what follows the member."""
        rest: memoryview | bytes = step
        while True:
            try:
                out = member.decompress(rest, _PIECE)
            except _GzipError as error:
                raise ImageError(f"the layer's gzip stream is malformed: {error}") from None
            if out:
                self._pass(out)
            if member.eof:
                self._member = None
                self._seen_member = True
                return len(member.unused_data)
            rest = member.unconsumed_tail
            if not rest and len(out) < _PIECE:
                return 0


def _header_size(data: bytes) -> int:
    """The size of a gzip header; more than there is of it when it is not complete."""
    if len(data) < 10:
        return 10
    flags = data[3]
    at = 10
    if flags & 4:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for field in (8, 16):
        if flags & field:
            end = data.find(b"\0", at)
            if at >= len(data) or end < 0:
                return len(data) + 1
            at = end + 1
    return at + (flags & 2)


class _Zstd(_Counted):
    """zstd frames, block by block.

    A block unpacks to 128 KiB at most, but can be four bytes long: only who counts blocks keeps
    the output of one piece of input small, and notices a frame that ends in the middle.
    """

    def __init__(self, sink: Callable[[bytes], object], limit: int) -> None:
        super().__init__(sink, limit)
        self._decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._checksum = False
        self._pending = b""
        self._skip = 0
        self._seen_frame = False

    def feed(self, data: bytes) -> None:
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        data = self._pending + data if self._pending else data
        at = 0
        while at < len(data):
            used = self._blocks(data, at) if self._frame else self._begin(data, at)
            if not used:
                break
            at += used
        if at > len(data):
            self._skip = at - len(data)
        self._pending = data[at:]

    def finish(self) -> None:
        if self._frame or self._pending or self._skip or not self._seen_frame:
            raise ImageError("the layer's zstd stream ends in the middle")

    def _begin(self, data: bytes, at: int) -> int:
        """Begin a frame; return the length of its header, or 0 when more bytes are needed."""
        if len(data) - at < 8:
            return 0
        self._seen_frame = True
        if data[at + 1 : at + 4] == b"\x2a\x4d\x18" and data[at] >> 4 == 5:
            return 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] != _ZSTD_MAGIC:
            raise ImageError("the layer's zstd stream is malformed: no frame where one must begin")
        flags = data[at + 4]
        single = flags >> 5 & 1
        length = 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
        if len(data) - at < length:
            return 0
        self._frame = self._decoder.decompressobj()
        self._checksum = bool(flags & 4)
        self._decode(data[at : at + length])
        return length

    def _blocks(self, data: bytes, at: int) -> int:
        """Unpack whole blocks, 1 MiB at most; return their length, 0: more bytes are needed."""
        end = at
        size = 0
        last = False
        while size < 8 * _ZSTD_BLOCK and not last and len(data) - end >= 3:
            header = int.from_bytes(data[end : end + 3], "little")
            kind, length = header >> 1 & 3, header >> 3
            if kind == _RESERVED or length > _ZSTD_BLOCK:
                raise ImageError("the layer's zstd stream is malformed: no such block")
            final = bool(header & 1)
            block = 3 + (1 if kind == _RLE else length) + (4 if final and self._checksum else 0)
            if len(data) - end < block:
                break
            end += block
            last = final
            size += _ZSTD_BLOCK
        if end > at:
            ended = self._decode(data[at:end])
            if ended != last:
                raise ImageError("the layer's zstd stream is malformed: a frame ends elsewhere")
            if last:
                self._frame = None
        return end - at

    def _decode(self, data: bytes) -> bool:
        """Unpack some bytes of a frame; return whether it ended with them."""
        assert self._frame is not None
        try:
            out = self._frame.decompress(data)
        except zstandard.ZstdError as error:
            raise ImageError(f"the layer's zstd stream is malformed: {error}") from None
        if out:
            self._pass(out)
        return bool(self._frame.eof)
