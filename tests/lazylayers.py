"""Lazy layers for tests: built in memory, and read the way a lazy reader reads them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import tarfile
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import zstandard

from lazyci.image.chunked.builder import ChunkedBuilder
from lazyci.image.store import BuiltLayer, Upload
from tests.archives import Row, pieces, python_rows

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
OWN = ("stargz.index.json", ".no.prefetch.landmark", ".prefetch.landmark")

Make = Callable[[Upload, str, ThreadPoolExecutor], ChunkedBuilder]


class MemoryUpload:
    """An upload that keeps its bytes, and fails when it has more than `limit`."""

    def __init__(self, limit: int = 1 << 60, error: Exception | None = None) -> None:
        self.body = bytearray()
        self.limit = limit
        self.error = error
        self.committed = self.aborted = False

    def write(self, data: bytes | memoryview) -> None:
        self.body += data
        if len(self.body) > self.limit and self.error:
            raise self.error

    def commit(self) -> tuple[str, int]:
        self.committed = True
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}", len(self.body)

    def abort(self) -> None:
        self.aborted = True


@dataclass
class Lazy:
    """A layer that was built."""

    body: bytes
    built: BuiltLayer
    obstacle: str


def compressed(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, 6, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if how == "zstd" else data


def build(
    make: Make, data: bytes, how: str = "gzip", workers: int = 2, sizes: list[int] | None = None
) -> Lazy:
    """Build a layer of an archive."""
    upload = MemoryUpload()
    threads = threading.active_count()
    with ThreadPoolExecutor(workers) as pool:
        builder = make(upload, how, pool)
        for piece in pieces(compressed(data, how), sizes or [1 << 16]):
            builder.feed(piece)
        built = builder.finish()
    assert threading.active_count() == threads
    assert upload.committed
    assert len(upload.body) == built.blob.size
    return Lazy(bytes(upload.body), built, builder.obstacle)


def unpack(body: bytes) -> bytes:
    """What an ordinary tool unpacks."""
    if body[:2] == b"\x1f\x8b":
        return gzip.decompress(body)
    reader = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
    return reader.read()


def read_toc(body: bytes) -> bytes:
    """The JSON of the TOC, found from the end of the layer."""
    if body[:2] == b"\x1f\x8b":
        footer = body[-51:]
        assert footer[12:16] == b"SG\x16\x00"
        assert footer[32:38] == b"STARGZ"
        archive = gzip.decompress(body[int(footer[16:32], 16) : -51])
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            (info,) = tar.getmembers()
            assert info.name == "stargz.index.json"
            file = tar.extractfile(info)
            assert file is not None
            return file.read()
    start, stored, size, kind = (
        int.from_bytes(body[at : at + 8], "little") for at in range(-40, -8, 8)
    )
    assert (body[-8:], kind) == (b"GnUlInUx", 1)
    toc = zstandard.ZstdDecompressor().decompress(body[start : start + stored])
    assert len(toc) == size
    return toc


def member(body: bytes, offset: int) -> bytes:
    """What the one member that begins there unpacks to."""
    if body[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(body[offset:])
    return zstandard.ZstdDecompressor().decompressobj().decompress(body[offset:])


def check(lazy: Lazy, source: bytes) -> list[dict[str, Any]]:
    """Check all that every lazy layer must be; return the rows of its TOC."""
    unpacked = unpack(lazy.body)
    assert lazy.built.diff_id == f"sha256:{hashlib.sha256(unpacked).hexdigest()}"
    assert unpacked.endswith(bytes(1024))
    assert entries_of(unpacked) == entries_of(source)
    annotations = lazy.built.blob.annotations
    if lazy.obstacle:
        assert not annotations
        return []
    assert annotations["io.containers.estargz.uncompressed-size"] == str(len(unpacked))
    toc = read_toc(lazy.body)
    assert annotations[TOC_DIGEST] == f"sha256:{hashlib.sha256(toc).hexdigest()}"
    document = json.loads(toc)
    assert document["version"] == 1
    rows: list[dict[str, Any]] = document["entries"]
    check_chunks(lazy.body, rows)
    return rows


def check_chunks(body: bytes, rows: list[dict[str, Any]]) -> None:
    members: dict[int, bytes] = {}
    whole = hashlib.sha256()
    file: dict[str, Any] = {}
    done = 0
    for row in rows:
        if row["type"] not in ("reg", "chunk"):
            continue
        if row["type"] == "reg":
            file, whole, done = row, hashlib.sha256(), 0
        if file.get("size"):
            assert row.get("chunkOffset", 0) == done
            size = row.get("chunkSize") or file["size"] - done
            if row["offset"] not in members:
                members = {row["offset"]: member(body, row["offset"])}
            start = row.get("innerOffset", 0)
            data = members[row["offset"]][start : start + size]
            assert len(data) == size <= 4 << 20
            assert row["chunkDigest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
            whole.update(data)
            done += size
        if done == file.get("size", 0):
            assert file["digest"] == f"sha256:{whole.hexdigest()}"


def entries_of(data: bytes) -> list[Row]:
    return [row for row in python_rows(data) if clean(row[0]) not in OWN]


def clean(name: str) -> str:
    return posixpath.normpath("/" + name.lstrip("/"))[1:]


def tree_of(data: bytes) -> dict[str, Row]:
    """The tree that an ordinary tool unpacks of an archive without contradictions."""
    tree: dict[str, Row] = {}
    late: list[tuple[str, str]] = []
    for row in entries_of(data):
        path = clean(row[0])
        if row[1] == "hardlink":
            target = clean(row[8])
            if target in tree:
                # The header describes the file anew, under all its names.
                old = tree[target]
                mode = old[2] if old[1] == "symlink" else row[2]
                new = (*old[:2], mode, *row[3:8], *old[8:10], {**old[10], **row[10]}, old[11])
                for other in [other for other, known in tree.items() if known is old]:
                    tree[other] = new
                tree[path] = new
            else:
                late.append((path, target))
                tree.pop(path, None)
            continue
        late = [(other, target) for other, target in late if other != path]
        tree[path] = row
    while late:
        rest = []
        for path, target in late:
            if target in tree:
                tree[path] = tree[target]
            else:
                rest.append((path, target))
        assert len(rest) < len(late)
        late = rest
    return tree
