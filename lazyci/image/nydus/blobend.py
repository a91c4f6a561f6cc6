"""The end of a nydus blob: tables of chunks, bootstrap, table of contents.

Format: nydus-storage 0.6.2, `src/meta/mod.rs` and `src/meta/toc.rs`; the order of the parts as
nydus-image 2.2.0 writes them (`core/blob.rs`, `builder/mod.rs`).
"""

from __future__ import annotations

import hashlib
import struct

import zstandard

from lazyci.image.nydus.blob import BOOTSTRAP, HEADER, TABLE, TOC_ENTRY
from lazyci.image.nydus.chunks import FEATURES, LEVEL, ZSTD, ChunkWriter
from lazyci.image.rafs.tree import Folder
from lazyci.image.rafs.writer import write_bootstrap

__all__ = ["blob_end"]

_MAGIC = 0xB10BB10B
_META_SIZE = 4096
_META = struct.Struct(f"<IIIIQQQQQI{_META_SIZE - 64}xI")
_NONE_FLAG, _ZSTD_FLAG = 1, 2
# The digest of a blob's data is checked nowhere, and zeros mean that there is none.
_NO_DIGEST = bytes(32)


def blob_end(root: Folder, chunks: ChunkWriter) -> tuple[bytes, bytes]:
    """What follows the chunks.

    Args:
        root: The layer's tree.
        chunks: Its chunks, all sent.

    Returns:
        The end of the blob, and the bootstrap in it.

    Raises:
        ImageError: The layer has what a bootstrap cannot hold.
    """
    parts = _Parts(chunks.size)
    if chunks.count:
        parts.head(b"image.blob", chunks.size)
        parts.note(b"image.blob", 0, chunks.size, chunks.unpacked, _NO_DIGEST, _NONE_FLAG)
        _tables(parts, chunks)
    chunks.end = parts.at
    bootstrap = write_bootstrap(root, chunks)
    parts.add(BOOTSTRAP, bootstrap, squeeze=True)
    parts.close()
    return bytes(parts.out), bootstrap


def _tables(parts: _Parts, chunks: ChunkWriter) -> None:
    infos = chunks.infos()
    packed, flag = _squeezed(infos)
    compressor = ZSTD if flag == _ZSTD_FLAG else 0
    chunks.meta = (compressor, parts.at, len(packed), len(infos))
    header = _META.pack(
        _MAGIC, FEATURES, compressor, len(infos) // 16, parts.at, len(packed), len(infos),
        0, 0, 0, _MAGIC,
    )  # fmt: skip
    digest = hashlib.sha256(infos).digest()
    parts.note(b"blob.meta", parts.at, len(packed), len(infos), digest, flag)
    parts.out += packed
    digest = hashlib.sha256(header).digest()
    parts.note(b"blob.meta.header", parts.at, _META_SIZE, _META_SIZE, digest, _NONE_FLAG)
    parts.out += header
    parts.head(b"blob.meta", len(packed) + _META_SIZE)
    parts.add(b"blob.digest", chunks.digests(), squeeze=False)


class _Parts:
    """Parts of a blob, each with a tar header behind it, and the entries of the table."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._table: list[bytes] = []
        self.out = bytearray()

    @property
    def at(self) -> int:
        return self._start + len(self.out)

    def add(self, name: bytes, data: bytes, *, squeeze: bool) -> None:
        packed, flag = _squeezed(data) if squeeze else (data, _NONE_FLAG)
        self.note(name, self.at, len(packed), len(data), hashlib.sha256(data).digest(), flag)
        self.out += packed
        self.head(name, len(packed))

    def note(
        self, name: bytes, offset: int, size: int, unpacked: int, digest: bytes, flag: int
    ) -> None:
        self._table.append(TOC_ENTRY.pack(flag, 0, name, digest, offset, size, unpacked))

    def head(self, name: bytes, size: int) -> None:
        # As Rust's tar crate begins one: what nydus leaves out of it are zeros, not digits.
        header = bytearray(HEADER)
        header[: len(name)] = name
        header[124:136] = b"%011o\0" % size
        header[136:148] = b"%011o\0" % 0
        header[156:157] = b"0"
        header[257:265] = b"ustar  \0"
        header[148:156] = b" " * 8
        header[148:156] = b"%07o\0" % sum(header)
        self.out += header

    def close(self) -> None:
        table = b"".join(self._table)
        self.out += table
        self.head(TABLE, len(table))


def _squeezed(data: bytes) -> tuple[bytes, int]:
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(data)
    return (packed, _ZSTD_FLAG) if len(packed) < len(data) else (data, _NONE_FLAG)
