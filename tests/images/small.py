"""Small images, made in memory, in any repository."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import zstandard

from lazyci.image.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Content,
    digest_of,
    encode,
)
from lazyci.image.store import Repository
from lazyci.image.transfer import put_bytes

__all__ = ["layer_of", "push_image", "push_index"]

_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def layer_of(files: Mapping[str, bytes]) -> bytes:
    """A layer's tar; a name that ends with `/` is a directory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, body in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mtime = 1_700_000_000
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def push_image(
    repository: Repository,
    layers: Sequence[bytes],
    tag: str = "",
    *,
    docker: bool = False,
    compression: str = "gzip",
    architecture: str = "amd64",
    **config: Any,
) -> Content:
    """Push an image of these tar layers; return its manifest."""
    blobs = []
    for layer in layers:
        stored = _compressed(layer, compression)
        put_bytes(repository, stored)
        kind = (
            _DOCKER_LAYER if docker else _LAYER + {"none": ""}.get(compression, f"+{compression}")
        )
        blobs.append({"mediaType": kind, "size": len(stored), "digest": digest_of(stored)})
    body = encode(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], **config},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
        }
    )
    put_bytes(repository, body)
    kind = _DOCKER_CONFIG if docker else OCI_CONFIG
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": kind, "size": len(body), "digest": digest_of(body)},
        "layers": blobs,
    }
    return _push(repository, manifest, media_type, tag)


def push_index(
    repository: Repository,
    images: Sequence[tuple[str, Content]],
    tag: str,
    *,
    docker: bool = False,
    attestation: bool = False,
) -> Content:
    """Push an index of images, each with its architecture; perhaps with an attestation."""
    entries: list[dict[str, Any]] = [
        {
            "mediaType": content.media_type,
            "digest": content.digest,
            "size": len(content.body),
            "platform": {"architecture": architecture, "os": "linux"},
        }
        for architecture, content in images
    ]
    if attestation:
        entries.append(_attestation(repository, entries[0]["digest"]))
    media_type = DOCKER_INDEX if docker else OCI_INDEX
    index = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return _push(repository, index, media_type, tag)


def _attestation(repository: Repository, of: str) -> dict[str, Any]:
    config, statement = b'{"architecture":"unknown","os":"unknown"}', b'{"statement":1}'
    for body in (config, statement):
        put_bytes(repository, body)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "size": len(config), "digest": digest_of(config)},
        "layers": [
            {
                "mediaType": "application/vnd.in-toto+json",
                "size": len(statement),
                "digest": digest_of(statement),
            }
        ],
    }
    content = _push(repository, manifest, OCI_MANIFEST, "")
    return {
        "mediaType": OCI_MANIFEST,
        "digest": content.digest,
        "size": len(content.body),
        "annotations": {
            "vnd.docker.reference.digest": of,
            "vnd.docker.reference.type": "attestation-manifest",
        },
        "platform": {"architecture": "unknown", "os": "unknown"},
        "strange": {"kept": True},
    }


def _push(repository: Repository, document: Any, media_type: str, tag: str) -> Content:
    body = encode(document)
    digest = repository.push_manifest(body, media_type, tag)
    return Content(body, media_type, digest)


def _compressed(layer: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.compress(layer, 6, mtime=0)
    return zstandard.ZstdCompressor().compress(layer) if kind == "zstd" else layer
