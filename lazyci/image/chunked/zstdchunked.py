"""zstd:chunked in the dialect of stargz-snapshotter: zstd layers with a table of contents.

Format: containerd/stargz-snapshotter, estargz/zstdchunked (0.19.1). The dialect of
containers/storage, which Podman reads, is another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor

import zstandard

from lazyci.image.chunked.builder import END_OF_ARCHIVE, ChunkedBuilder, Ending
from lazyci.image.chunked.estargz import TOC_DIGEST
from lazyci.image.manifest import ZSTD_LAYER, Descriptor, compression, digest_of
from lazyci.image.store import Repository, Upload

__all__ = ["ZstdChunkedCodec", "is_zstdchunked", "zstdchunked"]

_CHECKSUM = "io.containers.zstd-chunked.manifest-checksum"
_POSITION = "io.containers.zstd-chunked.manifest-position"

_LEVEL = 3
_TOC_LEVEL = 9
_SKIPPABLE = b"\x50\x2a\x4d\x18"
_MAGIC = b"GnUlInUx"
_FOOTER = 40
_CRFS = 1  # the TOC is one of eStargz's kind
_MAX_TOC = 256 << 20


def zstdchunked(upload: Upload, compressed: str, pool: Executor) -> ChunkedBuilder:
    """A builder of zstd:chunked layers.

    Args:
        upload: Takes the new layer.
        compressed: Of the layer that is fed: `none`, `gzip` or `zstd`.
        pool: Threads that compress.
    """
    return ChunkedBuilder(ZstdChunkedCodec(), upload, compressed, pool)


class ZstdChunkedCodec:
    """zstd frames. Implements Codec."""

    media_type = ZSTD_LAYER

    def __init__(self) -> None:
        self._own = threading.local()

    def choose(self, data: memoryview) -> Callable[[memoryview], bytes]:
        return self._compress

    def end(self, toc: bytes, offset: int) -> Ending:
        last = self._compress(END_OF_ARCHIVE)
        if not toc:
            return Ending(last, END_OF_ARCHIVE, {})
        stored = zstandard.ZstdCompressor(level=_TOC_LEVEL, write_checksum=True).compress(toc)
        start = offset + len(last) + 8
        footer = b"".join(
            number.to_bytes(8, "little") for number in (start, len(stored), len(toc), _CRFS)
        )
        annotations = {
            TOC_DIGEST: digest_of(toc),
            _CHECKSUM: digest_of(stored),
            _POSITION: f"{start}:{len(stored)}:{len(toc)}:{_CRFS}",
        }
        after = _skippable(stored) + _skippable(footer + _MAGIC)
        return Ending(last + after, END_OF_ARCHIVE, annotations)

    def _compress(self, data: bytes | memoryview) -> bytes:
        compressor = getattr(self._own, "compressor", None)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
            self._own.compressor = compressor
        assert isinstance(compressor, zstandard.ZstdCompressor)
        return compressor.compress(data)


def is_zstdchunked(repository: Repository, layer: Descriptor) -> bool:
    """Whether a layer is zstd:chunked of this dialect already, so that it can stay as it is.

    Its annotation must name the digest of the TOC that is found in the layer.

    Raises:
        RegistryError: The layer cannot be read.
    """
    expected = layer.annotations.get(TOC_DIGEST, "")
    if not expected or compression(layer.media_type) != "zstd" or layer.size <= _FOOTER:
        return False
    footer = repository.read_range(layer, layer.size - _FOOTER, _FOOTER)
    start, stored, size, kind = (
        int.from_bytes(footer[at : at + 8], "little") for at in range(0, 32, 8)
    )
    if footer[32:] != _MAGIC or kind != _CRFS or size > _MAX_TOC:
        return False
    if not 0 < stored <= _MAX_TOC or start + stored > layer.size - _FOOTER:
        return False
    try:
        toc = zstandard.ZstdDecompressor().decompress(
            repository.read_range(layer, start, stored), max_output_size=_MAX_TOC
        )
    except (zstandard.ZstdError, MemoryError):
        return False
    return digest_of(toc) == expected


def _skippable(data: bytes) -> bytes:
    return _SKIPPABLE + len(data).to_bytes(4, "little") + data
