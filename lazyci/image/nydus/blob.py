"""The end of a nydus blob: its table of contents, and the bootstrap in it.

Format: nydus-storage 0.6.2, `src/meta/toc.rs`: data, then a tar header that describes it, and so
on; the last is the table of contents, entries of 128 bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

from lazyci.errors import ImageError

__all__ = [
    "BOOTSTRAP",
    "HEADER",
    "META",
    "META_HEADER",
    "TABLE",
    "TOC_ENTRY",
    "bootstrap_of",
    "read_bootstrap",
    "read_part",
    "toc_digest",
]

HEADER = 512
TOC_ENTRY = struct.Struct("<II16s32sQQQ48x")
TABLE = b"rafs.blob.toc"
BOOTSTRAP = b"image.boot"
META, META_HEADER = b"blob.meta", b"blob.meta.header"
_ZSTD = 2
_MAX_PART = 1 << 30
_MAX_TABLE = 1 << 16


def read_bootstrap(read: Callable[[int, int], bytes], size: int) -> bytes:
    """Read the bootstrap of a blob that is in a repository.

    Raises:
        ImageError: As `read_part`.
    """
    return read_part(read, size, BOOTSTRAP)


def read_part(read: Callable[[int, int], bytes], size: int, name: bytes) -> bytes:
    """Read a part of a blob that is in a repository.

    Args:
        read: Gives the bytes from an offset on, of a length. Nothing but the table's own digest
            of the part is checked: the caller decides whether he believes the blob.
        size: Of the blob.
        name: Of the part.

    Raises:
        ImageError: The blob is none of nydus, or broken, or has no such part.
    """
    head = min(size, _MAX_TABLE)
    tail = read(size - head, head)
    offset, length, *_ = _find(tail, name)
    if offset + length > size or length > _MAX_PART:
        raise ImageError("the nydus blob's table of contents is wrong")
    if offset < size - head:
        tail = read(offset, size - head - offset) + tail
    return _part(tail, size, name)


def bootstrap_of(tail: bytes, size: int) -> bytes:
    """The bootstrap of a blob.

    Args:
        tail: The end of the blob, with the whole bootstrap.
        size: Of the whole blob.

    Raises:
        ImageError: The blob is none of nydus, or broken.
    """
    return _part(tail, size, BOOTSTRAP)


def _part(tail: bytes, size: int, name: bytes) -> bytes:
    import zstandard

    shown = name.decode()
    offset, length, unpacked, flags, digest = _find(tail, name)
    start = offset - (size - len(tail))
    if start < 0 or start + length > len(tail) or unpacked > _MAX_PART:
        raise ImageError(f"the nydus blob's {shown} is not where its table of contents says")
    data = tail[start : start + length]
    if flags & _ZSTD:
        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=unpacked)
        except zstandard.ZstdError as error:
            raise ImageError(f"the nydus blob's {shown} is broken: {error}") from error
    if hashlib.sha256(data).digest() != digest:
        raise ImageError(f"the nydus blob's {shown} has another digest than its table says")
    return data


def toc_digest(tail: bytes) -> str:
    """The hexadecimal SHA-256 of a blob's table of contents and the header behind it."""
    return hashlib.sha256(tail[-HEADER - _table_size(tail) :]).hexdigest()


def _table_size(tail: bytes) -> int:
    header = tail[-HEADER:]
    if header.partition(b"\0")[0] != TABLE:
        raise ImageError("the blob has no nydus table of contents")
    try:
        return int(header[124:136].strip(b" \0"), 8)
    except ValueError:
        raise ImageError("the nydus blob's table of contents is broken") from None


def _find(tail: bytes, wanted: bytes) -> tuple[int, int, int, int, bytes]:
    size = _table_size(tail)
    table = tail[-HEADER - size : -HEADER]
    if size % TOC_ENTRY.size or not size or len(table) != size:
        raise ImageError("the nydus blob's table of contents is broken")
    for flags, _, name, digest, offset, length, unpacked in TOC_ENTRY.iter_unpack(table):
        if name.rstrip(b"\0") == wanted:
            return offset, length, unpacked, flags, digest
    raise ImageError(f"the nydus blob has no {wanted.decode()}")
