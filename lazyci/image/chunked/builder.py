"""A layer rebuilt of members: parts of the tar archive that can be unpacked one by one.

The tar archive stays as it was, byte by byte, but for what `ChunkedBuilder` says. The thread that
feeds unpacks and reads the archive; a pool hashes and compresses the members; a thread of the
builder's own takes them in order, hashes the whole and sends it. What comes out depends on the
archive and the codec alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from lazyci.errors import ImageError
from lazyci.image.chunked.toc import LANDMARKS, NO_PREFETCH, TOC_NAME, Toc, TocEntry, clean_name
from lazyci.image.drain import Drain, Rooms
from lazyci.image.inflate import LIMIT, inflater
from lazyci.image.manifest import Descriptor
from lazyci.image.store import BuiltLayer, Upload
from lazyci.image.tar.entry import BLOCK, Entry, encode_header
from lazyci.image.tar.reader import TarReader

__all__ = [
    "CHUNK",
    "END_OF_ARCHIVE",
    "SHARED",
    "UNPACKED_SIZE",
    "ChunkedBuilder",
    "Codec",
    "Ending",
]

UNPACKED_SIZE = "io.containers.estargz.uncompressed-size"

# The longest stretch of a file in one member: what readers fetch at least. The reference's value.
CHUNK = 4 << 20
# Small files share a member while their sizes together stay within this.
SHARED = 128 << 10
# A member without files ends when it has this size.
_HEADERS = CHUNK + (256 << 10)
_ROOM = CHUNK + (512 << 10)
# Smaller members are copied.
_SMALL = 1 << 20

END_OF_ARCHIVE = bytes(2 * BLOCK)
_LANDMARK = b"\x0f"
_OWN_NAMES = frozenset((TOC_NAME, *LANDMARKS))
_EMPTY_DIGEST = f"sha256:{hashlib.sha256().hexdigest()}"


@dataclass(frozen=True, slots=True)
class Ending:
    """What follows the members.

    Attributes:
        stored: The bytes of the layer.
        unpacked: The same as an ordinary tool unpacks it.
        annotations: What the layer's descriptor must say.
    """

    stored: bytes
    unpacked: bytes
    annotations: dict[str, str]


class Codec(Protocol):
    """How members are compressed, and what a layer of them ends with."""

    media_type: str

    def choose(self, data: memoryview) -> Callable[[memoryview], bytes]:
        """What compresses the next member. Called once for each, in order."""

    def end(self, toc: bytes, offset: int) -> Ending:
        """The end of a layer with this TOC, whose members take `offset` bytes; no TOC: empty."""


@dataclass(slots=True)
class _Member:
    """A member on its way. Each chunk: its row in the TOC, where it is, the file if it has more."""

    data: memoryview
    chunks: list[tuple[TocEntry, int, int, _File | None]]
    room: memoryview | None = None  # to be used again


@dataclass(slots=True)
class _File:
    """A file of several chunks: its row and what is hashed of it."""

    row: TocEntry
    left: int
    hash: hashlib._Hash = field(default_factory=hashlib.sha256)


class ChunkedBuilder:
    """Builds a layer of members with a table of contents; implements LayerBuilder.

    The new archive is the old one with these changes: a landmark in front, the TOC at the end,
    landmarks and TOC that it had before left out, sparse files written in full, and nothing
    behind the end-of-archive mark.
    """

    def __init__(
        self, codec: Codec, upload: Upload, compression: str, pool: Executor, limit: int = LIMIT
    ) -> None:
        """Begin.

        Args:
            codec: The format to build.
            upload: Takes the new layer.
            compression: Of the layer that is fed: `none`, `gzip` or `zstd`.
            pool: Threads that compress; builders may share it.
            limit: More unpacked bytes than this are an error.
        """
        self._codec = codec
        self._pool = pool
        self._toc = Toc()
        self._limit = limit
        self._tar = TarReader(self)
        self._inflater = inflater(compression, self._tar.feed, limit)
        self._written = 0
        self._rooms = Rooms(_ROOM)
        self._upload = upload
        self._sender = _Sender(upload, self._rooms)
        self._drain = Drain("layer-drain")
        self._room = self._rooms.take()  # holds the member
        self._size = 0  # of the member
        self._payload = 0  # bytes of files in the member
        self._chunks: list[tuple[TocEntry, int, int, _File | None]] = []
        self._dropped = False
        self._row = TocEntry("", "")
        self._file: _File | None = None
        self._left = 0  # of the entry's file
        self._chunk_left = 0
        self._landmark()

    def feed(self, data: bytes) -> None:
        self._inflater.feed(data)

    def finish(self) -> BuiltLayer:
        self._inflater.finish()
        self._tar.finish()
        self._cut()
        self._drain.join()
        ending = self._codec.end(self._toc.encode(), self._sender.offset)
        digest, size = self._sender.end(ending)
        annotations = dict(ending.annotations)
        if annotations:
            annotations[UNPACKED_SIZE] = str(self._sender.unpacked)
        blob = Descriptor(self._codec.media_type, digest, size, annotations=annotations)
        return BuiltLayer(blob, self._sender.diff_id, self._inflater.total)

    def abort(self) -> None:
        self._drain.abort()
        self._upload.abort()

    @property
    def obstacle(self) -> str:
        """After `finish`: why the layer has no TOC, so that it cannot be lazy; mostly empty."""
        return self._toc.obstacle

    def entry(self, entry: Entry) -> None:
        """An entry of the old archive."""
        self._dropped = clean_name(entry.name) in _OWN_NAMES and entry.type != "global"
        if not self._dropped:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        if self._size >= _HEADERS:
            # Headers only, as of many links or folders.
            self._cut()
        self._append(encode_header(entry) if entry.sparse else entry.raw)
        if entry.type == "global":
            return
        self._row = self._toc.add(entry)
        if entry.type == "reg":
            self._left = entry.size
            if entry.size:
                self._file = _File(self._row, entry.size) if entry.size > CHUNK else None
                self._begin_chunk()
            else:
                self._row.digest = _EMPTY_DIGEST

    def payload(self, data: memoryview) -> None:
        """Bytes of a file of the old archive."""
        if self._dropped:
            return
        while len(data) > self._chunk_left:
            self._append(data[: self._chunk_left])
            data = data[self._chunk_left :]
            self._left -= self._chunk_left
            offset = self._chunks[-1][0].chunk_offset + CHUNK
            self._row = self._toc.add_chunk(self._row)
            self._row.chunk_offset = offset
            self._begin_chunk()
        self._append(data)
        self._chunk_left -= len(data)
        self._left -= len(data)

    def padding(self, data: memoryview) -> None:
        """Bytes after a file of the old archive."""
        if not self._dropped:
            self._append(data)

    def _landmark(self) -> None:
        entry = Entry("reg", NO_PREFETCH, len(_LANDMARK))
        entry.raw = encode_header(entry)
        self._add(entry)
        self.payload(memoryview(_LANDMARK))
        self.padding(memoryview(bytes(BLOCK - len(_LANDMARK))))

    def _append(self, data: bytes | memoryview) -> None:
        end = self._size + len(data)
        if end > len(self._room):
            # Many headers in a row, or a very large one.
            self._room = memoryview(bytearray(self._room[: self._size]) + bytes(len(data) + CHUNK))
        self._room[self._size : end] = data
        self._size = end
        self._written += len(data)
        if self._written > self._limit:
            raise ImageError(f"the layer unpacks to more than {self._limit} bytes")

    def _begin_chunk(self) -> None:
        """A chunk of the entry begins here: in this member if it is small, else in the next."""
        size = min(self._left, CHUNK)
        if not self._payload or self._payload + size > SHARED:
            self._cut()
        row = self._row
        row.inner_offset = self._size
        if size < self._left:
            row.chunk_size = size
        self._chunks.append((row, self._size, size, self._file))
        self._payload += size
        self._chunk_left = size

    def _cut(self) -> None:
        """Let the pool have the member, and begin the next."""
        if self._size:
            self._drain.reserve(self._size)
            if self._size < _SMALL:
                member = _Member(memoryview(bytes(self._room[: self._size])), self._chunks)
            else:
                member = _Member(self._room[: self._size], self._chunks, self._room)
                self._room = self._rooms.take()
            compress = self._codec.choose(member.data)
            result = self._pool.submit(_compress, member, compress)
            self._drain.put(len(member.data), result, partial(self._sender.send, member))
        self._chunks = []
        self._size = self._payload = 0


def _compress(member: _Member, compress: Callable[[memoryview], bytes]) -> bytes:
    view = member.data
    for row, start, size, file in member.chunks:
        row.chunk_digest = f"sha256:{hashlib.sha256(view[start : start + size]).hexdigest()}"
        if file is None:
            row.digest = row.chunk_digest
    return compress(member.data)


class _Sender:
    """Sends members, in order, and learns what the whole is."""

    def __init__(self, upload: Upload, rooms: Rooms) -> None:
        self._upload = upload
        self._rooms = rooms
        self._diff = hashlib.sha256()
        self.offset = 0
        self.unpacked = 0

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._diff.hexdigest()}"

    def send(self, member: _Member, stored: bytes) -> None:
        view = member.data
        self._diff.update(view)
        for row, start, size, file in member.chunks:
            row.offset = self.offset
            if file is not None:
                file.hash.update(view[start : start + size])
                file.left -= size
                if not file.left:
                    file.row.digest = f"sha256:{file.hash.hexdigest()}"
        self._upload.write(stored)
        self.offset += len(stored)
        self.unpacked += len(view)
        if member.room is not None:
            self._rooms.give(member.room)

    def end(self, ending: Ending) -> tuple[str, int]:
        self._diff.update(ending.unpacked)
        self.unpacked += len(ending.unpacked)
        for start in range(0, len(ending.stored), CHUNK):
            self._upload.write(memoryview(ending.stored)[start : start + CHUNK])
        return self._upload.commit()
