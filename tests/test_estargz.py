"""eStargz and zstd:chunked layers: what every reader finds in them, and what they are made of."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyci.errors import ImageError, UploadLostError
from lazyci.image.chunked.builder import ChunkedBuilder
from lazyci.image.chunked.estargz import EstargzCodec, estargz, footer, is_estargz
from lazyci.image.chunked.zstdchunked import is_zstdchunked, zstdchunked
from lazyci.image.manifest import Descriptor
from tests.archives import END, archives, entry
from tests.lazylayers import (
    Lazy,
    Make,
    MemoryUpload,
    build,
    check,
    compressed,
    read_toc,
    tree_of,
    unpack,
)
from tests.repositories import MemoryRepository
from tests.servers import client

FORMATS = [estargz, zstdchunked]
NOISE = random.Random(7).randbytes(1 << 20)
both = pytest.mark.parametrize("make", FORMATS, ids=["estargz", "zstdchunked"])
sizes = st.lists(st.sampled_from([1, 50, 700, 5000]), min_size=1, max_size=4)


def big(size: int, seed: int = 0) -> bytes:
    """A file's content of which half can be compressed."""
    return b"".join(NOISE[seed : seed + 32768] + bytes(32768) for _ in range(size // 65536 + 1))[
        :size
    ]


@both
@given(
    data=archives(),
    sizes=sizes,
    workers=st.integers(1, 4),
    how=st.sampled_from(["none", "gzip", "zstd"]),
)
@settings(max_examples=60)
def test_generated(make: Make, data: bytes, sizes: list[int], workers: int, how: str) -> None:
    data = data or END
    lazy = build(make, data, how, workers, sizes)
    assert lazy.body == build(make, data, "none", 1).body
    assert lazy.built.unpacked == len(data)
    check(lazy, data)


@both
def test_order_and_bytes_stay(make: Make) -> None:
    """The new archive is the old one with a landmark in front, and the TOC behind it."""
    data = entry("d/", kind=tarfile.DIRTYPE) + entry(
        "d/a", b"x" * 99, pax_headers={"SCHILY.xattr.user.k": "v"}
    )
    data += entry("d/" + "long" * 50, NOISE, form=tarfile.GNU_FORMAT)
    unpacked = unpack(build(make, data + END).body)
    assert unpacked[1024 : 1024 + len(data)] == data
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        assert tar.getnames()[0] == ".no.prefetch.landmark"


@both
def test_large_files(make: Make) -> None:
    small = [(f"s{n}", b"s%d" % n * 500) for n in range(300)]
    data = b"".join(entry(name, body) for name, body in small)
    for size in (4 << 20, (4 << 20) + 1, 9_000_000, (8 << 20), (4 << 20) - 1):
        data += entry(f"big{size}", big(size)) + entry(f"after{size}", b"small")
    lazy = build(make, data + END, workers=3)
    rows = check(lazy, data)
    assert lazy.body == build(make, data + END, "none", 1, [1 << 22, 3]).body
    chunks = [row for row in rows if row["type"] == "chunk"]
    assert [row["chunkOffset"] >> 20 for row in chunks] == [4, 4, 8, 4]
    files = [row for row in rows if row["type"] == "reg"]
    offsets = {row["offset"] for row in files[1:301]}
    assert 2 <= len(offsets) <= 6
    assert files[0]["name"] == ".no.prefetch.landmark"
    assert "innerOffset" not in files[0]


@both
def test_many_folders_without_files(make: Make) -> None:
    """Members end even where no file begins one, so that memory stays bounded."""
    data = b"".join(entry(f"d{n}", kind=tarfile.DIRTYPE) for n in range(20_000)) + entry("f", b"x")
    lazy = build(make, data + END)
    rows = check(lazy, data)
    assert len(rows) == 20_002


@both
def test_hundred_thousand_files(make: Make) -> None:
    data = b"".join(
        entry(f"usr/share/f{n // 100}/file{n:06d}", b"%06d" % n * 20) for n in range(100_000)
    )
    started = time.process_time()
    lazy = build(make, data + END, "none", sizes=[1 << 18])
    assert time.process_time() - started < 15
    assert len(json.loads(read_toc(lazy.body))["entries"]) == 100_001


@both
def test_toc_says_everything(make: Make) -> None:
    value = "\x01\x00\udcff\udcfe=\n"
    data = entry(
        "./bin/tool", b"#!", mode=0o4755, uid=1000, gid=100, uname="u", gname="g", mtime=1.5,
        pax_headers={"mtime": "1700000000.25", "SCHILY.xattr.security.capability": value, "LIBARCHIVE.xattr.user.x": "eA=="},
    )  # fmt: skip
    data += entry(
        "dev", kind=tarfile.CHRTYPE, devmajor=1, devminor=300, mtime=0, uid=1000, uname="u"
    )
    data += entry("pipe", kind=tarfile.FIFOTYPE, mtime=-5) + entry(
        "l", kind=tarfile.SYMTYPE, linkname="../../x"
    )
    data += entry("bin/empty") + entry("h", kind=tarfile.LNKTYPE, linkname="./bin/empty")
    rows = {row["name"]: row for row in check(build(make, data + END), data)}
    tool = rows["./bin/tool"]
    assert (tool["mode"], tool["uid"], tool["gid"], tool["userName"], tool["groupName"]) == (
        0o4755,
        1000,
        100,
        "u",
        "g",
    )
    assert tool["modtime"] == "2023-11-14T22:13:20.25Z"
    assert {k: base64.b64decode(v) for k, v in tool["xattrs"].items()} == {
        "security.capability": value.encode("utf-8", "surrogateescape")
    }
    assert (rows["dev"]["devMajor"], rows["dev"]["devMinor"], rows["dev"]["type"]) == (
        1,
        300,
        "char",
    )
    assert rows["dev"]["modtime"] == "1970-01-01T00:00:00Z"
    assert "userName" not in rows["dev"]
    assert rows["pipe"]["modtime"] == "1969-12-31T23:59:55Z"
    assert rows["l"]["linkName"] == "../../x"
    assert rows["bin/empty"]["digest"] == f"sha256:{hashlib.sha256().hexdigest()}"
    assert (rows["h"]["type"], rows["h"]["linkName"]) == ("hardlink", "./bin/empty")


def link(name: str, target: str) -> bytes:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target)


