"""What conversion needs of a place that holds images: a registry's repository, or a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from lazyci.image.manifest import Content, Descriptor

__all__ = ["BuiltLayer", "LayerBuilder", "Repository", "Sink", "Upload"]

# Takes the next bytes of a blob. What it raises ends the read and reaches the reader's caller.
Sink = Callable[[bytes], object]


class Upload(Protocol):
    """A blob on its way into a repository, hashed as it passes.

    A blob is there after `commit`, whole, or not at all.
    """

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes; may wait until earlier ones are on their way.

        The buffer may be used again as soon as this returns.

        Raises:
            UploadLostError: What was sent is lost and this upload cannot go on; a new upload of
                the same bytes from the start may succeed.
            RegistryError: The repository refuses.
        """

    def commit(self) -> tuple[str, int]:
        """Finish; return digest and size in bytes. The blob may have been there before."""

    def abort(self) -> None:
        """Drop the upload; never raises. Does nothing after `commit`."""


class Repository(Protocol):
    """One repository of images. All methods may be called from several threads at once."""

    @property
    def name(self) -> str:
        """What people call it: `registry.example.com/team/app` or `oci:folder`."""

    def resolve(self, reference: str) -> Content:
        """Read the manifest or index of a tag or digest, checked against the digest.

        Raises:
            NotFoundError: The repository has none of that name.
            RegistryError: It cannot be reached, refuses, or answers wrongly.
            ImageError: What it sent does not match the digest or is larger than MAX_MANIFEST.
        """

    def push_manifest(self, body: bytes, media_type: str, tag: str = "") -> str:
        """Store a manifest under its digest, and under a tag if one is given; return the digest."""

    def blob_size(self, digest: str) -> int | None:
        """The size of a blob in bytes, or None when the repository does not have it."""

    def read_blob(self, blob: Descriptor, sink: Sink) -> None:
        """Pass a whole blob on, in pieces, in order, each byte once.

        Interrupted transfers go on where they broke off. The digest and size are checked as the
        bytes pass, so the last piece has been passed on when a wrong digest is noticed.

        Raises:
            NotFoundError: The repository does not have the blob.
            RegistryError: It cannot be read, after all retries.
            ImageError: Size or digest differ from the descriptor's.
        """

    def read_range(self, blob: Descriptor, start: int, length: int) -> bytes:
        """Read a part of a blob. Nothing checks its digest: the caller must check what it holds."""

    def upload(self) -> Upload:
        """Begin to store a blob."""

    def mount(self, digest: str, source: str) -> bool:
        """Take a blob over from another repository of the same registry; False: not possible."""

    def delete_manifest(self, reference: str) -> None:
        """Remove a tag or, by digest, a manifest; nothing happens when there is none."""

    def tags(self) -> Iterator[str]:
        """All tags."""

    def referrers(self, digest: str) -> list[Descriptor]:
        """Manifests whose `subject` is this digest; empty too where the registry cannot tell."""

    def close(self) -> None:
        """End all connections; transfers in other threads end with an error."""


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """A layer in its new form, stored in the repository.

    Attributes:
        blob: The new layer with all annotations its format needs.
        diff_id: Digest of `blob` unpacked by an ordinary tool; empty where there is none (nydus).
        unpacked: Size of the source's tar stream, in bytes.
        bootstrap: nydus: the layer's own bootstrap (metadata), else empty.
    """

    blob: Descriptor
    diff_id: str
    unpacked: int
    bootstrap: bytes = b""


class LayerBuilder(Protocol):
    """Turns one layer into one format while it is being read."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the layer as they are in the registry (compressed).

        Raises:
            ImageError: The layer is malformed or exceeds a limit.
        """

    def finish(self) -> BuiltLayer:
        """End of the layer; its digest was right. Store the result and describe it."""

    def abort(self) -> None:
        """Stop, remove everything temporary and drop the upload; never raises."""
