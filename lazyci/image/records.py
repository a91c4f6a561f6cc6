"""Which layer became which: records that let the next image convert its new layers only.

A record is a manifest in the repository itself, under a tag made from the source layer's digest,
the format, its settings and the versions of the tools. Its layer is the converted blob, so that
the registry keeps it. The same manifest is kept locally, for registries that refuse such tags, and
to find blobs in another repository of the registry.

Who can write records can write the repository, and so the image. Still a record counts only when
it names the same source, format and settings, when the blob has the size that it says, and when
the format's own check of the stored blob (its table of contents, its bootstrap) succeeds.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lazyci.errors import InputError, LazyciError
from lazyci.files import write_whole
from lazyci.image.manifest import (
    EMPTY_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    check_digest,
    digest_of,
    encode,
)
from lazyci.image.store import BuiltLayer, Repository
from lazyci.image.transfer import EMPTY, put_bytes

__all__ = ["RECORD_PREFIX", "RECORD_TYPE", "LayerKey", "Records"]

RECORD_TYPE = "application/vnd.dev.lazyci.layer.v1+json"
RECORD_PREFIX = "lazyci-layer-"


@dataclass(frozen=True, slots=True)
class LayerKey:
    """What decides how a converted layer looks: source digest, format, settings and versions."""

    source: str
    form: str
    settings: str

    @property
    def tag(self) -> str:
        text = "\n".join([self.source, self.form, self.settings])
        return RECORD_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:40]

    @property
    def annotations(self) -> dict[str, str]:
        return {
            "dev.lazyci.source": self.source,
            "dev.lazyci.format": self.form,
            "dev.lazyci.settings": self.settings,
        }


class _Record(msgspec.Struct, rename="camel"):
    layers: list[Descriptor]
    annotations: dict[str, str]


class _Local(msgspec.Struct):
    repository: str
    manifest: msgspec.Raw


class Records:
    """The records of one repository.

    Args:
        repository: Where converted layers are.
        folder: Where records are kept locally; None: nowhere.
        say: Called with a line for the user when a record cannot be used or kept.
    """

    def __init__(
        self, repository: Repository, folder: Path | None, say: Callable[[str], None]
    ) -> None:
        self._repository = repository
        self._folder = folder
        self._say = say

    def find(self, key: LayerKey) -> BuiltLayer | None:
        """The converted layer, when a record names it and the repository has it.

        Its format must still look at the blob (`Form.restored`).
        """
        for body, repository in self._manifests(key):
            try:
                built = self._read(body, key, repository)
            except (
                msgspec.MsgspecError,
                UnicodeDecodeError,
                LazyciError,
                ValueError,
                KeyError,
            ) as error:
                self._say(f"record {key.tag} is not used: {error}")
                continue
            if built is not None:
                return built
        return None

    def keep(self, key: LayerKey, built: BuiltLayer) -> None:
        """Write the record; that it cannot be written is said, and nothing more happens."""
        body = encode(_manifest(key, built))
        try:
            self._keep_locally(key, body)
            put_bytes(self._repository, EMPTY)
            self._repository.push_manifest(body, OCI_MANIFEST, key.tag)
        except LazyciError as error:
            self._say(f"record {key.tag} is not kept: {error}")

    def _keep_locally(self, key: LayerKey, body: bytes) -> None:
        if self._folder is None:
            return
        local = encode(_Local(self._repository.name, msgspec.Raw(body)))
        try:
            write_whole(self._folder / f"{key.tag}.json", local, 0o600)
        except InputError as error:
            self._say(f"record {key.tag} is not kept locally: {error}")

    def _manifests(self, key: LayerKey) -> list[tuple[bytes, str]]:
        """The record's manifests with the repository each speaks of, the local one first."""
        found = []
        if self._folder is not None:
            with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
                data = (self._folder / f"{key.tag}.json").read_bytes()
                local = msgspec.json.decode(data, type=_Local)
                found.append((bytes(local.manifest), local.repository))
        # No record, or one that cannot be read: the layer is converted again.
        with contextlib.suppress(LazyciError):
            found.append((self._repository.resolve(key.tag).body, self._repository.name))
        return found

    def _read(self, body: bytes, key: LayerKey, repository: str) -> BuiltLayer | None:
        record = msgspec.json.decode(body, type=_Record)
        if any(record.annotations.get(name) != value for name, value in key.annotations.items()):
            raise InputError("it speaks of another layer, format or version")
        [blob] = record.layers
        check_digest(blob.digest)
        if not self._has(blob, repository):
            return None
        diff_id = record.annotations["dev.lazyci.diff-id"]
        if diff_id:
            check_digest(diff_id)
        return BuiltLayer(blob, diff_id, int(record.annotations["dev.lazyci.unpacked"]))

    def _has(self, layer: Descriptor, repository: str) -> bool:
        size = self._repository.blob_size(layer.digest)
        if size is None and repository != self._repository.name:
            host = self._repository.name.partition("/")[0]
            if repository.startswith(f"{host}/"):
                source = repository.partition("/")[2]
                if self._repository.mount(layer.digest, source):
                    size = self._repository.blob_size(layer.digest)
        if size is not None and size != layer.size:
            raise InputError(f"blob {layer.digest} has {size} bytes instead of {layer.size}")
        return size is not None


def _manifest(key: LayerKey, built: BuiltLayer) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": RECORD_TYPE,
        "config": {"mediaType": EMPTY_CONFIG, "digest": digest_of(EMPTY), "size": len(EMPTY)},
        "layers": [msgspec.to_builtins(built.blob)],
        "annotations": {
            **key.annotations,
            "dev.lazyci.diff-id": built.diff_id,
            "dev.lazyci.unpacked": str(built.unpacked),
        },
    }