def folder(name: str, **more: Any) -> bytes:
    return entry(name, kind=tarfile.DIRTYPE, **more)


def symlink(name: str, target: str) -> bytes:
    return entry(name, kind=tarfile.SYMTYPE, linkname=target)


CONTRADICTIONS = {
    "twice": entry("a", b"one") + entry("a", b"two"),
    "twice by another name": entry("a", b"one") + entry("./a", b"two") + entry("/a", b"three"),
    "large then small": entry("a", big(9_000_000)) + entry("b", b"b") + entry("a", b"small"),
    "small then large": entry("a", b"small") + entry("a", big(9_000_000, 5)),
    "sharing a member": entry("a", b"one") + entry("b", b"b") + entry("a", b"two") + entry("c", b"c"),
    "folder twice": folder("d", mode=0o700) + entry("d/a", b"x") + folder("d/", mode=0o755) + entry("d/b", b"y"),
    "file to link": entry("a", b"x") + symlink("a", "b"),
    "file to folder": entry("a", b"x") + folder("a") + entry("a/b", b"y"),
    "link then file": link("b", "a") + entry("a", b"later"),
    "links of a replaced file": entry("a", b"one") + link("b", "a") + link("c", "b") + entry("a", b"two"),
    "links of a large replaced file": entry("a", big(5_000_000)) + link("b", "a") + entry("z", b"z") + entry("a", b"two"),
    "replaced link": entry("a", b"one") + link("b", "a") + entry("b", b"two"),
    "replaced again": entry("a", b"1") + link("b", "a") + entry("a", b"2") + link("c", "a") + entry("a", b"3") + link("b", "c"),
    "link to a moved file": entry("a", b"1") + link("b", "a") + entry("a", b"2") + link("d", "b"),
    "root": folder("./", mode=0o711) + entry("./a", b"x"),
    "dots": entry("../../up", b"x") + entry("a/../b", b"y") + entry("/abs", b"z"),
    "whiteouts": entry("d/.wh.gone") + entry("d/.wh..wh..opq") + entry(".wh.x"),
    "empty": b"",
    "landmarks": entry(".prefetch.landmark", b"\x0f") + entry("./.no.prefetch.landmark", b"\x0f") + entry("stargz.index.json", b"{}") + entry("d/.no.prefetch.landmark", b"kept"),
}  # fmt: skip

OBSTACLES = {
    "link to nothing": link("a", "b"),
    "link to itself": link("a", "a"),
    "circle": link("a", "b") + link("b", "a"),
    "link to a folder": folder("d") + link("a", "d"),
    "through a link": folder("usr/lib") + symlink("lib", "usr/lib") + entry("lib/a", b"x"),
    "through a file": entry("a", b"x") + entry("a/b", b"y"),
    "a file for a folder": entry("d/a", b"x") + entry("d", b"y"),
    "a link for a folder": folder("d") + entry("d/a", b"x") + symlink("d", "e"),
    "no UTF-8": entry("a\udcff", b"x"),
}


@both
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions(make: Make, case: str, tmp_path: Path) -> None:
    """Archives that say something twice: lazy readers must see what ordinary tools unpack."""
    data = CONTRADICTIONS[case] + END
    lazy = build(make, data)
    check(lazy, data)
    assert not lazy.obstacle
    check_tree(lazy, data, tmp_path)


