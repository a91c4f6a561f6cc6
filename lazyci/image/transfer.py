"""Blobs and manifests stored, copied and removed; what is there already is not sent again."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

from lazyci.errors import LazyciError, NotFoundError, RegistryError
from lazyci.image.manifest import INDEXES, MANIFESTS, Content, Descriptor, digest_of
from lazyci.image.original import Original, index_entries, parse_manifest
from lazyci.image.store import Repository

__all__ = ["EMPTY", "copy_blob", "copy_manifest", "copy_original", "put_bytes", "remove_tagged"]

# The config of a manifest that is no image.
EMPTY = b"{}"


def put_bytes(repository: Repository, body: bytes) -> Descriptor:
    """Store a small blob unless it is there; its descriptor has no media type yet."""
    digest = digest_of(body)
    if repository.blob_size(digest) is None:
        upload = repository.upload()
        try:
            upload.write(body)
            upload.commit()
        except BaseException:
            upload.abort()
            raise
    return Descriptor("", digest, len(body))


def remove_tagged(repository: Repository, tag: str, digest: str) -> None:
    """Remove a manifest with its tag; nothing happens when the tag has become another's.

    Raises:
        RegistryError: The registry refuses.
    """
    try:
        if repository.resolve(tag).digest == digest:
            # Google's registries refuse a digest that has a tag, older ones refuse to remove tags.
            with contextlib.suppress(RegistryError):
                repository.delete_manifest(tag)
    except NotFoundError:
        pass
    repository.delete_manifest(digest)


def copy_blob(source: Repository, target: Repository, blob: Descriptor) -> None:
    """Copy a blob, mounted where both are in one registry."""
    if target.blob_size(blob.digest) == blob.size:
        return
    host, _, path = source.name.partition("/")
    if target.name.startswith(f"{host}/") and target.mount(blob.digest, path):
        return
    upload = target.upload()
    try:
        source.read_blob(blob, upload.write)
        upload.commit()
    except BaseException:
        upload.abort()
        raise


def copy_manifest(source: Repository, target: Repository, content: Content) -> None:
    """Copy a manifest under its digest, after all that it names."""
    if content.media_type in INDEXES:
        for entry in index_entries(content):
            copy_manifest(source, target, source.resolve(entry.digest))
    elif content.media_type in MANIFESTS:
        config, layers = parse_manifest(content)
        for blob in (config, *layers):
            copy_blob(source, target, blob)
    target.push_manifest(content.body, content.media_type)


def copy_original(
    source: Repository, target: Repository, original: Original, *, layers: bool, at_once: int
) -> None:
    """Copy what a variant in another repository shares with its original.

    Args:
        source: Where the original is.
        target: Where the variant will be.
        original: The original.
        layers: Whether the variant names the original's layers.
        at_once: How many blobs are copied at the same time.
    """
    blobs = {layer.digest: layer for image in original.images for layer in image.layers}
    with ThreadPoolExecutor(at_once, "copy") as pool:
        wanted = blobs.values() if layers else ()
        futures = [pool.submit(copy_blob, source, target, blob) for blob in wanted]
        try:
            for future in futures:
                future.result()
        except LazyciError:
            pool.shutdown(cancel_futures=True)
            raise
    for other in original.others:
        copy_manifest(source, target, source.resolve(other.digest))
