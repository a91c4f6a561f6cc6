"""One run of `nydus-image create`, from a pipe into an upload; nothing of it lies on disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

from lazyci.errors import ToolError
from lazyci.image.nydus.blob import bootstrap_of, toc_digest
from lazyci.image.nydus.chunks import CHUNK_SIZE
from lazyci.image.nydus.tool import NydusImage
from lazyci.image.store import Upload

__all__ = ["Stage"]

_PIPE = 1 << 20
# The end of a blob that may be in pipes when the last byte of the layer is written.
_UNDERWAY = 16 << 20
_OPTIONS = (
    "--log-level=error",
    "--fs-version=6",
    "--blob-inline-meta",
    "--features=blob-toc",
    f"--chunk-size=0x{CHUNK_SIZE:x}",
    "--whiteout-spec=oci",
    "--prefetch-policy=none",
)


class Stage:
    """A run of `nydus-image create` from a pipe into an upload."""

    def __init__(self, tool: NydusImage, upload: Upload, kind: str, *options: str) -> None:
        self._upload = upload
        self._failure: BaseException | None = None
        self.toc = ""
        self._tail = _Tail(_UNDERWAY)
        source, self._input = _pipe()
        self._output, target = _pipe()
        where = [f"--blob=/proc/self/fd/{target}", f"/proc/self/fd/{source}"]
        try:
            self._run = tool.start(
                "create", f"--type={kind}", *_OPTIONS, *options, *where, pass_fds=(source, target)
            )
        except BaseException:
            os.close(self._input)
            os.close(self._output)
            raise
        finally:
            os.close(source)
            os.close(target)
        self._reader = threading.Thread(target=self._pass_on, name="nydus-blob", daemon=True)
        self._reader.start()

    def write(self, data: bytes | memoryview) -> None:
        """Give nydus-image its next bytes.

        Raises:
            ToolError: It failed.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._input, view) :]
        except BrokenPipeError:
            self._wait()
            raise ToolError("nydus-image stopped reading") from None

    def finish(self) -> tuple[str, int, bytes]:
        """End of the input; return digest and size of the blob, and the bootstrap in it."""
        self._tail.open = True
        self._close()
        self._wait()
        tail = self._tail.bytes()
        bootstrap = bootstrap_of(tail, self._tail.size)
        self.toc = toc_digest(tail)
        digest, size = self._upload.commit()
        if size != self._tail.size:
            raise ToolError(f"the upload has {size} of {self._tail.size} bytes")
        return digest, size, bootstrap

    def abort(self) -> None:
        """Stop, and drop the upload."""
        self._run.kill()
        self._close()
        self._reader.join()
        self._upload.abort()

    def _close(self) -> None:
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def _wait(self) -> None:
        self._reader.join()
        if self._failure is not None:
            raise self._failure
        self._run.wait()

    def _pass_on(self) -> None:
        buffer = memoryview(bytearray(_PIPE))
        try:
            while count := os.readv(self._output, [buffer]):
                self._upload.write(buffer[:count])
                self._tail.add(buffer[:count])
        except BaseException as error:
            self._failure = error
            self._run.kill()
        finally:
            os.close(self._output)


class _Tail:
    """The end of a blob: its bootstrap comes after the last byte of the layer.

    Args:
        underway: How many bytes to keep of what comes before `open` is set.
    """

    def __init__(self, underway: int) -> None:
        self.size = 0
        self.open = False
        # One place for all: allocating each piece anew costs more than copying it.
        self._ring = memoryview(bytearray(underway))
        self._rest: list[bytes] = []
        self._at = 0

    def add(self, data: memoryview) -> None:
        self.size += len(data)
        if self.open:
            self._rest.append(bytes(data))
            return
        room = len(self._ring)
        first = min(room - self._at % room, len(data))
        start = self._at % room
        self._ring[start : start + first] = data[:first]
        self._ring[: len(data) - first] = data[first:]
        self._at += len(data)

    def bytes(self) -> bytes:
        room = len(self._ring)
        start = self._at % room
        whole = (
            [self._ring[start:], self._ring[:start]] if self._at > room else [self._ring[:start]]
        )
        return b"".join([*whole, *self._rest])


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    # Users without privileges may have less: then the default stays.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE)
    return ends
