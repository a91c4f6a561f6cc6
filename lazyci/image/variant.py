"""The shapes of lazy variants: which manifests, configs and indexes stand for an original.

- eStargz, zstd:chunked: the original with its layers exchanged; the config names their diffIDs.
- nydus: an OCI index that holds, for each platform, a copy of the original manifest with one
  empty layer of its own in front (the isolating layer), and a nydus manifest beside it.

Everything here is pure: descriptors in, bytes out, the same bytes for the same input.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lazyci.errors import InputError
from lazyci.image.manifest import (
    ANNOTATION_ORIGINAL,
    DOCKER_MANIFEST,
    GZIP_LAYER,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Content,
    Descriptor,
    digest_of,
    encode,
)
from lazyci.image.original import Image, Original, index_entries
from lazyci.image.store import BuiltLayer

__all__ = [
    "ANNOTATION_FORMAT",
    "ANNOTATION_KEY",
    "FORMATS",
    "Part",
    "exchanged",
    "index_of",
    "isolated",
    "original_tag",
    "own_children",
    "variant_key",
    "variant_tag",
    "variant_tags",
]

ANNOTATION_FORMAT = "dev.lazyci.format"
ANNOTATION_KEY = "dev.lazyci.key"
FORMATS = ("nydus", "nydus-index", "estargz", "zstdchunked")
# Raised when the shape of variants changes, so that older ones count as other ones.
_SHAPE = 1
_SUFFIX = re.compile(r"[\w.-]{1,40}", re.ASCII)
# As BuildKit describes what is no image.
_UNKNOWN = {"architecture": "unknown", "os": "unknown"}
_DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
# The longest tag by the distribution specification.
_MAX_TAG = 128


@dataclass(frozen=True, slots=True)
class Part:
    """One manifest of a variant, with the small blobs that must be stored before it.

    Attributes:
        content: The manifest.
        entry: Its descriptor for the index.
        blobs: Config and small layers, to be stored first.
    """

    content: Content
    entry: Descriptor
    blobs: tuple[bytes, ...]


def variant_tag(reference: str, suffix: str) -> str:
    """The tag of a variant.

    Args:
        reference: Tag or digest of the original.
        suffix: What is added to it, such as `-lazy`.

    Returns:
        `1.0-lazy` for `1.0`, and `sha256-<hex>-lazy` for a digest. A tag that would be longer
        than registries allow is cut, and a part of its digest keeps it apart from others.
    """
    if not _SUFFIX.fullmatch(suffix):
        raise InputError(
            f"{suffix[:80]!r} is no suffix for tags: 1 to 40 letters, digits, `_`, `.` and `-`"
        )
    tag = reference.replace(":", "-") + suffix
    if len(tag) <= _MAX_TAG:
        return tag
    mark = "-" + hashlib.sha256(reference.encode()).hexdigest()[:16] + suffix
    return reference[: _MAX_TAG - len(mark)] + mark


def variant_tags(reference: str, suffix: str) -> tuple[str, ...]:
    """All tags that an image's variants may have: that of the first format, and one per format."""
    tag = variant_tag(reference, suffix)
    return (tag, *(f"{tag}-{form}" for form in FORMATS))


def original_tag(tag: str) -> str:
    """The tag under which the original stays when its variant is published in place.

    It has nothing of the suffix, so that a rule that cleans up variants does not match it.
    """
    return variant_tag(tag, "-regular")


def variant_key(original: Original, form: str, settings: str) -> str:
    """A digest of all that decides what a variant looks like."""
    platforms = [image.content.digest for image in original.images]
    return digest_of(encode([_SHAPE, original.content.digest, form, settings, platforms]))


def own_children(content: Content) -> tuple[str, ...]:
    """The manifests that a variant's index holds for itself alone."""
    if not content.is_index:
        return ()
    entries = index_entries(content)
    return tuple(entry.digest for entry in entries if ANNOTATION_ORIGINAL in entry.annotations)


def _annotated(document: dict[str, Any], annotations: Mapping[str, str]) -> None:
    document["annotations"] = {**(document.get("annotations") or {}), **annotations}


