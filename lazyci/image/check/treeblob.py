"""Blobs read as streams, unpacked with bounds: the way of the check, apart from the converter's.

`Repository.read_blob` pushes; `tarfile` pulls. A thread and a short queue stand between the two.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import zstandard
from isal import isal_zlib

from lazyci.errors import ImageError
from lazyci.image.manifest import Descriptor
from lazyci.image.store import Repository, Sink

__all__ = ["Pieces", "blob_pieces", "member_unpacker", "pushed", "unpacked"]

# Bytes as they come, in pieces of any size.
Pieces = Iterator[bytes]

# Pieces that wait for the reader; those of a registry's client have about 1 MiB.
_AHEAD = 8
# Output of one step, in bytes.
_PIECE = 1 << 20
# After each member what is left of the input is copied, so gzip gets it in small slices.
_GZIP_INPUT = 32 << 10
# zstd's output of one step has no bound of its own: 4 bytes can stand for 128 KiB.
_ZSTD_INPUT = 4 << 10
# 128 MiB: what `zstd -d` takes without --long.
_ZSTD_WINDOW = 1 << 27


class _StopReading(Exception):  # noqa: N818 - no error: it ends a read that nobody wants
    """Raised into `read_blob` when the reader has gone."""


@contextmanager
def blob_pieces(repository: Repository, blob: Descriptor) -> Generator[Pieces, None, None]:
    """Read a blob as an iterator of its pieces.

    Only when the iterator has ended, digest and size were right.

    Raises:
        LazyciError: What `Repository.read_blob` raises, out of the iterator.
    """
    with pushed(lambda sink: repository.read_blob(blob, sink)) as pieces:
        yield pieces


@contextmanager
def pushed(fill: Callable[[Sink], object]) -> Generator[Pieces, None, None]:
    """Turn what writes into a sink into an iterator of the bytes it writes.

    Args:
        fill: Runs in a thread of its own. What it raises comes out of the iterator; its sink
            raises when the reader has gone.
    """
    handed = _Handed()

    def run() -> None:
        try:
            # An empty piece would look like the end.
            fill(lambda data: handed.put(bytes(data)) if data else None)
            handed.put(None)
        except _StopReading:
            pass
        except BaseException as error:
            handed.fail(error)

    thread = threading.Thread(target=run, name="reader of the check", daemon=True)
    thread.start()
    try:
        yield handed.pieces()
    finally:
        handed.gone.set()
        thread.join()


class _Handed:
    """What goes from the thread that reads to the one that asked."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self.gone = threading.Event()

    def put(self, item: bytes | BaseException | None) -> None:
        while not self.gone.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
        raise _StopReading

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(_StopReading):
            self.put(error)

    def pieces(self) -> Pieces:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


def unpacked(pieces: Pieces, compression: str) -> Pieces:
    """The plain bytes of a layer.

    Args:
        pieces: The layer as it is stored.
        compression: `none`, `gzip` or `zstd`.

    Raises:
        ImageError: It is not compressed so, is truncated, or has something after its end.
    """
    if compression == "none":
        yield from pieces
        return
    unpack = member_unpacker(compression)
    for piece in pieces:
        yield from unpack(piece)
    yield from unpack(b"")


def member_unpacker(compression: str) -> Callable[[bytes], Pieces]:
    """A function that takes the next stored bytes and gives plain ones; no bytes: the end.

    Any number of gzip members or zstd frames may follow one another, then zeros.

    Raises:
        ImageError: As in `unpacked`, by the function's results.
    """
    if compression == "gzip":
        return _Gzip().feed
    if compression == "zstd":
        return _Zstd().feed
    raise ImageError(f"{compression[:50]!a} is no compression of layers")


class _Gzip:
    def __init__(self) -> None:
        self._member: isal_zlib.Decompress | None = None
        self._ended = False

    def feed(self, data: bytes) -> Pieces:
        if not data and (self._member is not None):
            raise ImageError("the gzip stream is truncated")
        for start in range(0, len(data), _GZIP_INPUT):
            yield from self._slice(data[start : start + _GZIP_INPUT])

    def _slice(self, data: bytes) -> Pieces:
        plain = b""
        # After a full step the member may hold more output, though all input is taken.
        while data or (self._member is not None and len(plain) == _PIECE):
            if self._member is None:
                if _is_padding(data, ended=self._ended):
                    return
                # 31: a gzip header, a window of 32 KiB, and a check of the trailer.
                self._member = isal_zlib.decompressobj(31)
            try:
                plain = self._member.decompress(data, _PIECE)
            except Exception as error:  # isal's own error has no type that mypy knows
                raise ImageError(f"the gzip stream is malformed: {error}") from None
            if plain:
                yield plain
            if self._member.eof:
                data = self._member.unused_data
                self._member, self._ended = None, True
            else:
                data = self._member.unconsumed_tail


class _Zstd:
    def __init__(self) -> None:
        self._tool = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._ended = False

    def feed(self, data: bytes) -> Pieces:
        if not data and self._frame is not None:
            raise ImageError("the zstd stream is truncated")
        for start in range(0, len(data), _ZSTD_INPUT):
            yield from self._slice(data[start : start + _ZSTD_INPUT])

    def _slice(self, data: bytes) -> Pieces:
        while data:
            if self._frame is None:
                if _is_padding(data, ended=self._ended):
                    return
                self._frame = self._tool.decompressobj()
            try:
                plain = self._frame.decompress(data)
            except zstandard.ZstdError as error:
                raise ImageError(f"the zstd stream is malformed: {error}") from None
            if plain:
                yield plain
            if not self._frame.eof:
                return
            data = self._frame.unused_data
            self._frame, self._ended = None, True


def _is_padding(data: bytes, *, ended: bool) -> bool:
    """Zeros after the last member, as written to tapes; gzip and its readers pass them over."""
    return ended and not data.strip(b"\0")
