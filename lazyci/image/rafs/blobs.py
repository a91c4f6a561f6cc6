"""The blobs of a merged bootstrap: its tables of blobs and chunks."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from lazyci.errors import ImageError
from lazyci.image.rafs.reader import Rafs
from lazyci.image.rafs.tree import Leaf

__all__ = ["ADDRESS", "BLOB", "CHUNK", "DEVICE", "MAX_BLOBS", "Blobs", "Layer"]

# The blob index in an inode's chunk address has eight bits, of which 0 is the bootstrap itself.
MAX_BLOBS = 254
# BLOB_MAX_SIZE_COMPRESSED.
_MAX_BLOB = 1 << 40
_DIGEST = re.compile("[0-9a-f]{64}")
_BLOCK = 4096
_MAX_CHUNK_SIZE = 1 << 24
_MAX_CHUNKS = 1 << 24
# nydus-rafs 0.2.2, `layout/v6.rs`: RafsV6SuperBlockExt, RafsV6Blob, RafsV6Device; and
# RafsV5ChunkInfo in `layout/v5.rs`, RafsV6InodeChunkAddr in `layout/v6.rs`.
_EXTENSION_AT = 1024 + 128
_EXTENSION = struct.Struct("<QQIIQQ")
BLOB = struct.Struct("<64sIIIIIIQQIIQQQ32s32sQ48x")
DEVICE = struct.Struct("<64sI60x")
CHUNK = struct.Struct("<32sIIIIQQQII")
ADDRESS = struct.Struct("<HBBI")
# RafsSuperFlags: how chunks are compressed and digested, and that owners are meant.
_KEPT_FLAGS = 0x1 | 0x2 | 0x40 | 0x80 | 0x4 | 0x8 | 0x10
_CHUNK_DIGESTS_INLINED = 0x100
# BlobFeatures, nydus-storage 0.6.2, `src/device.rs`. The merged bootstrap is in none of the blobs.
_KEPT_FEATURES = 0x1 | 0x4 | 0x8 | 0x10 | 0x20 | 0x70000000
_SEPARATE, _INLINED_DIGEST, _NO_CHUNKS = 0x10, 0x20, 0x80000000
# What nydus-image puts where a blob has no table of its chunks: LZ4.
_NO_TABLE = (1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer to merge.

    Attributes:
        bootstrap: Its own.
        source: The hexadecimal SHA-256 of the blob that holds the files' data.
        digest: That of the blob which nydus-image made of the layer: the same, or an index.
        size: Of this blob.
        toc: The hexadecimal SHA-256 of this blob's table of contents, if it is an index.
    """

    bootstrap: bytes = field(repr=False)
    source: str
    digest: str
    size: int
    toc: str = "0" * 64

    @property
    def is_index(self) -> bool:
        return self.source != self.digest


