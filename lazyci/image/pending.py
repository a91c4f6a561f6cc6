"""`REF-lazy-pending`: a tiny manifest that says a variant is being made.

`lazyci pull` reads it to decide whether waiting pays.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from lazyci.errors import ImageError, LazyciError
from lazyci.image.manifest import EMPTY_CONFIG, OCI_MANIFEST, Content, digest_of, encode
from lazyci.image.store import Repository
from lazyci.image.transfer import EMPTY, put_bytes, remove_tagged

__all__ = ["PENDING_SUFFIX", "PENDING_TYPE", "Pending", "announced", "read_pending"]

PENDING_SUFFIX = "-pending"
PENDING_TYPE = "application/vnd.dev.lazyci.pending.v1+json"
# A conversion that takes longer than this many times what was expected has died.
_PATIENCE = 4
_SHORTEST = 300


@dataclass(frozen=True, slots=True)
class Pending:
    """A conversion under way.

    Attributes:
        original: Digest of what is being converted.
        started: When it began, in seconds since 1970.
        expected: How many seconds it should take.
        expires: From when on it counts as dead, in seconds since 1970.
    """

    original: str
    started: int
    expected: int
    expires: int


class _Document(msgspec.Struct, rename="camel"):
    annotations: dict[str, str]
    artifact_type: str = ""


def read_pending(content: Content) -> Pending:
    """Read the manifest.

    Raises:
        ImageError: It is none of this kind.
    """
    try:
        document = msgspec.json.decode(content.body, type=_Document)
        notes = document.annotations
        if document.artifact_type != PENDING_TYPE:
            raise ImageError(f"{content.digest} says nothing of a conversion")
        return Pending(
            notes["dev.lazyci.original"],
            int(notes["dev.lazyci.started"]),
            int(notes["dev.lazyci.expected"]),
            int(notes["dev.lazyci.expires"]),
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise ImageError(f"{content.digest} is malformed: {error}") from None


@contextlib.contextmanager
def announced(
    repository: Repository,
    tag: str,
    original: str,
    expected: float,
    say: Callable[[str], None],
) -> Iterator[None]:
    """While inside, the tag says that a variant is being made.

    That it cannot be written or removed is said; the conversion goes on. One that stays behind
    is ignored after it expired.

    Args:
        repository: Where the variant will be.
        tag: The variant's tag.
        original: Digest of what is being converted.
        expected: Seconds the conversion should take.
        say: Called with a line for the user.
    """
    started = int(time.time())
    seconds = max(1, round(expected))
    body = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": PENDING_TYPE,
            "config": {"mediaType": EMPTY_CONFIG, "digest": digest_of(EMPTY), "size": len(EMPTY)},
            # Some registries refuse a manifest without layers.
            "layers": [{"mediaType": EMPTY_CONFIG, "digest": digest_of(EMPTY), "size": len(EMPTY)}],
            "annotations": {
                "dev.lazyci.original": original,
                "dev.lazyci.started": str(started),
                "dev.lazyci.expected": str(seconds),
                "dev.lazyci.expires": str(started + max(_SHORTEST, _PATIENCE * seconds)),
                # Makes the manifest this run's own, so that it can be removed by its digest.
                "dev.lazyci.run": os.urandom(8).hex(),
            },
        }
    )
    digest = ""
    try:
        put_bytes(repository, EMPTY)
        digest = repository.push_manifest(body, OCI_MANIFEST, tag + PENDING_SUFFIX)
    except LazyciError as error:
        say(f"{tag}{PENDING_SUFFIX} is not written: {error}")
    try:
        yield
    finally:
        if digest:
            try:
                remove_tagged(repository, tag + PENDING_SUFFIX, digest)
            except LazyciError as error:
                say(f"{tag}{PENDING_SUFFIX} stays until it expires: {error}")
