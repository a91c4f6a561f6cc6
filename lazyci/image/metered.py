"""A repository that counts what passes and can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from lazyci.image.manifest import Content, Descriptor
from lazyci.image.store import Repository, Sink, Upload

__all__ = ["Cancelled", "Metered"]


class Cancelled(BaseException):
    """The conversion was stopped from outside. No `except Exception` may hold it up."""


class Metered:
    """A repository with counters.

    Attributes:
        bytes_in: Bytes read so far: blobs, ranges and manifests.
        bytes_out: Bytes sent so far: blobs and manifests.
    """

    def __init__(self, inner: Repository, cancelled: threading.Event) -> None:
        self._inner = inner
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self.bytes_in = 0
        self.bytes_out = 0

    def _add(self, read: int, sent: int) -> None:
        with self._lock:
            self.bytes_in += read
            self.bytes_out += sent

    def _check(self) -> None:
        # Blobs only: what is left to tidy up at the end is done by manifests.
        if self._cancelled.is_set():
            raise Cancelled

    def _sent(self, size: int) -> None:
        self._check()
        self._add(0, size)

    @property
    def name(self) -> str:
        return self._inner.name

    def resolve(self, reference: str) -> Content:
        content = self._inner.resolve(reference)
        self._add(len(content.body), 0)
        return content

    def push_manifest(self, body: bytes, media_type: str, tag: str = "") -> str:
        self._add(0, len(body))
        return self._inner.push_manifest(body, media_type, tag)

    def blob_size(self, digest: str) -> int | None:
        return self._inner.blob_size(digest)

    def read_blob(self, blob: Descriptor, sink: Sink) -> None:
        def count(data: bytes) -> None:
            self._check()
            self._add(len(data), 0)
            sink(data)

        self._inner.read_blob(blob, count)

    def read_range(self, blob: Descriptor, start: int, length: int) -> bytes:
        data = self._inner.read_range(blob, start, length)
        self._add(len(data), 0)
        return data

    def upload(self) -> Upload:
        return _MeteredUpload(self._inner.upload(), self._sent)

    def mount(self, digest: str, source: str) -> bool:
        return self._inner.mount(digest, source)

    def delete_manifest(self, reference: str) -> None:
        self._inner.delete_manifest(reference)

    def tags(self) -> Iterator[str]:
        return self._inner.tags()

    def referrers(self, digest: str) -> list[Descriptor]:
        return self._inner.referrers(digest)

    def close(self) -> None:
        self._inner.close()


class _MeteredUpload:
    def __init__(self, inner: Upload, count: Callable[[int], None]) -> None:
        self._inner = inner
        self._count = count

    def write(self, data: bytes | memoryview) -> None:
        self._count(len(data))
        self._inner.write(data)

    def commit(self) -> tuple[str, int]:
        self._count(0)
        return self._inner.commit()

    def abort(self) -> None:
        self._inner.abort()
