"""The data of one layer, cut into chunks, each stored once, and the tables that describe them.

Format: nydus-storage 0.6.2, `src/meta/chunk_info_v1.rs`, for the entries of `infos`; the tables of
the bootstrap as in `rafs.blobs`.
"""

from __future__ import annotations

import itertools
import stat
import struct
import threading
from concurrent.futures import Executor
from functools import partial

import blake3
import zstandard

from lazyci.errors import ImageError
from lazyci.image.drain import Drain, Rooms
from lazyci.image.rafs.blobs import ADDRESS, BLOB, CHUNK, DEVICE
from lazyci.image.rafs.tree import Leaf
from lazyci.image.store import Upload

__all__ = ["CHUNK_SIZE", "LEVEL", "ZSTD", "ChunkWriter"]

CHUNK_SIZE = 1 << 20
# Of zstd. nydus-image's 3 takes a quarter more time for chunks 1.3 % smaller (CUDA libraries).
LEVEL = 2
ZSTD = 3  # compress::Algorithm, nydus-utils 0.4.1
_BLAKE3 = 0  # digest::Algorithm
_BLOCK = 4096
_ROOM = 2 << 20
_MAX_CHUNKS = 1 << 24
# RafsSuperFlags: digests by BLAKE3, owners are meant, compressed by zstd, digests in the blobs.
_FLAGS = 0x4 | 0x10 | 0x80 | 0x100
# BlobFeatures: chunks begin at blocks, the bootstrap is in the blob, so are digests, tar headers
# and table of contents.
FEATURES = 0x1 | 0x2 | 0x20 | 0x10000000 | 0x20000000 | 0x40000000
# What nydus-image says for the digest of the blob in which the bootstrap itself lies.
_SELF = b"x" * 64
_INFO = struct.Struct("<QQ")

_Cut = list[tuple[int, int, int, int]]