@both
@pytest.mark.parametrize("case", OBSTACLES)
def test_obstacles(make: Make, case: str) -> None:
    """What no table of contents can say: the layer is right, but an ordinary one."""
    data = OBSTACLES[case] + END
    lazy = build(make, data)
    assert lazy.obstacle
    check(lazy, data)


def check_tree(lazy: Lazy, data: bytes, folder: Path) -> None:
    """Compare the tree that stargz-snapshotter's own reader sees with the original."""
    blob = folder / "blob"
    blob.write_bytes(lazy.body)
    toc = lazy.built.blob.annotations["containerd.io/snapshot/stargz/toc.digest"]
    done = subprocess.run(
        [client("stargzcheck"), blob, toc], capture_output=True, text=True, check=False
    )
    assert not done.stderr
    tree: dict[str, Any] = json.loads(done.stdout)
    expected = tree_of(data)
    made = {path for path in tree if path not in expected and path != ".no.prefetch.landmark"}
    assert all(tree[path]["type"] == "dir" for path in made)
    for path, row in expected.items():
        name, kind, mode, uid, gid, _, _, seconds, target, device, xattrs, content = row
        seen = tree[path]
        assert (seen["type"], seen["mode"], seen["uid"], seen["gid"]) == (
            kind,
            0o777 if kind == "symlink" else mode & 0o7777,
            uid,
            gid,
        ), name
        assert seen["seconds"] == seconds
        assert seen["link"] == target
        assert (seen["major"], seen["minor"]) == device
        assert {k: base64.b64decode(v) for k, v in (seen["xattrs"] or {}).items()} == xattrs
        if kind == "reg":
            assert seen["size"] == len(content)
            assert seen["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    linked: dict[int, set[str]] = {}
    for path, row in expected.items():
        linked.setdefault(id(row), set()).add(path)
    for paths in linked.values():
        assert len({tree[path]["id"] for path in paths}) == 1


@both
@given(data=archives())
@settings(max_examples=60)
def test_reference_reader(
    make: Make, data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = data or END
    lazy = build(make, data)
    if not lazy.obstacle:
        check_tree(lazy, data, tmp_path_factory.mktemp("blob"))


@both
def test_reference_reader_large(make: Make, tmp_path: Path) -> None:
    data = b"".join(entry(f"d{n % 7}/s{n}", NOISE[n : n + n * 7 % 3000]) for n in range(500))
    data += entry("big", big(9_000_000)) + entry("last", b"x")
    check_tree(build(make, data + END), data + END, tmp_path)


@both
def test_again(make: Make) -> None:
    """A layer made of a lazy one is the same layer: the old TOC and landmark are left out."""
    data = entry("a", b"x" * 5000) + folder("d") + entry("d/b", NOISE) + END
    lazy = build(make, data)
    again = build(make, unpack(lazy.body))
    assert again.body == lazy.body


@both
def test_sparse_files_are_written_in_full(make: Make) -> None:
    content = b"data" + bytes(4 << 20) + b"more" + bytes(700)
    records = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "real",
        "GNU.sparse.realsize": str(len(content)),
    }
    table = b"2\n0\n4\n%d\n4\n" % ((4 << 20) + 4)
    stored = table.ljust(512, b"\0") + b"datamore"
    data = (
        entry("a", b"1")
        + entry("fake", stored, pax_headers={**records, "SCHILY.xattr.user.a": "1"})
        + entry("b", b"2")
        + END
    )
    lazy = build(make, data)
    rows = {row["name"]: row for row in check(lazy, data) if row["type"] == "reg"}
    assert rows["real"]["size"] == len(content)
    assert rows["real"]["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert len(unpack(lazy.body)) > len(content)


@both
def test_sparse_bomb(make: Make) -> None:
    records = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 62), "GNU.sparse.name": "x"}
    data = entry("fake", b"x", pax_headers=records)
    upload = MemoryUpload()
    with ThreadPoolExecutor(1) as pool:
        builder = ChunkedBuilder(EstargzCodec(), upload, "none", pool, limit=50 << 20)
        with pytest.raises(ImageError, match="more than"):
            builder.feed(data)
        builder.abort()
    assert upload.aborted


