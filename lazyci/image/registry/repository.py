"""A repository of a registry, as the OCI distribution specification 1.1 has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from lazyci.errors import ImageError, LazyciError, NotFoundError, RegistryError
from lazyci.image.manifest import (
    INDEXES,
    MANIFESTS,
    MAX_MANIFEST,
    OCI_INDEX,
    Content,
    Descriptor,
    check_digest,
    digest_of,
    has_digest,
)
from lazyci.image.registry import pages, reading
from lazyci.image.registry.answers import Answer, described
from lazyci.image.registry.auth import scope
from lazyci.image.registry.name import Name, check_reference
from lazyci.image.registry.session import Session
from lazyci.image.registry.target import Target
from lazyci.image.registry.uploads import Uploader
from lazyci.image.store import Sink

__all__ = ["RegistryRepository"]

_ACCEPT = f"Accept: {', '.join((*INDEXES, *MANIFESTS))}, */*;q=0.1"
# Media types that say nothing; what the manifest says of itself counts.
_VAGUE = ("", "application/json", "application/octet-stream", "text/plain")


class RegistryRepository:
    """A repository of a registry; see `store.Repository`."""

    def __init__(self, name: Name, session: Session) -> None:
        self._registry = name.registry
        self._repository = name.repository
        self._session = session
        self._path = f"/v2/{name.repository}"
        self._pull = (scope(name.repository, "pull"),)
        self._push = (scope(name.repository, "pull,push"),)
        self._target = Target.on(name.host, session, self._path, self._push)

    @property
    def name(self) -> str:
        return f"{self._registry}/{self._repository}"

    def resolve(self, reference: str) -> Content:
        by_digest = ":" in check_reference(reference)
        answer = self._session.send(
            "GET",
            f"{self._path}/manifests/{reference}",
            scopes=self._pull,
            headers=[_ACCEPT],
            limit=MAX_MANIFEST,
        )
        if not answer.good:
            raise answer.error("GET")
        what = f"{self.name}{'@' if by_digest else ':'}{reference}"
        if by_digest and not has_digest(answer.body, reference):
            raise ImageError(f"{what}: what the registry sent has another digest")
        digest = reference if by_digest else digest_of(answer.body)
        told = answer.header("docker-content-digest")
        if told.startswith("sha256:") and told != digest_of(answer.body):
            raise ImageError(f"{what}: the registry says {told}, but sent other bytes")
        return Content(answer.body, _media_type(answer, what), digest)

    def push_manifest(self, body: bytes, media_type: str, tag: str = "") -> str:
        digest = digest_of(body)
        if len(body) > MAX_MANIFEST:
            raise ImageError(
                f"the manifest {digest} has {len(body)} bytes; {MAX_MANIFEST} are allowed"
            )
        if not tag and self._has_manifest(digest, len(body)):
            return digest
        answer = self._session.send(
            "PUT",
            f"{self._path}/manifests/{check_reference(tag) if tag else digest}",
            scopes=self._push,
            headers=[f"Content-Type: {media_type}"],
            body=body,
            patience=120.0,
        )
        if not answer.good:
            raise answer.error("PUT")
        told = answer.header("docker-content-digest")
        if told.startswith("sha256:") and told != digest:
            raise ImageError(f"{described('PUT', answer.url)}: sent {digest}, stored {told}")
        return digest

    def _has_manifest(self, digest: str, size: int) -> bool:
        answer = self._session.send(
            "HEAD", f"{self._path}/manifests/{digest}", scopes=self._push, headers=[_ACCEPT]
        )
        return answer.good and answer.length in (size, None)

    def blob_size(self, digest: str) -> int | None:
        url = f"{self._path}/blobs/{check_digest(digest)}"
        answer = self._session.send("HEAD", url, scopes=self._pull)
        if answer.status == 404:
            return None
        if answer.good and answer.length is not None:
            return answer.length
        # Signed URLs of a storage are for GET alone.
        return reading.size_by_range(self._session, url, self._pull)

    def read_blob(self, blob: Descriptor, sink: Sink) -> None:
        reading.read_blob(self._session, self._blob_path(blob), self._pull, blob, sink)

    def read_range(self, blob: Descriptor, start: int, length: int) -> bytes:
        path = self._blob_path(blob)
        return reading.read_range(self._session, path, self._pull, blob, start, length)

    def _blob_path(self, blob: Descriptor) -> str:
        # `urls` is for layers that are not in a registry; whoever wrote the manifest chose them.
        return f"{self._path}/blobs/{check_digest(blob.digest)}"

    def upload(self) -> Uploader:
        return Uploader(self._target)

    def mount(self, digest: str, source: str) -> bool:
        source = source.removeprefix(f"{self._registry}/")
        query = f"mount={quote(check_digest(digest), safe='')}&from={quote(source, safe='')}"
        try:
            answer = self._session.send(
                "POST",
                f"{self._path}/blobs/uploads/?{query}",
                scopes=(*self._push, scope(source, "pull")),
                body=b"",
            )
        except LazyciError:
            # A mount saves a transfer; without it the transfer shows what is wrong.
            return False
        if answer.status == 202 and answer.header("location"):
            # An upload was opened instead.
            self._target.drop(self._target.location(answer))
        return answer.status == 201

    def delete_manifest(self, reference: str) -> None:
        answer = self._session.send(
            "DELETE",
            f"{self._path}/manifests/{check_reference(reference)}",
            scopes=(scope(self._repository, "pull,push,delete"),),
        )
        if answer.good or answer.status == 404:
            return
        error = answer.error("DELETE")
        if answer.status in (400, 405, 501):
            what = "manifests" if ":" in reference else "single tags"
            raise RegistryError(
                f"{error.message}: the registry does not delete {what}",
                hint="By digest it would take all other tags of the same image along."
                if ":" not in reference
                else "",
            )
        raise error

    def tags(self) -> Iterator[str]:
        return pages.tags(self._session, f"{self._path}/tags/list", self._pull)

    def referrers(self, digest: str) -> list[Descriptor]:
        url = f"{self._path}/referrers/{check_digest(digest)}"
        found = pages.referrers(self._session, url, self._pull)
        if found is not None:
            return found
        try:
            # The tag that stands in for the API where there is none.
            return pages.descriptors(self.resolve(digest.replace(":", "-")).body)
        except NotFoundError:
            return []

    def close(self) -> None:
        self._session.close()


def _media_type(answer: Answer, what: str) -> str:
    """The media type of a manifest, which registry and manifest must agree on."""
    told = answer.header("content-type").partition(";")[0].strip().lower()
    try:
        document: Any = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageError(f"{what} is not a JSON object")
    if "manifests" in document and ("layers" in document or "config" in document):
        # One digest that is two images (CVE-2021-41190).
        raise ImageError(f"{what} is an index and a manifest at once")
    own = document.get("mediaType") or ""
    if own and told not in (*_VAGUE, str(own).lower()):
        raise ImageError(f"{what}: the registry calls it {told!r:.100}, it itself {own!r:.100}")
    found = told if told not in _VAGUE else str(own)
    if not found and "manifests" in document:
        return OCI_INDEX
    if (found in MANIFESTS and "manifests" in document) or (
        found in INDEXES and "layers" in document
    ):
        raise ImageError(f"{what} is not what its media type says: {found}")
    return found