class ChunkWriter:
    """Cuts files into chunks, lets a pool digest and compress them, and sends each once, in order.

    What is sent depends on the data alone. Implements Tables for the layer's bootstrap.

    Args:
        upload: Takes the chunks.
        pool: Threads that compress.
    """

    chunk_size = CHUNK_SIZE

    def __init__(self, upload: Upload, pool: Executor) -> None:
        self._upload = upload
        self._pool = pool
        self._packer = _Packer()
        self._rooms = Rooms(_ROOM)
        self._drain = Drain("nydus-blob")
        self._room = self._rooms.take()
        self._used = 0
        self._cut: _Cut = []  # file, offset in it, start and end in the room
        self._file = self._left = self._offset = self._missing = self._start = 0
        # Of the blob: its records by index, in the order of their data.
        self._records: list[bytes] = []
        self._places: list[int] = []
        self._infos: list[bytes] = []
        self._files: dict[int, list[int]] = {}
        self._asked: set[int] = set()
        self.size = 0
        self.unpacked = 0
        # Where the table of chunks is: compressor, offset, size, unpacked size; then, where the
        # bootstrap begins.
        self.meta = (0, 0, 0, 0)
        self.end = 0

    def begin(self, file: int, size: int) -> None:
        """The data of a file, of more than no bytes, comes next."""
        self._file, self._left, self._offset = file, size, 0
        self._next()

    def write(self, data: memoryview) -> None:
        """The next bytes of the file."""
        while data:
            used = min(len(data), self._missing)
            self._room[self._used : self._used + used] = data[:used]
            self._used += used
            self._missing -= used
            data = data[used:]
            if not self._missing:
                self._cut.append((self._file, self._offset, self._start, self._used))
                size = self._used - self._start
                self._left -= size
                self._offset += size
                if self._left:
                    self._next()

    def finish(self) -> None:
        """Wait until all is sent."""
        self._submit()
        self._drain.join()

    def abort(self) -> None:
        """Stop."""
        self._drain.abort()

    # The tables.

    @property
    def count(self) -> int:
        """One blob, or none where there are no chunks."""
        return 1 if self._records else 0

    @property
    def flags(self) -> int:
        """The flags of the extended superblock."""
        return _FLAGS

    @property
    def blocks(self) -> int:
        """How many blocks the data has, unpacked."""
        return self.unpacked // _BLOCK

    def table(self) -> bytes:
        """The blob table."""
        if not self._records:
            return b""
        compressor, offset, size, unpacked = self.meta
        return BLOB.pack(
            _SELF, 0, CHUNK_SIZE, len(self._records), ZSTD, _BLAKE3, FEATURES, self.end,
            self.unpacked, 0, compressor, offset, size, unpacked, bytes(32), bytes(32), 0,
        )  # fmt: skip

    def devices(self) -> bytes:
        """The device slots; the blob's own digest is not known in it."""
        return DEVICE.pack(bytes(64), self.blocks) if self._records else b""

    def addresses(self, leaf: Leaf) -> tuple[bytes, bool]:
        """Where the chunks of a file are, and whether they follow one another unpacked."""
        if not leaf.node.size or not stat.S_ISREG(leaf.node.mode):
            return b"", True
        found = self._files[leaf.node.inode]
        self._asked.update(found)
        places = [self._places[index] for index in found]
        packed = b"".join(
            ADDRESS.pack(index & 0xFFFF, 1, index >> 16, place // _BLOCK)
            for index, place in zip(found, places, strict=True)
        )
        steps = itertools.pairwise(places)
        return packed, all(after == before + CHUNK_SIZE for before, after in steps)

    def chunks(self) -> bytes:
        """The table of the chunks whose addresses were asked for, by digest."""
        return b"".join(sorted(self._records[index] for index in self._asked))

    def infos(self) -> bytes:
        """The blob's own table of chunks."""
        return b"".join(self._infos)

    def digests(self) -> bytes:
        """The digests of all chunks."""
        return b"".join(record[:32] for record in self._records)

    # On the way.

    def _next(self) -> None:
        """The next chunk begins, in this room if it has space for it."""
        self._missing = min(self._left, CHUNK_SIZE)
        if self._used + self._missing > _ROOM:
            self._submit()
        self._start = self._used

    def _submit(self) -> None:
        if self._cut:
            self._drain.reserve(self._used)
            result = self._pool.submit(self._packer.pack, self._room, self._cut)
            self._drain.put(self._used, result, partial(self._take, self._room, self._cut))
            self._room = self._rooms.take()
            self._cut = []
        self._used = 0

    def _take(self, room: memoryview, cut: _Cut, packed: list[tuple[bytes, bytes | None]]) -> None:
        send: list[bytes | memoryview] = []
        known = self._packer.known
        for (file, inside, start, end), (digest, data) in zip(cut, packed, strict=True):
            index = known.get(digest)
            if index is None:
                index = known[digest] = self._add(digest, end - start, inside, data)
                send.append(room[start:end] if data is None else data)
            self._files.setdefault(file, []).append(index)
        if send:
            self._upload.write(b"".join(send))
        self._rooms.give(room)

    def _add(self, digest: bytes, unpacked: int, inside: int, data: bytes | None) -> int:
        """Describe the blob's next chunk, which is the first of its digest."""
        index = len(self._records)
        if index >= _MAX_CHUNKS:
            raise ImageError(f"the layer has more than {_MAX_CHUNKS} chunks for nydus")
        size = unpacked if data is None else len(data)
        self._records.append(
            CHUNK.pack(
                digest, 0, data is not None, size, unpacked, self.size, self.unpacked, inside,
                index, 0,
            )
        )  # fmt: skip
        self._places.append(self.unpacked)
        self._infos.append(
            _INFO.pack((unpacked - 1) << 44 | self.unpacked, (size - 1) << 44 | self.size)
        )
        self.size += size
        self.unpacked += -(-unpacked // _BLOCK) * _BLOCK
        return index


class _Packer:
    """Digests and compresses, in any thread.

    Attributes:
        known: The digests of chunks that are sent, with their indexes.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, int] = {}
        self._own = threading.local()

    def pack(self, room: memoryview, cut: _Cut) -> list[tuple[bytes, bytes | None]]:
        """Digests and compressed bytes; None where these would be no fewer, or are not needed."""
        compressor = getattr(self._own, "compressor", None)
        if compressor is None:
            compressor = self._own.compressor = zstandard.ZstdCompressor(level=LEVEL)
        packed = []
        for _, _, start, end in cut:
            chunk = room[start:end]
            digest = blake3.blake3(chunk).digest()
            data = None
            if digest not in self.known:
                data = compressor.compress(chunk)
                if len(data) >= len(chunk):
                    data = None
            packed.append((digest, data))
        return packed
