"""A repository in memory, for tests of what stands above registries; it breaks on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import msgspec

from lazyci.errors import ImageError, NotFoundError, UploadLostError
from lazyci.image.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MAX_MANIFEST,
    OCI_INDEX,
    Content,
    Descriptor,
    check_digest,
    digest_of,
)
from lazyci.image.store import Repository, Sink, Upload


class MemoryRepository:
    """All of one repository, in plain dictionaries that tests may read and change.

    Attributes:
        blobs: Bytes by digest.
        manifests: Manifests and indexes by digest.
        tagged: Digest by tag, in the order in which tags were pushed.
        calls: Each call as (method, digest, tag or blank), in order.
        before: Called with each such pair before the call does anything: it may raise, or change
            this repository (a tag that moves meanwhile). `upload` and `commit` pass through it too.
        served: Called with a digest and the bytes that are about to be served, of blobs (whole
            and range) and of manifests: what it returns is served instead.
        strict: Refuse manifests whose parts are not there, and to delete what an index lists, as
            registries do.
        mountable: Blobs by (repository name, digest) that `mount` finds.
        piece: Bytes that a sink gets at once.
    """

    def __init__(self, name: str = "registry.test/app", *, strict: bool = True) -> None:
        self._name = name
        self.strict = strict
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, Content] = {}
        self.tagged: dict[str, str] = {}
        self.mountable: dict[tuple[str, str], bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, subject: None
        self.served: Callable[[str, bytes], bytes] = lambda digest, body: body
        self.piece = 1 << 20
        self.uploading = 0
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        return self._name

    def add_blob(self, body: bytes, media_type: str = "application/octet-stream") -> Descriptor:
        """Put a blob there, past the calls that are recorded."""
        digest = digest_of(body)
        self.blobs[digest] = body
        return Descriptor(media_type, digest, len(body))

    def called(self, method: str) -> list[str]:
        """What a method was called with, call by call."""
        return [subject for name, subject in self.calls if name == method]

    def resolve(self, reference: str) -> Content:
        self._call("resolve", reference)
        content = self._find(reference)
        if content is None:
            raise NotFoundError(f"{self._name} has no {reference}")
        body = self.served(content.digest, content.body)
        if digest_of(body) != content.digest:
            raise ImageError(f"{reference}: the bytes do not match the digest")
        return content

    def push_manifest(self, body: bytes, media_type: str, tag: str = "") -> str:
        self._call("push_manifest", tag)
        if len(body) > MAX_MANIFEST:
            raise ImageError(f"the manifest has {len(body)} bytes")
        if self.strict:
            self._check_parts(body, media_type)
        digest = digest_of(body)
        with self._lock:
            self.manifests[digest] = Content(body, media_type, digest)
            if tag:
                self.tagged[tag] = digest
        return digest

    def blob_size(self, digest: str) -> int | None:
        self._call("blob_size", digest)
        body = self.blobs.get(digest)
        return None if body is None else len(body)

    def read_blob(self, blob: Descriptor, sink: Sink) -> None:
        self._call("read_blob", blob.digest)
        body = self._blob(blob)
        for start in range(0, len(body), self.piece):
            sink(body[start : start + self.piece])
        if len(body) != blob.size or digest_of(body) != blob.digest:
            raise ImageError(f"blob {blob.digest} does not match its descriptor")

    def read_range(self, blob: Descriptor, start: int, length: int) -> bytes:
        self._call("read_range", blob.digest)
        return self._blob(blob)[start : start + length]

    def upload(self) -> Upload:
        self._call("upload", "")
        with self._lock:
            self.uploading += 1
        return _MemoryUpload(self)

    def mount(self, digest: str, source: str) -> bool:
        self._call("mount", digest)
        body = self.mountable.get((source, digest))
        if body is None:
            return False
        self.blobs[digest] = body
        return True

    def delete_manifest(self, reference: str) -> None:
        self._call("delete_manifest", reference)
        with self._lock:
            if ":" not in reference:
                self.tagged.pop(reference, None)
                return
            if self.strict and any(reference in _children(c) for c in self.manifests.values()):
                raise ImageError(f"{reference} is in use by an index")
            self.manifests.pop(reference, None)
            for tag in [tag for tag, digest in self.tagged.items() if digest == reference]:
                del self.tagged[tag]

    def tags(self) -> Iterator[str]:
        self._call("tags", "")
        return iter(list(self.tagged))

    def close(self) -> None:
        """Nothing stays open."""

    def referrers(self, digest: str) -> list[Descriptor]:
        self._call("referrers", digest)
        found = []
        for content in list(self.manifests.values()):
            value = msgspec.json.decode(content.body)
            if (value.get("subject") or {}).get("digest") == digest:
                found.append(
                    Descriptor(
                        content.media_type,
                        content.digest,
                        len(content.body),
                        annotations=value.get("annotations") or {},
                        artifact_type=value.get("artifactType")
                        or (value.get("config") or {}).get("mediaType", ""),
                    )
                )
        return found

    def _call(self, method: str, subject: str) -> None:
        with self._lock:
            self.calls.append((method, subject))
        self.before(method, subject)

    def _find(self, reference: str) -> Content | None:
        with self._lock:
            if ":" in reference:
                return self.manifests.get(check_digest(reference))
            return self.manifests.get(self.tagged.get(reference, ""))

    def _blob(self, blob: Descriptor) -> bytes:
        body = self.blobs.get(blob.digest)
        if body is None:
            raise NotFoundError(f"{self._name} has no blob {blob.digest}")
        return self.served(blob.digest, body)

    def _check_parts(self, body: bytes, media_type: str) -> None:
        value = msgspec.json.decode(body)
        if media_type in (OCI_INDEX, DOCKER_INDEX):
            there: object = self.manifests
            parts = value.get("manifests", [])
        else:
            there = self.blobs
            parts = [value["config"], *value.get("layers", [])]
        for part in parts:
            if part["digest"] not in there and not part.get("urls"):  # type: ignore[operator]
                raise ImageError(f"{self._name}: the manifest needs {part['digest']}")


class _MemoryUpload:
    def __init__(self, repository: MemoryRepository) -> None:
        self._repository = repository
        self._body: bytearray | None = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._repository._call("write", str(len(data)))
        if self._body is None:
            raise UploadLostError("the upload is over")
        self._body += data

    def commit(self) -> tuple[str, int]:
        self._repository._call("commit", "")
        if self._body is None:
            raise UploadLostError("the upload is over")
        body = bytes(self._body)
        self._end()
        return self._repository.add_blob(body).digest, len(body)

    def abort(self) -> None:
        if self._body is not None:
            self._end()

    def _end(self) -> None:
        self._body = None
        with self._repository._lock:
            self._repository.uploading -= 1


def _children(content: Content) -> set[str]:
    if content.media_type == DOCKER_MANIFEST or not content.is_index:
        return set()
    return {part["digest"] for part in msgspec.json.decode(content.body).get("manifests", [])}


def _is_a_repository(repository: MemoryRepository) -> Repository:
    """Types only: mypy finds here what the protocol has and this class has not."""
    return repository
