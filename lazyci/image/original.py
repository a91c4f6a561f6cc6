"""An image as it was built: its platforms, their manifests, configs and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lazyci.errors import ImageError
from lazyci.image.manifest import (
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    Content,
    Descriptor,
    Platform,
    check_digest,
    compression,
    digest_of,
)
from lazyci.image.store import Repository

__all__ = ["Image", "Original", "index_entries", "parse_manifest", "read_bytes", "read_original"]

_CONFIGS = (OCI_CONFIG, "application/vnd.docker.container.image.v1+json")
# Far above what builders write; a config holds one line per layer and the environment.
_MAX_CONFIG = 16 << 20
# Docker allows 127 layers; an index of more platforms than this is no image.
_MAX_LAYERS = 1000
_ATTESTATION = "vnd.docker.reference.type"


class _Manifest(msgspec.Struct, rename="camel"):
    config: Descriptor
    layers: list[Descriptor]


class _Index(msgspec.Struct):
    manifests: list[Descriptor]


class _RootFS(msgspec.Struct):
    diff_ids: list[str]


class _Config(msgspec.Struct):
    rootfs: _RootFS
    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")


@dataclass(frozen=True, slots=True)
class Image:
    """The image of one platform.

    Attributes:
        entry: Its descriptor as in the index, or as it would be there.
        content: Its manifest.
        config: Bytes of its config.
        config_blob: The config's descriptor.
        layers: Its layers, the lowest first.
        diff_ids: Digest of each layer's unpacked tar stream.
    """

    entry: Descriptor
    content: Content
    config: bytes
    config_blob: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]

    @property
    def platform(self) -> Platform:
        return self.entry.platform or Platform()


@dataclass(frozen=True, slots=True)
class Original:
    """What a reference names, before conversion.

    Attributes:
        content: The index, or the manifest when there is no index.
        images: The images that can be converted.
        others: What the index holds besides: attestations, artifacts, platforms not asked for.
    """

    content: Content
    images: tuple[Image, ...]
    others: tuple[Descriptor, ...]


def _decode(content: Content, form: type[Any], what: str) -> Any:
    try:
        return msgspec.json.decode(content.body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"{what} {content.digest} is malformed: {error}") from None


def _checked(blobs: Sequence[Descriptor]) -> None:
    if len(blobs) > _MAX_LAYERS:
        raise ImageError(f"a manifest names {len(blobs)} blobs; {_MAX_LAYERS} are allowed")
    for blob in blobs:
        check_digest(blob.digest)
        if blob.size < 0:
            raise ImageError(f"blob {blob.digest} has the negative size {blob.size}")


def parse_manifest(content: Content) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """Config and layers of a manifest."""
    manifest = _decode(content, _Manifest, "manifest")
    _checked([manifest.config, *manifest.layers])
    return manifest.config, tuple(manifest.layers)


def index_entries(content: Content) -> tuple[Descriptor, ...]:
    """The descriptors that an index holds."""
    entries = _decode(content, _Index, "index").manifests
    _checked(entries)
    return tuple(entries)


def read_bytes(repository: Repository, blob: Descriptor, limit: int) -> bytes:
    """A small blob, checked against its digest.

    Raises:
        ImageError: It is larger than the limit in bytes, or has another digest.
    """
    if blob.size > limit:
        raise ImageError(f"blob {blob.digest} has {blob.size} bytes; {limit} are allowed")
    pieces: list[bytes] = []
    repository.read_blob(blob, pieces.append)
    return b"".join(pieces)


def _read_image(repository: Repository, content: Content, entry: Descriptor | None) -> Image | None:
    """The image of one manifest, or None when it is no image whose layers can be read."""
    if entry is not None and _ATTESTATION in entry.annotations:
        return None
    config_blob, layers = parse_manifest(content)
    if config_blob.media_type not in _CONFIGS:
        return None
    if not all(compression(layer.media_type) for layer in layers):
        return None
    body = read_bytes(repository, config_blob, _MAX_CONFIG)
    config = _decode(Content(body, config_blob.media_type, digest_of(body)), _Config, "config")
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(layers):
        raise ImageError(
            f"manifest {content.digest} has {len(layers)} layers, its config {len(diff_ids)}"
        )
    for diff_id in diff_ids:
        check_digest(diff_id)
    if entry is None or entry.platform is None:
        platform = Platform(config.architecture, config.os, config.variant, config.os_version)
        base = entry or content.descriptor
        entry = msgspec.structs.replace(base, platform=platform)
    return Image(entry, content, body, config_blob, layers, tuple(diff_ids))


def _wanted(platform: Platform | None, chosen: Sequence[str]) -> bool:
    if not chosen or platform is None:
        return True
    # `linux/arm64` means each of its variants, as Docker's --platform does.
    return any(f"{platform}/".startswith(f"{text}/") for text in chosen)


def read_original(
    repository: Repository, content: Content, platforms: Sequence[str] = ()
) -> Original:
    """Read what an index or manifest names.

    Args:
        repository: Where it is.
        content: The index or manifest.
        platforms: `os/architecture[/variant]` of the images to convert; all by default.

    Raises:
        ImageError: Something in it is malformed, or nothing in it can be converted.
    """
    images: list[Image] = []
    others: list[Descriptor] = []
    if content.media_type in MANIFESTS:
        image = _read_image(repository, content, None)
        if image is not None and _wanted(image.platform, platforms):
            images.append(image)
    elif content.media_type in INDEXES:
        for entry in index_entries(content):
            found = None
            if entry.media_type in MANIFESTS and _wanted(entry.platform, platforms):
                child = repository.resolve(entry.digest)
                found = _read_image(repository, child, entry)
            if found is not None:
                images.append(found)
            else:
                others.append(entry)
    if not images:
        asked = f" for {', '.join(platforms)}" if platforms else ""
        raise ImageError(
            f"{content.digest} holds no image{asked} whose layers can be converted",
            hint=f"It is a {content.media_type or 'document of no known media type'}.",
        )
    return Original(content, tuple(images), tuple(others))
