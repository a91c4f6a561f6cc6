"""The nydus manifest of one platform, with its config and bootstrap layer.

Their form is that of nydus-snapshotter 0.16.1's converter (`pkg/converter/convert_unix.go`,
`constant.go`). What reads them: its index detection (`pkg/index/detector.go`), which takes the
last layer of the manifest, asks for its annotation `nydus-bootstrap`, and takes the file
`image/image.boot` out of it; and nydusd, which fetches the blobs by the digests in there.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lazyci.errors import ImageError
from lazyci.image.manifest import GZIP_LAYER, OCI_MANIFEST, Descriptor, digest_of, encode

__all__ = [
    "ANNOTATION_REF",
    "ANNOTATION_TOC",
    "BOOTSTRAP_FILE",
    "NYDUS_BLOB",
    "NYDUS_CONFIG",
    "NYDUS_MANIFEST",
    "BootstrapLayer",
    "NydusManifest",
    "bootstrap_layer",
    "index_layer",
    "nydus_layer",
    "nydus_manifest",
]

NYDUS_MANIFEST = "application/vnd.nydus.image.manifest.v1+json"
NYDUS_CONFIG = "application/vnd.nydus.image.config.v1+json"
NYDUS_BLOB = "application/vnd.oci.image.layer.nydus.blob.v1"
_ANNOTATION = "containerd.io/snapshot/nydus-"
# The digest of the original layer whose data an index points into.
ANNOTATION_REF = f"{_ANNOTATION}ref"
# The hexadecimal digest of an index blob's table of contents, for the merge.
ANNOTATION_TOC = "dev.lazyci.nydus-toc"
BOOTSTRAP_FILE = "image/image.boot"
_HISTORY = {"created_by": "lazyci", "comment": "Nydus Bootstrap Layer"}


@dataclass(frozen=True, slots=True)
class BootstrapLayer:
    """The layer that holds the merged bootstrap: what to push, and how to name it."""

    body: bytes
    blob: Descriptor
    diff_id: str


@dataclass(frozen=True, slots=True)
class NydusManifest:
    """A manifest and the config that it names, as bytes to push."""

    body: bytes
    config: bytes

    @property
    def descriptor(self) -> Descriptor:
        """For the index; the platform is the caller's to add."""
        return Descriptor(
            OCI_MANIFEST, digest_of(self.body), len(self.body), artifact_type=NYDUS_MANIFEST
        )


def nydus_layer(digest: str, size: int) -> Descriptor:
    """A layer's blob with all its data."""
    return Descriptor(NYDUS_BLOB, digest, size, annotations={f"{_ANNOTATION}blob": "true"})


def index_layer(digest: str, size: int, source: str, toc: str) -> Descriptor:
    """A layer's blob that only points into the original layer `source`."""
    annotations = {f"{_ANNOTATION}blob": "true", ANNOTATION_REF: source, ANNOTATION_TOC: toc}
    return Descriptor(NYDUS_BLOB, digest, size, annotations=annotations)


def bootstrap_layer(bootstrap: bytes) -> BootstrapLayer:
    """A merged bootstrap as a layer; the same bytes give the same layer."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("image")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        file = tarfile.TarInfo(BOOTSTRAP_FILE)
        file.mode, file.size = 0o444, len(bootstrap)
        tar.addfile(file, io.BytesIO(bootstrap))
    data = packed.getvalue()
    # Not gzip.compress: its header names the system and, before Python 3.11, the time.
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    body = deflate.compress(data) + deflate.flush()
    annotations = {f"{_ANNOTATION}bootstrap": "true", f"{_ANNOTATION}fs-version": "6"}
    blob = Descriptor(GZIP_LAYER, digest_of(body), len(body), annotations=annotations)
    return BootstrapLayer(body, blob, f"sha256:{hashlib.sha256(data).hexdigest()}")


def nydus_manifest(
    config: bytes, layers: Sequence[Descriptor], bootstrap: BootstrapLayer
) -> NydusManifest:
    """The nydus manifest of one platform.

    Args:
        config: The original image's config.
        layers: The blob of each of its layers, in order.
        bootstrap: The merged bootstrap.

    Raises:
        ImageError: The config is no JSON object.
    """
    try:
        values = msgspec.json.decode(config, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ImageError(f"the image's config is malformed: {error}") from error
    # A nydus blob is no tar: like the converter, its own digest stands for that of its content.
    values["rootfs"] = {
        "type": "layers",
        "diff_ids": [*(layer.digest for layer in layers), bootstrap.diff_id],
    }
    history = values.get("history")
    values["history"] = [*(history if isinstance(history, list) else []), _HISTORY]
    new_config = encode(values)
    body = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": NYDUS_MANIFEST,
            # A type that containerd does not know keeps it from choosing this manifest.
            "config": Descriptor(NYDUS_CONFIG, digest_of(new_config), len(new_config)),
            "layers": [*layers, bootstrap.blob],
        }
    )
    return NydusManifest(body, new_config)
