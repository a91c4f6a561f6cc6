"""The end of a nydus blob: its table of contents, and the bootstrap in it.

Format: nydus-storage 0.6.2, `src/meta/toc.rs`: data, then a tar header that describes it, and so
on; the last is the table of contents, entries of 128 bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

from lazyci.errors import ImageError

__all__ = ["bootstrap_of", "read_bootstrap", "toc_digest"]

_HEADER = 512
_ENTRY = struct.Struct("<II16s32sQQQ48x")
_TABLE = b"rafs.blob.toc"
_BOOTSTRAP = b"image.boot"
_ZSTD = 2
_MAX_BOOTSTRAP = 1 << 30
_MAX_TABLE = 1 << 16


def read_bootstrap(read: Callable[[int, int], bytes], size: int) -> bytes:
    """Read the bootstrap of a blob that is in a repository.

    Args:
        read: Gives the bytes from an offset on, of a length. Nothing but the table's own digest
            of the bootstrap is checked: the caller decides whether he believes the blob.
        size: Of the blob.

    Raises:
        ImageError: The blob is none of nydus, or broken.
    """
    head = min(size, _MAX_TABLE)
    tail = read(size - head, head)
    offset, length, *_ = _find(tail)
    start = size - head
    if offset < start:
        if offset + length > start + head or length > _MAX_BOOTSTRAP:
            raise ImageError("the nydus blob's table of contents is wrong")
        tail = read(offset, start - offset) + tail
    return bootstrap_of(tail, size)


def bootstrap_of(tail: bytes, size: int) -> bytes:
    """The bootstrap of a blob.

    Args:
        tail: The end of the blob, with the whole bootstrap.
        size: Of the whole blob.

    Raises:
        ImageError: The blob is none of nydus, or broken.
    """
    import zstandard

    offset, length, unpacked, flags, digest = _find(tail)
    start = offset - (size - len(tail))
    if start < 0 or start + length > len(tail) or unpacked > _MAX_BOOTSTRAP:
        raise ImageError("the nydus blob's bootstrap is not where its table of contents says")
    data = tail[start : start + length]
    if flags & _ZSTD:
        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=unpacked)
        except zstandard.ZstdError as error:
            raise ImageError(f"the nydus blob's bootstrap is broken: {error}") from error
    if hashlib.sha256(data).digest() != digest:
        raise ImageError("the nydus blob's bootstrap has another digest than its table says")
    return data


def toc_digest(tail: bytes) -> str:
    """The hexadecimal SHA-256 of a blob's table of contents and the header behind it."""
    return hashlib.sha256(tail[-_HEADER - _table_size(tail) :]).hexdigest()


def _table_size(tail: bytes) -> int:
    header = tail[-_HEADER:]
    if header.partition(b"\0")[0] != _TABLE:
        raise ImageError("the blob has no nydus table of contents")
    try:
        return int(header[124:136].strip(b" \0"), 8)
    except ValueError:
        raise ImageError("the nydus blob's table of contents is broken") from None


def _find(tail: bytes) -> tuple[int, int, int, int, bytes]:
    size = _table_size(tail)
    table = tail[-_HEADER - size : -_HEADER]
    if size % _ENTRY.size or not size or len(table) != size:
        raise ImageError("the nydus blob's table of contents is broken")
    for flags, _, name, digest, offset, length, unpacked in _ENTRY.iter_unpack(table):
        if name.rstrip(b"\0") == _BOOTSTRAP:
            return offset, length, unpacked, flags, digest
    raise ImageError("the nydus blob has no bootstrap")
