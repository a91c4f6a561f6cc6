"""Blobs from a registry: streamed, checked, and gone on with where a transfer broke off."""

from __future__ import annotations

import hashlib
import re
import threading
import time

from lazyci.errors import ImageError, RegistryError
from lazyci.image.manifest import Descriptor, check_digest
from lazyci.image.registry.ahead import Pace, read_ahead
from lazyci.image.registry.answers import Answer, described
from lazyci.image.registry.clock import BrokenError
from lazyci.image.registry.session import Session
from lazyci.image.store import Sink

__all__ = ["read_blob", "read_range", "size_by_range"]

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
# Compressed on the way, a blob would have another digest.
_IDENTITY = "Accept-Encoding: identity"
_MAX_RANGE = 256 << 20
_BULK = 4 << 20
_PIECE = 1 << 20


def read_blob(
    session: Session, path: str, scopes: tuple[str, ...], blob: Descriptor, sink: Sink
) -> None:
    """Pass a blob on; see `Repository.read_blob`."""
    reader = _BlobReader(blob, sink, session.ahead)
    backoff = session.backoff()
    while reader.passed < blob.size or not reader.begun:
        try:
            if reader.is_slow:
                reader.is_slow = False
                try:
                    _read_ahead(session, path, scopes, blob, reader)
                finally:
                    session.ahead.release()
                break
            answer = session.send(
                "GET",
                path,
                scopes=scopes,
                headers=[_IDENTITY, *reader.range()],
                receive=reader.begin,
                tries=1,
                bulk=blob.size >= _BULK,
            )
            _check_whole(answer, reader.passed == blob.size)
        except _SlowError:
            reader.is_slow = True
        except _NoRangesError:
            reader.pace = None
        except BrokenError as error:
            backoff.wait(error, reader.passed)
    reader.end()


def _read_ahead(
    session: Session, path: str, scopes: tuple[str, ...], blob: Descriptor, reader: _BlobReader
) -> None:
    def read(start: int, end: int, stop: threading.Event) -> bytearray:
        return _read_part(session, path, scopes, blob, start, end, stop, must_be_part=True)

    def take(data: bytes | bytearray) -> None:
        for at in range(0, len(data), _PIECE):
            reader.take(bytes(memoryview(data)[at : at + _PIECE]))

    read_ahead(reader.passed, blob.size, read, take)


class _BlobReader:
    """What has been passed on of a blob, over all its transfers."""

    def __init__(self, blob: Descriptor, sink: Sink, ahead: threading.Semaphore) -> None:
        self._blob = blob
        self._sink = sink
        self._ahead = ahead
        self._hasher = hashlib.new(check_digest(blob.digest).partition(":")[0])
        self._skip = 0
        self.passed = 0
        self.begun = False
        self.is_slow = False
        self.pace: Pace | None = Pace(time.monotonic)

    def range(self) -> list[str]:
        return [f"Range: bytes={self.passed}-"] if self.passed else []

    def begin(self, answer: Answer) -> Sink:
        """Look at an answer before its first byte is taken."""
        if answer.status == 206:
            start, total = _content_range(answer)
            if start != self.passed:
                raise RegistryError(
                    f"{described('GET', answer.url)}: asked for byte {self.passed}, got {start}"
                )
        else:
            # The whole blob again: what was passed on is not passed on twice.
            self._skip, total = self.passed, answer.length
        if total is not None and total != self._blob.size:
            raise self._wrong(f"the registry has {total} bytes")
        self.begun = True
        return self._take

    def take(self, data: bytes) -> None:
        """Pass on the next bytes."""
        if self.passed + len(data) > self._blob.size:
            raise self._wrong("the registry sends more bytes")
        self._hasher.update(data)
        self.passed += len(data)
        self._sink(data)

    def _take(self, data: bytes) -> None:
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
            if not data:
                return
        began = time.monotonic()
        self.take(data)
        if self.pace is not None:
            self.pace.took(len(data), time.monotonic() - began)
            is_slow = self.pace.slow(self._blob.size - self.passed)
            if is_slow and self._ahead.acquire(blocking=False):
                raise _SlowError

    def end(self) -> None:
        found = self._hasher.hexdigest()
        if found != self._blob.digest.partition(":")[2]:
            raise self._wrong(f"what the registry sent has the digest {found}")

    def _wrong(self, reason: str) -> ImageError:
        return ImageError(f"blob {self._blob.digest} of {self._blob.size} bytes: {reason}")


