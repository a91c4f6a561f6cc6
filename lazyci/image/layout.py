"""OCI image layouts: folders that hold images as a registry's repository does.

Format: OCI image layout specification 1.0. Tags are `org.opencontainers.image.ref.name`
annotations in `index.json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from lazyci.errors import ImageError, InputError, NotFoundError
from lazyci.files import write_whole
from lazyci.image.manifest import (
    MAX_MANIFEST,
    Content,
    Descriptor,
    check_digest,
    digest_of,
    has_digest,
)
from lazyci.image.store import Sink

__all__ = ["Layout", "split_layout"]

_NAME = "org.opencontainers.image.ref.name"
_MARKER = {"imageLayoutVersion": "1.0.0"}
_PIECE = 1 << 20


def split_layout(text: str) -> tuple[Path, str] | None:
    """Folder and tag or digest (or nothing) of `oci:DIR[:TAG]`; None when it is no such name."""
    scheme, separator, rest = text.partition(":")
    if scheme != "oci" or not separator or not rest:
        return None
    folder, at, digest = rest.partition("@")
    if at:
        return Path(folder), check_digest(digest)
    folder, colon, tag = rest.rpartition(":")
    return (Path(folder), tag) if colon and "/" not in tag else (Path(rest), "")


class Layout:
    """An image layout as a repository."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self._folder = folder
        if create:
            try:
                (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"no layout can be made there: {error.strerror}", path=str(folder)
                ) from None
            if not (folder / "oci-layout").exists():
                write_whole(folder / "oci-layout", json.dumps(_MARKER).encode())
        if not (folder / "oci-layout").is_file():
            raise NotFoundError(
                "this is no OCI image layout: it has no file oci-layout", path=str(folder)
            )

    @property
    def name(self) -> str:
        return f"oci:{self._folder}"

    def _path(self, digest: str) -> Path:
        algorithm, _, value = check_digest(digest).partition(":")
        return self._folder / "blobs" / algorithm / value

    def _open(self, digest: str) -> IO[bytes]:
        try:
            return self._path(digest).open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"there is no blob {digest}", path=self.name) from None
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", path=self.name) from None

    def _index(self) -> dict[str, Any]:
        try:
            with (self._folder / "index.json").open("rb") as stream:
                body = stream.read(MAX_MANIFEST + 1)
        except FileNotFoundError:
            return {"schemaVersion": 2, "manifests": []}
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", path=self.name) from None
        try:
            index = msgspec.json.decode(body[:MAX_MANIFEST], type=dict[str, Any])
            msgspec.convert(index.get("manifests"), list[Descriptor])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ImageError(f"index.json is malformed: {error}", path=self.name) from None
        return index

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The index under a lock, written back at the end."""
        with (self._folder / "oci-layout").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._index()
            yield index
            write_whole(self._folder / "index.json", json.dumps(index).encode())

    def resolve(self, reference: str) -> Content:
        media_type = ""
        if ":" not in reference:
            for entry in self._index()["manifests"]:
                if (entry.get("annotations") or {}).get(_NAME) == reference:
                    reference, media_type = entry["digest"], entry["mediaType"]
                    break
            else:
                raise NotFoundError(f"there is no tag {reference}", path=self.name)
        with self._open(reference) as stream:
            body = stream.read(MAX_MANIFEST + 1)
        if len(body) > MAX_MANIFEST:
            raise ImageError(f"manifest {reference} is larger than 4 MiB", path=self.name)
        if not has_digest(body, check_digest(reference)):
            raise ImageError(f"manifest {reference} has another digest", path=self.name)
        return Content(body, _media_type(body) or media_type, reference)

    def push_manifest(self, body: bytes, media_type: str, tag: str = "") -> str:
        digest = digest_of(body)
        write_whole(self._path(digest), body)
        if tag:
            entry = {"mediaType": media_type, "digest": digest, "size": len(body)}
            with self._changing() as index:
                index["manifests"] = [
                    *(old for old in index["manifests"] if _tag(old) != tag),
                    {**entry, "annotations": {_NAME: tag}},
                ]
        return digest

    def blob_size(self, digest: str) -> int | None:
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read_blob(self, blob: Descriptor, sink: Sink) -> None:
        hasher = hashlib.new(blob.digest.partition(":")[0])
        size = 0
        with self._open(blob.digest) as stream:
            while data := stream.read(_PIECE):
                size += len(data)
                if size > blob.size:
                    break
                hasher.update(data)
                sink(data)
        if size != blob.size or hasher.hexdigest() != blob.digest.partition(":")[2]:
            raise ImageError(f"blob {blob.digest} has another digest or size", path=self.name)

    def read_range(self, blob: Descriptor, start: int, length: int) -> bytes:
        with self._open(blob.digest) as stream:
            stream.seek(start)
            return stream.read(length)

    def upload(self) -> LayoutUpload:
        return LayoutUpload(self._folder / "blobs" / "sha256")

    def mount(self, digest: str, source: str) -> bool:
        del source
        return self.blob_size(digest) is not None

    def delete_manifest(self, reference: str) -> None:
        with self._changing() as index:
            index["manifests"] = [
                entry
                for entry in index["manifests"]
                if reference not in (_tag(entry), entry["digest"])
            ]
        if ":" in reference:
            self._path(reference).unlink(missing_ok=True)

    def tags(self) -> Iterator[str]:
        return iter([tag for entry in self._index()["manifests"] if (tag := _tag(entry))])

    def referrers(self, digest: str) -> list[Descriptor]:
        del digest
        return []

    def close(self) -> None:
        """Nothing stays open."""


class LayoutUpload:
    """A blob written beside its place, then renamed to its digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hasher = hashlib.sha256()
        self._size = 0
        handle, self._scratch = tempfile.mkstemp(prefix=".upload.", dir=folder)
        self._stream = os.fdopen(handle, "wb")

    def write(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        self._size += len(data)
        try:
            self._stream.write(data)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", path=self._scratch) from None

    def commit(self) -> tuple[str, int]:
        value = self._hasher.hexdigest()
        try:
            os.fchmod(self._stream.fileno(), 0o644)
            self._stream.close()
            os.replace(self._scratch, self._folder / value)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", path=self._scratch) from None
        self._scratch = ""
        return f"sha256:{value}", self._size

    def abort(self) -> None:
        if self._scratch:
            with contextlib.suppress(OSError):
                self._stream.close()
            with contextlib.suppress(OSError):
                os.unlink(self._scratch)
            self._scratch = ""


def _tag(entry: dict[str, Any]) -> str:
    return str((entry.get("annotations") or {}).get(_NAME, ""))


def _media_type(body: bytes) -> str:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    return str(document.get("mediaType", "")) if isinstance(document, dict) else ""
