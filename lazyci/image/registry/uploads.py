"""Blobs into a registry: hashed as they pass, sent in chunks while the next is being made."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import threading
from collections.abc import Callable
from typing import IO

from lazyci.errors import InputError, UploadLostError
from lazyci.image.registry.chunks import Chunks
from lazyci.image.registry.exchange import Body
from lazyci.image.registry.target import Target

__all__ = ["Uploader"]

# Seconds that a chunk on its way has to arrive when its upload is dropped.
_LANDING = 2.0


class Uploader:
    """A blob on its way; see `store.Upload`.

    What fits into one chunk is sent whole, by one request and only if it is not there. Of a larger
    one, two chunks are in memory: one on its way, one being filled. A registry that takes no chunks
    gets it from a temporary file.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        # It may change for the registry while this upload is on its way.
        self._chunk = target.chunk
        self._hasher = hashlib.sha256()
        self._size = 0
        self._pieces: list[bytes] = []
        self._held = 0
        self._chunks: Chunks | None = None
        self._flight: _Flight | None = None
        self._file: IO[bytes] | None = None
        self._over = False

    def write(self, data: bytes | memoryview) -> None:
        if self._over:
            raise UploadLostError("the upload is over")
        self._hasher.update(data)
        self._size += len(data)
        at = 0
        while at < len(data):
            # Only now: the last chunk must not be empty.
            if self._held == self._chunk:
                self._pass_on(self._collect())
            part = data[at : at + self._chunk - self._held]
            # Others use their buffer again; bytes are only held.
            self._pieces.append(part if isinstance(part, bytes) else bytes(part))
            self._held += len(part)
            at += len(part)

    def commit(self) -> tuple[str, int]:
        if self._over:
            raise UploadLostError("the upload is over")
        digest = f"sha256:{self._hasher.hexdigest()}"
        body = self._collect()
        if self._chunks is not None:
            self._land()
            self._chunks.end(body, digest, self._size)
        elif self._file is not None:
            self._spool(body)
            self._target.send_whole(Body(self._file, self._size), digest, self._size)
        else:
            self._target.send_whole(body, digest, self._size)
        self._end()
        return digest, self._size

    def abort(self) -> None:
        if self._over:
            return
        if self._chunks is not None:
            # A chunk that is cut off may be written by the registry after the session is dropped.
            if self._flight is not None and not self._flight.landed(_LANDING):
                self._chunks.stop.set()
            with contextlib.suppress(Exception):
                self._land()
            with contextlib.suppress(Exception):
                self._chunks.drop()
        self._end()

    def _pass_on(self, body: bytes) -> None:
        if self._file is not None or (self._target.whole and self._chunks is None):
            self._spool(body)
            return
        if self._chunks is None:
            self._chunks = Chunks(self._target)
        self._land()
        chunks = self._chunks
        self._flight = _Flight(lambda: chunks.add(body))

    def _collect(self) -> bytes:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        return body

    def _land(self) -> None:
        """Wait for the chunk that is on its way; what stopped it stops all later ones."""
        if self._flight is not None:
            self._flight.wait()

    def _spool(self, body: bytes) -> None:
        try:
            if self._file is None:
                # Without a name, so that nothing is left whatever happens.
                self._file = tempfile.TemporaryFile(prefix="lazyci-")  # noqa: SIM115
            self._file.write(body)
            self._file.flush()
        except OSError as error:
            reason = f"cannot be written: {error.strerror}"
            raise InputError(f"a temporary file for an upload {reason}") from None

    def _end(self) -> None:
        self._over = True
        self._pieces.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


class _Flight:
    """A task in a thread of its own; what it raises is raised where it is waited for."""

    def __init__(self, task: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(task,), name="upload", daemon=True)
        self._thread.start()

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self._error = error

    def landed(self, seconds: float) -> bool:
        """Whether it has ended, within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error