def read_range(
    session: Session, path: str, scopes: tuple[str, ...], blob: Descriptor, start: int, length: int
) -> bytes:
    """Read a part of a blob; see `Repository.read_range`."""
    end = min(start + length, blob.size)
    if start < 0 or end <= start:
        return b""
    if end - start > _MAX_RANGE:
        raise ImageError(f"{end - start} bytes of {blob.digest}: {_MAX_RANGE} can be read at once")
    return bytes(_read_part(session, path, scopes, blob, start, end, None))


def _read_part(
    session: Session,
    path: str,
    scopes: tuple[str, ...],
    blob: Descriptor,
    start: int,
    end: int,
    stop: threading.Event | None,
    *,
    must_be_part: bool = False,
) -> bytearray:
    backoff = session.backoff(stop)
    while True:
        part = _RangeReader(blob, start, end, must_be_part=must_be_part)
        try:
            answer = session.send(
                "GET",
                path,
                scopes=scopes,
                headers=[_IDENTITY, f"Range: bytes={start}-{end - 1}"],
                receive=part.begin,
                tries=1,
                stop=stop,
                bulk=end - start >= _BULK,
            )
            _check_whole(answer, part.is_whole)
        except _EnoughError:
            pass
        except BrokenError as error:
            backoff.wait(error)
            continue
        return part.data


def _check_whole(answer: Answer, whole: bool) -> None:
    if not answer.good:
        raise answer.error("GET")
    if not whole:
        raise BrokenError(f"{described('GET', answer.url)}: the answer ended too early")


class _EnoughError(Exception):
    """All that was asked for has come; the rest of the answer is not needed."""


class _SlowError(Exception):
    """One connection is slower than what takes the bytes."""


class _NoRangesError(Exception):
    """The registry gives the whole blob for a part of it."""


class _RangeReader:
    def __init__(
        self, blob: Descriptor, start: int, end: int, *, must_be_part: bool = False
    ) -> None:
        self._blob = blob
        self._must_be_part = must_be_part
        self._is_more = False
        self._start, self._wanted = start, end - start
        self._skip = 0
        self._filled = 0
        # Grown piece by piece it would be copied again and again.
        self.data = bytearray(self._wanted)

    def begin(self, answer: Answer) -> Sink:
        if answer.status == 206:
            start, total = _content_range(answer)
            if start != self._start:
                raise RegistryError(
                    f"{described('GET', answer.url)}: asked for byte {self._start}, got {start}"
                )
        elif self._must_be_part:
            raise _NoRangesError
        else:
            self._skip, total = self._start, answer.length
            self._is_more = True
        if total is not None and total != self._blob.size:
            raise ImageError(
                f"blob {self._blob.digest} of {self._blob.size} bytes: the registry has {total}"
            )
        return self._take

    def _take(self, data: bytes) -> None:
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        missing = self._wanted - self._filled
        piece = memoryview(data)[skipped : skipped + missing]
        self.data[self._filled : self._filled + len(piece)] = piece
        self._filled += len(piece)
        # An answer that ends by itself leaves a connection that can be used again.
        if self.is_whole and (self._is_more or len(data) - skipped > missing):
            raise _EnoughError

    @property
    def is_whole(self) -> bool:
        return self._filled == self._wanted


def size_by_range(session: Session, path: str, scopes: tuple[str, ...]) -> int | None:
    """The size of a blob, by reading its first byte; None when it is not there."""
    found: list[int | None] = []

    def receive(answer: Answer) -> Sink:
        found.append(_content_range(answer)[1] if answer.status == 206 else answer.length)
        return _enough

    try:
        headers = [_IDENTITY, "Range: bytes=0-0"]
        answer = session.send("GET", path, scopes=scopes, headers=headers, receive=receive)
    except _EnoughError:
        pass
    else:
        if answer.status == 404:
            return None
        if answer.status == 416:
            return 0
        if not answer.good:
            raise answer.error("GET")
    if not found or found[-1] is None:
        raise RegistryError(f"{described('GET', path)}: the registry does not tell a blob's size")
    return found[-1]


def _enough(data: bytes) -> None:
    raise _EnoughError


def _content_range(answer: Answer) -> tuple[int, int | None]:
    """First byte and whole size that a 206 tells; no size when the registry does not know it."""
    match = _CONTENT_RANGE.fullmatch(answer.header("content-range"))
    if match is None:
        raise RegistryError(f"{described('GET', answer.url)}: a 206 without Content-Range")
    return int(match[1]), None if match[3] == "*" else int(match[3])