@both
@pytest.mark.parametrize("how", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("cut", [1, 9, 600, -1])
def test_truncated(make: Make, how: str, cut: int) -> None:
    whole = compressed(entry("a", NOISE[:5000]), how)
    upload = MemoryUpload()
    with ThreadPoolExecutor(1) as pool:
        builder = make(upload, how, pool)

        def convert() -> None:
            builder.feed(whole[:cut])
            builder.finish()

        # A tar archive may end after an entry's last byte.
        if (how, cut) == ("none", -1):
            convert()
            return
        with pytest.raises(ImageError, match="ends in the middle"):
            convert()
        builder.abort()
    assert upload.aborted
    assert not upload.committed


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_bomb(how: str) -> None:
    """Each piece of the input unpacks in small pieces, until the limit ends it."""
    zeros = compressed(bytes(64 << 20), how)
    with ThreadPoolExecutor(1) as pool:
        builder = ChunkedBuilder(EstargzCodec(), MemoryUpload(), how, pool, limit=32 << 20)
        with pytest.raises(ImageError, match="unpacks to more than"):
            builder.feed(compressed(entry("a")[:512], how) + zeros)
        builder.abort()


def test_no_such_compression() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ImageError, match="not supported"):
        estargz(MemoryUpload(), "xz", pool)


@both
def test_lost_upload(make: Make) -> None:
    """What the upload raises reaches whoever feeds, as it is."""
    upload = MemoryUpload(1 << 20, UploadLostError("lost"))
    before = threading.active_count()
    with ThreadPoolExecutor(2) as pool:
        builder = make(upload, "none", pool)

        def convert() -> None:
            for n in range(200):
                builder.feed(entry(f"f{n}", NOISE))
            builder.finish()

        with pytest.raises(UploadLostError):
            convert()
        builder.abort()
    assert upload.aborted
    assert threading.active_count() == before


@both
def test_stopped_from_another_thread(make: Make) -> None:
    waiting = threading.Event()

    class Stuck(MemoryUpload):
        def write(self, data: bytes | memoryview) -> None:
            waiting.wait(0.5)

    with ThreadPoolExecutor(2) as pool:
        builder = make(Stuck(), "none", pool)
        timer = threading.Timer(0.2, builder.abort)
        timer.start()

        def convert() -> None:
            for n in range(10_000):
                builder.feed(entry(f"f{n}", NOISE))

        with pytest.raises(ImageError, match="stopped"):
            convert()
        timer.join()


def stored(lazy: Lazy) -> tuple[MemoryRepository, Descriptor]:
    repository = MemoryRepository()
    repository.add_blob(lazy.body)
    return repository, lazy.built.blob


@pytest.mark.parametrize(("make", "check"), [(estargz, is_estargz), (zstdchunked, is_zstdchunked)])
def test_recognised(make: Make, check: Any) -> None:
    repository, blob = stored(build(make, entry("a", b"x") + END))
    other = is_zstdchunked if check is is_estargz else is_estargz
    assert check(repository, blob)
    assert not other(repository, blob)
    annotations = dict(blob.annotations)

    def with_digest(digest: str) -> Descriptor:
        return Descriptor(
            blob.media_type,
            blob.digest,
            blob.size,
            annotations={**annotations, "containerd.io/snapshot/stargz/toc.digest": digest},
        )

    assert not check(repository, with_digest("sha256:" + "0" * 64))
    assert not check(repository, Descriptor(blob.media_type, blob.digest, blob.size))
    body = repository.blobs[blob.digest]
    for damaged in (body[:-9] + b"x" + body[-8:], body[:-51] + bytes(51), bytes(len(body)), body[:-51] + footer(len(body) + 9), body[:-51] + footer(3)):  # fmt: skip
        repository.blobs[blob.digest] = damaged
        assert not check(repository, blob)


def test_size() -> None:
    """Not more than 1.10 of gzip's level 6, on what layers hold: Python's own files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(
            os.path.dirname(os.__file__),
            "python",
            filter=lambda info: (
                None if "site-packages" in info.name or "/test" in info.name else info
            ),
        )
    data = out.getvalue()
    lazy = build(estargz, data, "none")
    assert len(lazy.body) <= 1.10 * len(gzip.compress(data, 6))


MEMORY = """
import hashlib, random, resource, sys, tarfile
from concurrent.futures import ThreadPoolExecutor
from lazyci.image.chunked.estargz import estargz
from lazyci.image.chunked.zstdchunked import zstdchunked

class Upload:
    def write(self, data): pass
    def commit(self): return "sha256:" + "0" * 64, 1
    def abort(self): pass

with ThreadPoolExecutor(2) as pool:
    builder = {"estargz": estargz, "zstdchunked": zstdchunked}[sys.argv[1]](Upload(), "none", pool)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    info = tarfile.TarInfo("large")
    info.size = 700 << 20
    builder.feed(info.tobuf())
    piece = random.Random(1).randbytes(1 << 19) + bytes(1 << 19)
    for _ in range(700):
        builder.feed(piece)
    builder.finish()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("form", ["estargz", "zstdchunked"])
def test_memory(form: str) -> None:
    """A file of 700 MiB takes no more memory than the look-ahead."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, form], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 110 << 10
