"""Every chunk of a lazy layer, read the way a lazy reader reads it, while the layer passes by.

A lazy reader knows of a chunk only what the table of contents (TOC) says: it starts to unpack at
`offset`, skips `innerOffset` bytes and takes the chunk. So does this, for each chunk, with the
unpacker begun anew at each offset, and compares what it gets with the digests of the TOC.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from lazyci.errors import ImageError
from lazyci.image.check.compare import NOTHING, Difference, shown
from lazyci.image.check.toccheck import Row, StoredToc
from lazyci.image.check.treeblob import Pieces, member_unpacker
from lazyci.image.check.treetar import Limits

__all__ = ["ChunkCheck"]


class _Hash(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


@dataclass(slots=True)
class _File:
    """A file whose chunks are being put together."""

    row: Row
    chunks: int = 0
    seen: int = 0
    hash: _Hash = field(default_factory=hashlib.sha256)


@dataclass(slots=True)
class _Chunk:
    file: _File
    row: Row
    size: int
    left: int
    hash: _Hash = field(default_factory=hashlib.sha256)


@dataclass(slots=True)
class _Region:
    """What lies between one offset of the TOC and the next."""

    start: int
    end: int
    chunks: list[_Chunk] = field(default_factory=list)
    done: int = 0


class ChunkCheck:
    """Takes the stored bytes of a layer in order, and finds what its TOC says wrongly."""

    def __init__(self, toc: StoredToc, limits: Limits | None = None) -> None:
        self._most = (limits or Limits()).unpacked
        self._kind = toc.compression
        self._position = 0
        self._found: list[Difference] = []
        self._regions = iter(self._plan(toc))
        self._region = next(self._regions, None)
        self._unpack: Callable[[bytes], Pieces] | None = None
        self._plain = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the layer as it is stored."""
        view = memoryview(data)
        while view and self._region is not None:
            ahead = self._region.start - self._position
            if ahead > 0:
                taken = min(ahead, len(view))
            else:
                taken = min(self._region.end - self._position, len(view))
                self._pass(self._region, bytes(view[:taken]))
            view = view[taken:]
            self._position += taken
            if self._region.end <= self._position:
                self._close(self._region)

    def finish(self) -> list[Difference]:
        """The layer has ended: all that was found, in the order of the TOC's offsets."""
        while self._region is not None:
            self._close(self._region)
        return self._found

    def _pass(self, region: _Region, data: bytes) -> None:
        if region.done == len(region.chunks):
            return
        if self._unpack is None:
            self._unpack = member_unpacker(self._kind)
        try:
            for piece in self._unpack(data):
                self._take(region, piece)
                self._plain += len(piece)
        except ImageError as error:
            for chunk in region.chunks:
                if chunk.left:
                    self._report(chunk.row, "chunk", chunk.row.chunk_digest, str(error))
                    # Said once.
                    chunk.left, chunk.size = 0, -1
            region.done = len(region.chunks)

    def _take(self, region: _Region, piece: bytes) -> None:
        end = self._plain + len(piece)
        for chunk in itertools.islice(region.chunks, region.done, None):
            if chunk.row.inner_offset >= end:
                break
            if not chunk.left:
                continue
            begin = chunk.row.inner_offset + chunk.size - chunk.left - self._plain
            part = piece[max(begin, 0) : begin + chunk.left]
            chunk.left -= len(part)
            chunk.hash.update(part)
            whole = chunk.file
            # A file of one chunk is that chunk.
            if whole.chunks > 1 and chunk.row.chunk_offset + chunk.size - chunk.left == (
                whole.seen + len(part)
            ):
                whole.hash.update(part)
                whole.seen += len(part)
        while region.done < len(region.chunks) and not region.chunks[region.done].left:
            region.done += 1

    def _close(self, region: _Region) -> None:
        for chunk in region.chunks:
            if chunk.left:
                self._report(chunk.row, "chunk", f"{chunk.size} bytes", f"{chunk.left} less")
            elif chunk.size >= 0:
                self._settle(chunk)
        self._region = next(self._regions, None)
        self._unpack, self._plain = None, 0

    def _settle(self, chunk: _Chunk) -> None:
        digest = f"sha256:{chunk.hash.hexdigest()}"
        if digest != chunk.row.chunk_digest:
            self._report(chunk.row, "chunk", chunk.row.chunk_digest or NOTHING, digest)
        whole = chunk.file
        if whole.chunks > 1:
            if chunk.row.chunk_offset + chunk.size < whole.row.size:
                return
            if whole.seen != whole.row.size:
                self._report(whole.row, "chunks", "in order", "not in order")
                return
            digest = f"sha256:{whole.hash.hexdigest()}"
        if digest != whole.row.digest:
            self._report(whole.row, "content by chunks", whole.row.digest or NOTHING, digest)

    def _plan(self, toc: StoredToc) -> list[_Region]:
        regions: dict[int, _Region] = {}
        for chunk in self._chunks(toc):
            start = chunk.row.offset
            if not 0 <= start < toc.end:
                self._report(chunk.row, "offset", f"below {toc.end}", str(start))
                continue
            regions.setdefault(start, _Region(start, toc.end)).chunks.append(chunk)
        planned = [regions[start] for start in sorted(regions)]
        for region, following in itertools.pairwise(planned):
            region.end = following.start
        for region in planned:
            region.chunks.sort(key=lambda chunk: chunk.row.inner_offset)
        return planned

    def _chunks(self, toc: StoredToc) -> Iterator[_Chunk]:
        """The chunks of all files; those of a file must cover it, each byte once."""
        if sum(row.size for row in toc.rows) > self._most:
            raise ImageError(f"the TOC tells of files of more than {self._most} bytes")
        file: _File | None = None
        covered = 0
        for row in [*toc.rows, Row("", "end")]:
            if row.type != "chunk":
                if file is not None and covered != file.row.size:
                    self._report(file.row, "chunks", f"{file.row.size} bytes", f"{covered}")
                file = _File(row) if row.type == "reg" and row.size else None
                covered = 0
            if file is None:
                if row.type == "chunk":
                    self._report(row, "chunk", "after its file", "without a file")
                continue
            if row.chunk_offset != covered or row.inner_offset < 0 or row.chunk_size < 0:
                self._report(row, "chunk offset", str(covered), str(row.chunk_offset))
            size = row.chunk_size or file.row.size - row.chunk_offset
            size = max(min(size, file.row.size), 0)
            covered += size
            file.chunks += 1
            yield _Chunk(file, row, size, size)

    def _report(self, row: Row, what: str, expected: str, found: str) -> None:
        path = shown(row.name.strip("/"), len(row.name))
        self._found.append(Difference(path or "/", what, shown(expected), shown(found)))
