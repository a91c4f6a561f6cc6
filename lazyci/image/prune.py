"""Variants and records that nothing needs any more, found and removed.

An index is removed before the manifests that it names: registries refuse the other order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from lazyci.errors import ImageError, NotFoundError
from lazyci.image.manifest import ANNOTATION_ORIGINAL, INDEXES, MANIFESTS, Content
from lazyci.image.original import index_entries, parse_manifest
from lazyci.image.pending import PENDING_SUFFIX, read_pending
from lazyci.image.records import RECORD_PREFIX
from lazyci.image.store import Repository
from lazyci.image.transfer import remove_tagged
from lazyci.image.variant import ANNOTATION_FORMAT, own_children, variant_tags

__all__ = ["Removal", "find_orphans", "find_variants", "remove"]

_AT_ONCE = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Removal:
    """Something to remove.

    Attributes:
        kind: What it is.
        tag: The tag it has.
        digest: Its digest.
        reason: Why nothing needs it.
        children: Digests of the manifests to remove after it.
    """

    kind: Literal["variant", "record", "pending"]
    tag: str
    digest: str
    reason: str
    children: tuple[str, ...] = ()


@dataclass(slots=True)
class _Contents:
    """What a repository holds, by tag, and what its images are made of."""

    images: dict[str, Content] = field(default_factory=dict)
    variants: dict[str, Content] = field(default_factory=dict)
    records: dict[str, Content] = field(default_factory=dict)
    pending: dict[str, Content] = field(default_factory=dict)


def find_orphans(repository: Repository, suffix: str) -> list[Removal]:
    """What is left of images that are gone: stale variants, records, dead conversions.

    Every tag is looked at. When one cannot be read nothing is proposed, since it might be what
    keeps a layer in use.

    Args:
        repository: The repository.
        suffix: The suffix of variants' tags.

    Returns:
        What to remove, variants first.

    Raises:
        RegistryError: Something cannot be read.
    """
    contents = _read(repository)
    bases = {tag: base for base in contents.images for tag in variant_tags(base, suffix)}
    keep: dict[str, Content] = {}
    drop: dict[str, tuple[Content, str]] = {}
    for tag, content in contents.variants.items():
        reason = _why_orphaned(repository, content, contents.images.get(bases.get(tag, "")))
        if reason:
            drop[tag] = content, reason
        else:
            keep[tag] = content
    kept = {content.digest for content in keep.values()}
    removals = [
        Removal("variant", tag, content.digest, reason, own_children(content))
        for tag, (content, reason) in drop.items()
        if content.digest not in kept
    ]
    layers = _layers(repository, [*contents.images.values(), *_originals(repository, keep)])
    for tag, content in contents.records.items():
        if content.notes.get("dev.lazyci.source") not in layers:
            removals.append(Removal("record", tag, content.digest, "no image has its layer"))
    for tag, content in contents.pending.items():
        if _is_dead(content):
            removals.append(Removal("pending", tag, content.digest, "it expired"))
    return removals


def find_variants(repository: Repository, name: str, suffix: str) -> list[Removal]:
    """The variants of one image, whether or not it is still there.

    Args:
        repository: The repository.
        name: Tag or digest of the original.
        suffix: The suffix of variants' tags.
    """
    removals = []
    for tag in variant_tags(name, suffix):
        try:
            content = repository.resolve(tag)
        except NotFoundError:
            continue
        if _is_variant(content):
            removals.append(
                Removal("variant", tag, content.digest, "asked for", own_children(content))
            )
    return removals


def remove(repository: Repository, removals: Sequence[Removal]) -> None:
    """Remove what was found, and nothing that another tag has or names.

    Raises:
        RegistryError: A tag cannot be read, and nothing was removed; or the registry refuses, and
            what was removed before stays removed.
    """
    held = _held(repository, {removal.tag for removal in removals})
    for removal in removals:
        if removal.digest in held:
            # By its digest it would take the other tags along.
            _untag(repository, removal)
            continue
        # Only what was found: by now the tag may name something newer.
        remove_tagged(repository, removal.tag, removal.digest)
        for child in removal.children:
            if child not in held:
                repository.delete_manifest(child)


def _untag(repository: Repository, removal: Removal) -> None:
    try:
        if repository.resolve(removal.tag).digest == removal.digest:
            repository.delete_manifest(removal.tag)
    except NotFoundError:
        pass


def _held(repository: Repository, gone: set[str]) -> set[str]:
    """Digests that stay in use when these tags are gone: of tags, and what their indexes name."""
    contents = _resolved(repository, [tag for tag in repository.tags() if tag not in gone])
    held = {content.digest for content in contents.values()}
    return held.union(*map(_children, contents.values()))


def _read(repository: Repository) -> _Contents:
    contents = _Contents()
    for tag, content in _resolved(repository, list(repository.tags())).items():
        if tag.startswith(RECORD_PREFIX):
            contents.records[tag] = content
        elif tag.endswith(PENDING_SUFFIX) and _is_pending(content):
            contents.pending[tag] = content
        elif _is_variant(content):
            contents.variants[tag] = content
        else:
            contents.images[tag] = content
    return contents


def _resolved(repository: Repository, tags: Sequence[str]) -> dict[str, Content]:
    def resolve(tag: str) -> Content | None:
        try:
            return repository.resolve(tag)
        except NotFoundError:
            # Removed since the tags were listed.
            return None

    found = zip(tags, _parallel(resolve, tags), strict=True)
    return {tag: content for tag, content in found if content is not None}


def _parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    with ThreadPoolExecutor(_AT_ONCE, "prune") as pool:
        return list(pool.map(function, items))


def _is_variant(content: Content) -> bool:
    return {ANNOTATION_ORIGINAL, ANNOTATION_FORMAT} <= content.notes.keys()


def _is_pending(content: Content) -> bool:
    try:
        read_pending(content)
    except ImageError:
        return False
    return True


def _is_dead(content: Content) -> bool:
    return read_pending(content).expires < time.time()


def _why_orphaned(repository: Repository, content: Content, named: Content | None) -> str:
    """Why a variant is of no use, given what its reference names now; empty: it is of use."""
    digest = content.notes[ANNOTATION_ORIGINAL]
    if named is not None and named.digest != digest:
        return "its reference names another image now"
    try:
        repository.resolve(digest)
    except (NotFoundError, ImageError):
        return f"its original {digest[:100]} is gone"
    return ""


def _children(content: Content) -> tuple[str, ...]:
    if content.media_type not in INDEXES:
        return ()
    return tuple(entry.digest for entry in index_entries(content))


def _originals(repository: Repository, variants: dict[str, Content]) -> list[Content]:
    digests = {content.notes[ANNOTATION_ORIGINAL] for content in variants.values()}
    return _parallel(repository.resolve, sorted(digests))


def _layers(repository: Repository, contents: Sequence[Content]) -> set[str]:
    """Digests of all layers that the images have."""
    manifests = {content.digest: content for content in contents}
    children = {child for content in contents for child in _children(content)}
    for content in _parallel(repository.resolve, sorted(children - manifests.keys())):
        manifests[content.digest] = content
    return {
        layer.digest
        for content in manifests.values()
        if content.media_type in MANIFESTS
        for layer in parse_manifest(content)[1]
    }
