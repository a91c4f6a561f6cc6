"""Manifests, indexes and descriptors, checked as they are read.

Formats: OCI image specification 1.1 (manifest, index, descriptor) and Docker's image manifest
version 2, schema 2. What is not changed is carried over as the bytes that were read.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from lazyci.errors import ImageError

__all__ = [
    "ANNOTATION_ORIGINAL",
    "DOCKER_INDEX",
    "DOCKER_MANIFEST",
    "EMPTY_CONFIG",
    "GZIP_LAYER",
    "INDEXES",
    "MANIFESTS",
    "MAX_MANIFEST",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "TAR_LAYER",
    "ZSTD_LAYER",
    "Content",
    "Descriptor",
    "Platform",
    "check_digest",
    "compression",
    "digest_of",
    "encode",
    "has_digest",
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (OCI_INDEX, DOCKER_INDEX)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
TAR_LAYER = "application/vnd.oci.image.layer.v1.tar"
GZIP_LAYER = TAR_LAYER + "+gzip"
ZSTD_LAYER = TAR_LAYER + "+zstd"
# The config of a manifest that is no image: two bytes, `{}` (OCI image specification 1.1).
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"

ANNOTATION_ORIGINAL = "dev.lazyci.original"

# What registries accept at least, by the distribution specification; Docker reads no more.
MAX_MANIFEST = 4 << 20

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_COMPRESSIONS = {
    TAR_LAYER: "none",
    GZIP_LAYER: "gzip",
    ZSTD_LAYER: "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "none",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}


class Platform(msgspec.Struct, omit_defaults=True, frozen=True):
    """Where an image runs."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, omit_defaults=True, frozen=True, rename="camel"):
    """What a blob or manifest is: media type, digest, size in bytes, and more."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str = ""


class _Annotated(msgspec.Struct):
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A manifest or index as it was read: its bytes are what its digest is made of."""

    body: bytes
    media_type: str
    digest: str

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.body))

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES

    @property
    def notes(self) -> dict[str, str]:
        """Its annotations; empty where there are none, or none that are texts."""
        try:
            return msgspec.json.decode(self.body, type=_Annotated).annotations or {}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}

    @property
    def is_manifest(self) -> bool:
        return self.media_type in MANIFESTS


def digest_of(body: bytes) -> str:
    """The digest of some bytes, as `sha256:…`."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def has_digest(body: bytes, digest: str) -> bool:
    """Whether the bytes have this digest, which must be a valid one."""
    algorithm, _, value = digest.partition(":")
    return hashlib.new(algorithm, body).hexdigest() == value


def encode(value: Any) -> bytes:
    """A manifest as bytes: keys in the order given, no blanks, so the same value is one digest."""
    return msgspec.json.encode(value)


def check_digest(text: str) -> str:
    """Return the digest.

    Raises:
        ImageError: It is none that lazyci can check.
    """
    if not _DIGEST.fullmatch(text):
        raise ImageError(f"{text[:100]!r} is not a sha256 or sha512 digest")
    return text


def compression(media_type: str) -> str:
    """How a layer of this media type is compressed: `none`, `gzip` or `zstd`; empty: no layer."""
    return _COMPRESSIONS.get(media_type, "")
