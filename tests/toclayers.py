"""Lazy layers made in the plainest way, for tests of what checks them; nothing here uses lazyci.

Formats: containerd/stargz-snapshotter 0.19.1, docs/estargz.md and estargz/zstdchunked.
"""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import json
import tarfile
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

from tests.trees import TYPES, Item, tar_of

TOC = "stargz.index.json"
DIGEST = "containerd.io/snapshot/stargz/toc.digest"
SIZE = "io.containers.estargz.uncompressed-size"
_KINDS = {
    "file": "reg",
    "directory": "dir",
    "symbolic link": "symlink",
    "hard link": "hardlink",
    "character device": "char",
    "block device": "block",
    "fifo": "fifo",
}
Rows = list[dict[str, Any]]


@dataclass
class Made:
    """A layer as it is stored, its annotations, and what it unpacks to."""

    body: bytes
    annotations: dict[str, str]
    plain: bytes
    rows: Rows = field(default_factory=list)

    @property
    def diff_id(self) -> str:
        return digest(self.plain)


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def lazy_layer(
    items: Sequence[Item],
    kind: str = "gzip",
    *,
    chunk: int = 1000,
    shared: bool = False,
    change: Callable[[Rows], None] = lambda rows: None,
) -> Made:
    """A layer with a table of contents.

    Args:
        items: What is in it.
        kind: `gzip` for eStargz, `zstd` for zstd:chunked.
        chunk: Bytes of a file in one chunk.
        shared: Small files share a member.
        change: Spoils the table of contents before it is written.
    """

    def compress(data: bytes) -> bytes:
        # Without the time of day, so that the same items are the same layer.
        return gzip.compress(data, mtime=0) if kind == "gzip" else zstandard.compress(data)

    stored, plain, pending = bytearray(), bytearray(), bytearray()
    rows: Rows = []

    def flush() -> None:
        stored.extend(compress(bytes(pending)))
        plain.extend(pending)
        pending.clear()

    begun = False
    for item in [Item(".no.prefetch.landmark", content=b"\x0f"), *items]:
        header, body = _parts(item)
        pending += header
        row = _row(item)
        rows.append(row)
        for start in range(0, len(item.content), chunk):
            part = item.content[start : start + chunk]
            if not (shared and begun and len(item.content) <= chunk and len(pending) < 8 * chunk):
                flush()
                begun = True
            if start:
                row = {"name": item.path, "type": "chunk"}
                rows.append(row)
            row["offset"] = len(stored)
            row["innerOffset"] = len(pending)
            row["chunkDigest"] = digest(part)
            row["chunkOffset"] = start
            if len(item.content) > chunk and start + chunk < len(item.content):
                row["chunkSize"] = chunk
            pending += part
        pending += body[len(item.content) :]
    flush()
    change(rows)
    toc = json.dumps({"version": 1, "entries": rows}).encode()
    annotations = {DIGEST: digest(toc)}
    if kind == "gzip":
        at = len(stored)
        pending += tar_of([Item(TOC, content=toc)])
        flush()
        extra = b"SG\x16\0" + b"%016xSTARGZ" % at
        stored += b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x1a\0" + extra
        stored += b"\x01\0\0\xff\xff" + bytes(8)
        annotations[SIZE] = str(len(plain))
    else:
        pending += bytes(1024)
        flush()
        packed = zstandard.compress(toc)
        at = len(stored) + 8
        stored += b"\x50\x2a\x4d\x18" + len(packed).to_bytes(4, "little") + packed
        numbers = (at, len(packed), len(toc), 1)
        annotations["io.containers.zstd-chunked.manifest-checksum"] = digest(packed)
        annotations["io.containers.zstd-chunked.manifest-position"] = ":".join(map(str, numbers))
        footer = b"".join(number.to_bytes(8, "little") for number in numbers) + b"GnUlInUx"
        stored += b"\x50\x2a\x4d\x18" + len(footer).to_bytes(4, "little") + footer
    return Made(bytes(stored), annotations, bytes(plain), rows)


def _parts(item: Item) -> tuple[bytes, bytes]:
    """Header and padded content of one entry, without the end of the archive."""
    size = -(-len(item.content) // 512) * 512
    data = tar_of([item])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        info = tar.next()
        assert info is not None
        start = info.offset_data
    return data[:start], data[start : start + size]


def _row(item: Item) -> dict[str, Any]:
    assert item.kind in TYPES
    moment = datetime.datetime.fromtimestamp(item.mtime // 10**9, datetime.timezone.utc)
    row: dict[str, Any] = {
        "name": item.path,
        "type": _KINDS[item.kind],
        "modtime": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "mode": item.mode,
        "uid": item.uid,
        "gid": item.gid,
    }
    if item.kind == "file":
        row["digest"] = digest(item.content)
        row["size"] = len(item.content)
    if item.target:
        row["linkName"] = item.target
    if "device" in item.kind:
        row["devMajor"], row["devMinor"] = item.device
    if item.xattrs:
        row["xattrs"] = {name: b64encode(value).decode() for name, value in item.xattrs}
    return row