def exchanged(image: Image, built: Sequence[BuiltLayer], annotations: Mapping[str, str]) -> Part:
    """The image with its layers exchanged: an OCI manifest, also for Docker's schema 2.

    Args:
        image: The original.
        built: The new layers, in the original's order.
        annotations: Annotations of the new manifest, besides the original's.
    """
    config = msgspec.json.decode(image.config)
    config["rootfs"]["diff_ids"] = [layer.diff_id for layer in built]
    body = encode(config)
    document = msgspec.json.decode(image.content.body)
    document["mediaType"] = OCI_MANIFEST
    document["config"] = _plain(Descriptor(OCI_CONFIG, digest_of(body), len(body)))
    document["layers"] = [_plain(layer.blob) for layer in built]
    _annotated(document, annotations)
    return _part(image, document, OCI_MANIFEST, (body,))


def isolated(image: Image, form: str, annotations: Mapping[str, str]) -> Part:
    """A copy of the image with an empty layer in front that no other image has.

    A lazily mounted tree hangs on the image's chain of layers. With a chain of its own it can
    never lie under another image that shares layers with this one.
    """
    tar, layer = _isolating_layer(f"lazyci {form} of {image.content.digest}")
    docker = image.content.media_type == DOCKER_MANIFEST
    blob = Descriptor(_DOCKER_GZIP if docker else GZIP_LAYER, digest_of(layer), len(layer))
    config = msgspec.json.decode(image.config)
    config["rootfs"]["diff_ids"].insert(0, digest_of(tar))
    if isinstance(config.get("history"), list):
        config["history"].insert(0, {"created_by": "lazyci", "comment": "isolating layer"})
    body = encode(config)
    document = msgspec.json.decode(image.content.body)
    document["config"] = {
        **document["config"],
        "digest": digest_of(body),
        "size": len(body),
    }
    # A config may lie inside its descriptor; it would be the old one.
    document["config"].pop("data", None)
    document["layers"].insert(0, _plain(blob))
    _annotated(document, annotations)
    return _part(image, document, image.content.media_type, (layer, body))


def index_of(
    original: Original, entries: Sequence[Descriptor], annotations: Mapping[str, str]
) -> Content:
    """The variant's index: the given manifests, then what the original held besides.

    The given ones get an annotation: they are the variant's own, the others the original's.
    """
    mark = {ANNOTATION_ORIGINAL: original.content.digest}
    entries = [
        msgspec.structs.replace(entry, annotations={**entry.annotations, **mark})
        for entry in entries
    ]
    document: dict[str, Any] = {"schemaVersion": 2}
    if original.content.is_index:
        document = msgspec.json.decode(original.content.body)
    others = {other.digest for other in original.others}
    # As they were written: descriptors may hold more than lazyci knows.
    # Without a platform an entry would end nydus-snapshotter, which looks at that of each.
    kept = [
        {**entry, "platform": entry.get("platform") or _UNKNOWN}
        for entry in document.get("manifests", [])
        if entry["digest"] in others
    ]
    document["mediaType"] = OCI_INDEX
    document["manifests"] = [*map(_plain, entries), *kept]
    _annotated(document, annotations)
    body = encode(document)
    return Content(body, OCI_INDEX, digest_of(body))


def _plain(descriptor: Descriptor) -> Any:
    return msgspec.to_builtins(descriptor)


def _part(image: Image, document: Any, media_type: str, blobs: tuple[bytes, ...]) -> Part:
    body = encode(document)
    content = Content(body, media_type, digest_of(body))
    entry = msgspec.structs.replace(
        image.entry, media_type=media_type, digest=content.digest, size=len(body)
    )
    return Part(content, entry, blobs)


def _isolating_layer(text: str) -> tuple[bytes, bytes]:
    """An empty tar stream that holds only a comment, plain and compressed."""
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": text}
    ):
        pass
    # 31: a gzip stream, whose header zlib writes without a time.
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return stream.getvalue(), compressor.compress(stream.getvalue()) + compressor.flush()
