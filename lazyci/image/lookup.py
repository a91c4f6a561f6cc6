"""What a registry has for a reference: the image, its lazy variant, or the promise of one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from lazyci.errors import ImageError, NotFoundError
from lazyci.image.manifest import ANNOTATION_ORIGINAL, Content
from lazyci.image.original import index_entries, parse_manifest
from lazyci.image.pending import PENDING_SUFFIX, Pending, read_pending
from lazyci.image.places import open_image
from lazyci.image.store import Repository
from lazyci.image.variant import ANNOTATION_FORMAT, variant_tag

__all__ = ["Found", "find_variant", "layers_size"]


@dataclass(frozen=True, slots=True)
class Found:
    """What there is.

    Attributes:
        original: Digest of the image that the reference names now; in place, of its original.
        variant: Digest of the variant; empty if there is none.
        tag: The variant's tag.
        format: Its format.
        names: Digest of the image that it was made of.
        pending: The conversion under way, if there is no variant of this image.
    """

    original: str
    variant: str = ""
    tag: str = ""
    format: str = ""
    names: str = ""
    pending: Pending | None = None

    @property
    def is_current(self) -> bool:
        """Whether there is a variant, and of the image that the reference names now."""
        return bool(self.variant) and self.names == self.original


def find_variant(reference: str, suffix: str) -> Found:
    """Look for the variant of an image.

    Args:
        reference: The image.
        suffix: The suffix of variants' tags.

    Raises:
        NotFoundError: The image itself is not there.
        RegistryError: The registry cannot be asked.
    """
    repository, name = open_image(reference)
    tag = variant_tag(name, suffix)
    # Three short requests: side by side they take as long as one.
    with ThreadPoolExecutor(3, "lookup") as pool:
        try:
            original = pool.submit(repository.resolve, name)
            variant = pool.submit(_resolve, repository, tag)
            pending = pool.submit(_resolve, repository, tag + PENDING_SUFFIX)
            content = original.result()
            if ANNOTATION_FORMAT in content.notes:
                return _found(content.notes.get(ANNOTATION_ORIGINAL, ""), content, name, None)
            return _found(content.digest, variant.result(), tag, pending.result())
        finally:
            pool.shutdown(cancel_futures=True)
            repository.close()


def _found(original: str, variant: Content | None, tag: str, pending: Content | None) -> Found:
    promise = None
    if pending is not None:
        try:
            promise = read_pending(pending)
        except ImageError:
            promise = None
        if promise is not None and promise.original != original:
            promise = None
    if variant is None or ANNOTATION_FORMAT not in variant.notes:
        return Found(original, pending=promise)
    found = Found(
        original,
        variant.digest,
        tag,
        variant.notes[ANNOTATION_FORMAT],
        variant.notes.get(ANNOTATION_ORIGINAL, ""),
    )
    return found if found.is_current else replace(found, pending=promise)


def _resolve(repository: Repository, name: str) -> Content | None:
    try:
        return repository.resolve(name)
    except NotFoundError:
        return None


def layers_size(reference: str, digest: str, platform: str) -> int:
    """Bytes of an image's compressed layers, all together.

    Args:
        reference: Any reference of its repository.
        digest: Of the image, or of the index that holds it.
        platform: `os/architecture`; of an index, the first entry that fits.

    Raises:
        ImageError: An index has no entry for the platform.
        RegistryError: The registry cannot be asked.
    """
    repository, _ = open_image(reference)
    try:
        content = repository.resolve(digest)
        if content.is_index:
            for entry in index_entries(content):
                if entry.platform is not None and str(entry.platform).startswith(platform):
                    content = repository.resolve(entry.digest)
                    break
            else:
                raise ImageError(f"{digest} has no image for {platform}")
        _, layers = parse_manifest(content)
        return sum(layer.size for layer in layers)
    finally:
        repository.close()