class Blobs:
    """The blobs of the merged bootstrap, and those of their chunks that its files use.

    Args:
        layers: All layers that there will be.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            digests = (layer.source, layer.digest, layer.toc)
            # They may be what annotations say.
            if not all(map(_DIGEST.fullmatch, digests)) or not 0 <= layer.size < _MAX_BLOB:
                raise ImageError(
                    f"layer {layer.source[:100]!r} has a digest or a size that is none"
                )
        self._has_index = any(layer.is_index for layer in layers)
        self._ids: dict[str, int] = {}
        self._records: list[tuple[int | bytes, ...]] = []
        self._sources: list[dict[bytes, tuple[bytes, bytes, int]]] = []
        self._data: list[bytes] = []
        self._used: set[bytes] = set()
        self.chunk_size = 0
        self._flags = 0

    @property
    def count(self) -> int:
        return len(self._records)

    @property
    def flags(self) -> int:
        """The flags of the extended superblock."""
        inlined = all(int(record[6]) & _INLINED_DIGEST for record in self._records)
        return self._flags | (_CHUNK_DIGESTS_INLINED if inlined else 0)

    @property
    def blocks(self) -> int:
        """How many blocks the data has, unpacked."""
        return sum(int(record[8]) // _BLOCK for record in self._records)

    def table(self) -> bytes:
        return b"".join(BLOB.pack(*record) for record in self._records)

    def devices(self) -> bytes:
        return b"".join(
            DEVICE.pack(record[0], int(record[8]) // _BLOCK) for record in self._records
        )

    def chunks(self) -> bytes:
        """The table of the chunks whose addresses were asked for: by digest, then by blob."""
        return b"".join(sorted(self._used))

    def addresses(self, leaf: Leaf) -> tuple[bytes, bool]:
        """Where the chunks of a file are, and whether they follow one another unpacked."""
        node, table = leaf.node, self._sources[leaf.layer]
        size = -(-node.size // self.chunk_size) * 8
        found = self._data[leaf.layer][node.data : node.data + size]
        if len(found) != size or (size and not node.data):
            raise ImageError("the nydus bootstrap has a file with chunks out of itself")
        addresses = []
        is_continuous, expected = True, -1
        for at in range(0, size, 8):
            chunk = table.get(found[at : at + 8])
            if chunk is None:
                raise ImageError("the nydus bootstrap has a file with a chunk of no blob")
            address, record, offset = chunk
            addresses.append(address)
            self._used.add(record)
            is_continuous &= expected in (-1, offset)
            expected = offset + self.chunk_size
        return b"".join(addresses), is_continuous

    def add(self, layer: Layer, rafs: Rafs) -> None:
        """Take the blob of a layer's bootstrap, if it has one, and its chunks.

        Raises:
            ImageError: It does not fit to those of the layers below, or is malformed.
        """
        data = layer.bootstrap
        flags, blobs_at, _, size, chunks_at, length = _EXTENSION.unpack_from(data, _EXTENSION_AT)
        if size & (size - 1) or not _BLOCK <= size <= _MAX_CHUNK_SIZE:
            raise ImageError(f"the nydus bootstrap has chunks of {size} bytes")
        if self._sources and (size, flags & 0x10) != (self.chunk_size, self._flags & 0x10):
            raise ImageError("the layers' nydus bootstraps have chunks or owners of two kinds")
        if len(rafs.blobs) > 1:
            raise ImageError("the nydus bootstrap of a layer has several blobs")
        self.chunk_size = size
        self._flags = flags & _KEPT_FLAGS
        number = self._add_blob(layer, blobs_at) if rafs.blobs else 0
        self._data.append(data)
        if chunks_at + length > len(data) or (length and not rafs.blobs):
            raise ImageError("the nydus bootstrap points out of itself")
        end = chunks_at + length // CHUNK.size * CHUNK.size
        self._sources.append(_read_chunks(data[chunks_at:end], number))

    def _add_blob(self, layer: Layer, at: int) -> int:
        known = self._ids.get(layer.source)
        if at + BLOB.size > len(layer.bootstrap):
            raise ImageError("the nydus bootstrap points out of itself")
        values = BLOB.unpack_from(layer.bootstrap, at)
        (_, _, size, chunks, compressor, digester, features, packed, unpacked) = values[:9]
        (toc_size, *table, toc, meta, meta_size) = values[9:]
        if bool(features & _SEPARATE) != layer.is_index or size != self.chunk_size:
            raise ImageError("the nydus bootstrap's blob is of another kind than its layer")
        if known is not None:
            return known
        number = self._ids[layer.source] = len(self._ids)
        if number >= MAX_BLOBS:
            raise ImageError(f"the image has more than {MAX_BLOBS} layers")
        features = features & _KEPT_FEATURES | (0 if chunks else _NO_CHUNKS)
        if self._has_index:
            toc = bytes.fromhex(layer.toc)
            if layer.is_index:
                meta, meta_size = bytes.fromhex(layer.digest), layer.size
            else:
                packed = layer.size
        if not (table[2] and table[3]):
            table = list(_NO_TABLE)
        self._records.append(
            (
                layer.source.encode(), number, size, chunks, compressor, digester, features,
                packed, unpacked, toc_size, *table, toc, meta, meta_size,
            )
        )  # fmt: skip
        if self.blocks >> 32:
            raise ImageError("the nydus bootstrap's blobs are too large")
        return number


def _read_chunks(table: bytes, number: int) -> dict[bytes, tuple[bytes, bytes, int]]:
    """By their addresses in the layer: the chunks' new addresses, their records, and where."""
    found = {}
    for digest, blob, flags, packed, unpacked, at, offset, inside, index, _ in CHUNK.iter_unpack(
        table
    ):
        if blob or index >= _MAX_CHUNKS or offset // _BLOCK >> 32:
            raise ImageError("the nydus bootstrap has a chunk of no blob")
        low, high, block = index & 0xFFFF, index >> 16, offset // _BLOCK
        found[ADDRESS.pack(low, 1, high, block)] = (
            ADDRESS.pack(low, number + 1, high, block),
            CHUNK.pack(digest, number, flags, packed, unpacked, at, offset, inside, index, 0),
            offset,
        )
    return found
