"""Layers become nydus blobs, merge, and are the same tree as the layers, by the real nydus-image."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyci.errors import ImageError, ToolError, UploadLostError
from lazyci.image.manifest import GZIP_LAYER, TAR_LAYER, ZSTD_LAYER, Descriptor
from lazyci.image.nydus.blob import read_bootstrap
from lazyci.image.nydus.maker import NydusIndexMaker, NydusMaker
from lazyci.image.nydus.manifest import bootstrap_layer, nydus_manifest
from lazyci.image.nydus.merge import Part, merge
from lazyci.image.nydus.tool import NydusImage, find_nydus_image
from lazyci.image.nydus.unpack import check, unpack
from lazyci.image.rafs.reader import Rafs
from lazyci.image.store import BuiltLayer
from tests import oracle
from tests.clients.install import installed

Entry = tuple[str, bytes, dict[str, Any]]
MEDIA_TYPES = {"gzip": GZIP_LAYER, "zstd": ZSTD_LAYER, "none": TAR_LAYER}


class FakeUpload:
    def __init__(self, store: dict[str, bytes]) -> None:
        self.store = store
        self.data = bytearray()
        self.aborted = False
        self.fails_at = -1

    def write(self, data: bytes | memoryview) -> None:
        self.data += data
        if 0 <= self.fails_at < len(self.data):
            raise UploadLostError("gone")

    def commit(self) -> tuple[str, int]:
        digest = hashlib.sha256(self.data).hexdigest()
        self.store[digest] = bytes(self.data)
        return f"sha256:{digest}", len(self.data)

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture(scope="module")
def tool() -> NydusImage:
    path = installed("nydus-image")
    if path is None:
        # In CI it is built before, so there a missing one is a failure.
        assert not os.environ.get("LAZYCI_REQUIRE_CLIENTS"), "nydus-image is not installed"
        pytest.skip("nydus-image is not installed: `make clients` builds it (needs Rust)")
    return find_nydus_image({"LAZYCI_NYDUS_IMAGE": str(path)})


def tar_of(entries: list[Entry], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, options in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
            info.mtime = 1_700_000_000
            data = options.get("data", b"")
            for key, value in options.items():
                if key != "data":
                    setattr(info, key, value)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def packed(layer: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.compress(layer, 6, mtime=0)
    return zstandard.compress(layer) if kind == "zstd" else layer


def made(maker: Any, tool: NydusImage) -> Any:
    return maker(tool if maker is NydusIndexMaker else POOL)


def build(
    maker: Any, layer: bytes, store: dict[str, bytes], kind: str = "gzip", piece: int = 1 << 16
) -> BuiltLayer:
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    for _ in range(2):
        builder = maker.builder(
            Descriptor(MEDIA_TYPES[kind], digest, len(layer)), FakeUpload(store)
        )
        try:
            for at in range(0, len(layer), piece):
                builder.feed(layer[at : at + piece])
            built = builder.finish()
        except UploadLostError:
            builder.abort()
            continue
        except BaseException:
            builder.abort()
            raise
        assert isinstance(built, BuiltLayer)
        return built
    raise AssertionError("asked for a third reading")


def image(tool: NydusImage, layers: list[bytes], store: dict[str, bytes]) -> bytes:
    maker = NydusMaker(POOL)
    built = [build(maker, packed(layer, "gzip"), store) for layer in layers]
    return merge([Part(layer.blob, layer.bootstrap) for layer in built])


def tree_of(bootstrap: bytes, store: dict[str, bytes]) -> dict[str, Any]:
    out = io.BytesIO()
    unpack(bootstrap, lambda blob, at, size: store[blob][at : at + size], out.write)
    return oracle.shown(oracle.apply([out.getvalue()]))


def same(tool: NydusImage, layers: list[bytes], tmp_path: Path) -> dict[str, Any]:
    store: dict[str, bytes] = {}
    merged = image(tool, layers, store)
    (tmp_path / "merged").write_bytes(merged)
    check(tool, str(tmp_path / "merged"))
    expected = oracle.shown(oracle.apply(layers))
    assert tree_of(merged, store) == expected
    return expected


POOL = ThreadPoolExecutor(2, "compress")
D, F, L, S = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
CASES: dict[str, list[list[Entry]]] = {
    "nothing": [[]],
    "only directories": [[("a/", D, {"mode": 0o1777})]],
    "root": [[("./", D, {"mode": 0o700, "uid": 7}), ("f", F, {"data": b"x"})]],
    "root below": [[("./", D, {"mode": 0o700})], [("f", F, {"data": b"x"})]],
    "twice": [[("a", F, {"data": b"1"}), ("a", F, {"data": b"2"}), ("b", F, {"data": b"3"})]],
    "link to what is replaced": [
        [("a", F, {"data": b"1"}), ("l", L, {"linkname": "a"}), ("a", F, {"data": b"2"})]
    ],
    "late directory": [[("d/f", F, {"data": b"1"}), ("d", D, {"mode": 0o711}), ("e", F, {})]],
    "implied keeps attributes": [
        [("tmp", D, {"mode": 0o1777, "mtime": 5}), ("tmp/a", F, {})],
        [("tmp/x", F, {"data": b"1"})],
        [("tmp/new/x", F, {"data": b"2"})],
    ],
    "whiteouts": [
        [("d", D, {}), ("d/a", F, {"data": b"1"}), ("d/b", F, {}), ("e/f/g", F, {})],
        [("d/.wh.a", F, {}), ("e/.wh..wh..opq", F, {}), ("e/n", F, {"data": b"n"})],
    ],
    "whiteout in the first layer": [[("d/.wh.a", F, {}), (".wh.b", F, {}), ("c", F, {})]],
    "aufs": [[(".wh..wh.plnk", D, {}), ("c", F, {})]],
    "whiteout and new": [
        [("a", D, {}), ("a/old", F, {"data": b"1"})],
        [(".wh.a", F, {}), ("a", D, {"mode": 0o700}), ("a/new", F, {"data": b"2"})],
    ],
    "directory becomes file": [[("a/b/c", F, {"data": b"1"})], [("a", F, {"data": b"2"})]],
    "directory becomes link": [[("a/b/c", F, {"data": b"1"})], [("a", S, {"linkname": "b"})]],
    "file becomes directory": [[("a", F, {"data": b"1"})], [("a", D, {}), ("a/b", F, {})]],
    "directory where a file was": [
        [("a/b", F, {}), ("c/d/e", F, {})],
        [("a", F, {}), ("a", D, {}), ("a/c", F, {}), ("c/d", F, {}), ("c/d", D, {})],
    ],
    "within one layer": [[("a/b", F, {}), ("a", F, {"data": b"2"}), ("a", D, {}), ("a/c", F, {})]],
    "hard links": [
        [("a", F, {"data": b"1" * 5000}), ("z/l", L, {"linkname": "./a"}), ("b", F, {})],
        [("c", F, {"data": b"2"}), ("d", L, {"linkname": "c"})],
    ],
    "hard links to what is no file": [
        [("a", S, {"linkname": "x"}), ("b", L, {"linkname": "a"}), ("c", L, {"linkname": "b"})],
        [("p", tarfile.FIFOTYPE, {}), ("q", L, {"linkname": "p"})],
        [("s", S, {"linkname": "x"}), ("t", L, {"linkname": "s"}), ("s", F, {"data": b"1"})],
    ],
    "devices": [
        [
            ("c", tarfile.CHRTYPE, {"devmajor": 300, "devminor": 70000}),
            ("b", tarfile.BLKTYPE, {"devmajor": 8, "devminor": 1}),
            ("p", tarfile.FIFOTYPE, {}),
        ]
    ],
    "xattrs": [
        [
            ("f", F, {"pax_headers": {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "2"}}),
            ("d", D, {"pax_headers": {"SCHILY.xattr.trusted.t": "x\ny"}}),
            ("l", L, {"linkname": "f"}),
        ]
    ],
    "long": [[("p/" * 90 + "f" * 255, F, {"data": b"1"}), ("s", S, {"linkname": "t/" * 600})]],
    "owners and times": [
        [("f", F, {"uid": 3_000_000_000, "gid": 4_294_967_294, "mtime": 1 << 34, "mode": 0o6755})]
    ],
    "same layer twice": [[("a", F, {"data": b"1"})], [("a", F, {"data": b"1"})]],
    "many layers": [[(f"f{at % 7}", F, {"data": b"%d" % at})] for at in range(110)],
}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("name", CASES)
def test_same_tree(tool: NydusImage, tmp_path: Path, name: str, form: int) -> None:
    layers = [tar_of(entries, form) for entries in CASES[name]]
    same(tool, layers, tmp_path)


NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/b", "d/e", "d/e/f", "./d/", "x/y", "ü" * 60])
MARKS = st.sampled_from([".wh.a", "d/.wh.a", "d/.wh..wh..opq", ".wh.d", "x/.wh.y"])
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.tuples(NAMES, st.just(F), st.fixed_dictionaries({"data": st.binary(max_size=40)})),
    st.tuples(NAMES, st.just(D), st.fixed_dictionaries({"mode": st.sampled_from([0o700, 0o755])})),
    st.tuples(NAMES, st.just(L), st.fixed_dictionaries({"linkname": NAMES})),
    st.tuples(NAMES, st.just(S), st.fixed_dictionaries({"linkname": NAMES})),
    st.tuples(MARKS, st.just(F), st.just({})),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(ENTRIES, max_size=7), min_size=1, max_size=3))
def test_any_layers(tool: NydusImage, tmp_path: Path, layers: list[list[Entry]]) -> None:
    tars = [tar_of(entries) for entries in layers]
    try:
        oracle.apply(tars)
    except oracle.RefusedError:
        # It need not be noticed: what a layer itself replaced again is not in its bootstrap.
        with contextlib.suppress(ImageError):
            image(tool, tars, {})
        return
    same(tool, tars, tmp_path)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_any_compression_and_pieces(tool: NydusImage, kind: str, piece: int) -> None:
    layer = tar_of([("a", F, {"data": bytes(3000)}), ("b", F, {"data": os.urandom(900)})])
    maker = NydusMaker(POOL)
    store: dict[str, bytes] = {}
    built = build(maker, packed(layer, kind), store, kind, piece)
    assert built.blob == build(maker, layer, store, "none").blob
    assert built.unpacked == len(layer)
    blob = store[built.blob.digest.partition(":")[2]]
    assert read_bootstrap(lambda at, size: blob[at : at + size], len(blob)) == built.bootstrap


def test_gzip_of_many_members(tool: NydusImage) -> None:
    """nydus-image itself reads the first one only."""
    layer = tar_of([(f"f{at}", F, {"data": b"%d" % at * 999}) for at in range(40)])
    members = b"".join(gzip.compress(layer[at : at + 1000]) for at in range(0, len(layer), 1000))
    store: dict[str, bytes] = {}
    maker = NydusMaker(POOL)
    assert build(maker, members + bytes(700), store).blob == build(maker, layer, store, "none").blob


def test_sparse_files(tool: NydusImage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "holes", "wb") as file:
        for at in range(0, 120 << 16, 1 << 16):
            file.seek(at)
            file.write(b"%d" % at)
        file.truncate(9 << 20)
    (source / "z").write_bytes(b"after")
    for version in ("gnu", "posix", "0.0", "0.1", "1.0"):
        form = "gnu" if version == "gnu" else "posix"
        options = [f"--sparse-version={version}"] if "." in version else []
        done = subprocess.run(
            ["tar", "-cS", f"--format={form}", *options, "-C", str(source), "holes", "z"],
            capture_output=True,
            check=True,
        )
        assert len(done.stdout) < 1 << 20
        expected = same(tool, [done.stdout], tmp_path)
        assert len(expected["holes"][3]) == 9 << 20


def test_twenty_thousand_files(tool: NydusImage, tmp_path: Path) -> None:
    entries: list[Entry] = [(f"d{at % 300}/f{at}", F, {"data": b"%d" % at}) for at in range(20_000)]
    assert len(same(tool, [tar_of(entries)], tmp_path)) == 20_301


def test_blobs_are_reproducible(tool: NydusImage) -> None:
    layer = tar_of(
        [("d", D, {}), ("b", F, {"data": os.urandom(3 << 20)}), ("l", L, {"linkname": "b"})]
    )
    store: dict[str, bytes] = {}
    blobs = {build(NydusMaker(POOL), layer, store, "none").blob.digest for _ in range(4)}
    assert len(blobs) == 1
    parts = [
        Part(built.blob, built.bootstrap) for built in [build(NydusMaker(POOL), layer, {}, "none")]
    ]
    assert len({merge(parts) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("leaves", [("a/../../b", F, {})], "leaves the layer's root"),
        ("forward", [("l", L, {"linkname": "f"}), ("f", F, {})], "no earlier file"),
        ("lower", [("l", L, {"linkname": "usr/bin/x"})], "no earlier file"),
        ("below a link", [("lib", S, {"linkname": "usr"}), ("lib/a", F, {})], "no directory"),
        ("nothing", [("d/.wh.", F, {})], "whiteout of nothing"),
        ("kind", [("a", b"V", {})], "no engine unpacks"),
        ("root", [("./", S, {"linkname": "x"})], "root is no directory"),
        ("name", [("a" * 256, F, {})], "more than 255 bytes"),
        (
            "acl",
            [("a", F, {"pax_headers": {"SCHILY.xattr.system.posix_acl_access": "x"}})],
            "carry",
        ),
    ],
)
def test_refused(tool: NydusImage, name: str, entries: list[Entry], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        build(NydusMaker(POOL), tar_of(entries), {}, "none")


def test_layers_that_do_not_fit(tool: NydusImage) -> None:
    """containerd would follow the link of the layer below."""
    layers = [tar_of([("lib", S, {"linkname": "usr/lib"})]), tar_of([("lib/a", F, {})])]
    with pytest.raises(ImageError, match="goes through"):
        image(tool, layers, {})


def test_what_is_lost(tool: NydusImage) -> None:
    """Fractions of seconds, times before 1970, and attributes of namespaces that few have."""
    headers = {"mtime": "1700000000.75", "SCHILY.xattr.btrfs.compression": "zstd"}
    layer = tar_of([("a", F, {"pax_headers": headers}), ("b", F, {"mtime": -5})])
    store: dict[str, bytes] = {}
    tree = tree_of(image(tool, [layer], store), store)
    assert tree["a"][1:3] == ((0o644, 0, 0, 1_700_000_000), {})
    assert tree["b"][1][3] == 0


BROKEN = tar_of([("a", F, {"data": os.urandom(4 << 20)}), ("b", F, {"data": b"1"})])


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("maker", [NydusMaker, NydusIndexMaker])
def test_truncated(tool: NydusImage, kind: str, maker: Any) -> None:
    whole = packed(BROKEN, kind)
    before = open_files()
    for end in (0, 1, 300, len(whole) // 2, len(whole) - (1 if kind != "none" else 12000)):
        if not end and kind == "none":
            # No bytes at all are a tar of nothing.
            continue
        with pytest.raises((ImageError, ToolError)):
            build(made(maker, tool), whole[:end], {}, kind)
    assert open_files() == before


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
def test_corrupt(tool: NydusImage, kind: str) -> None:
    whole = packed(BROKEN, kind)
    for at in (0, 20, 148, len(whole) // 2, len(whole) - 6):
        data = whole[:at] + bytes(255 - byte for byte in whole[at : at + 4]) + whole[at + 4 :]
        if kind != "gzip" and at > 512:
            # Only gzip has a checksum; what is read from a registry has its digest.
            continue
        with pytest.raises((ImageError, ToolError)):
            build(NydusMaker(POOL), data, {}, kind)


def test_random_bytes(tool: NydusImage) -> None:
    for kind in MEDIA_TYPES:
        with pytest.raises(ImageError):
            build(NydusMaker(POOL), os.urandom(100_000), {}, kind)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> list[str]:
    """Those of builders; the pool's stay."""
    return [one.name for one in threading.enumerate() if not one.name.startswith("compress")]


def children() -> list[str]:
    found = []
    for task in os.listdir("/proc/self/task"):
        found += Path(f"/proc/self/task/{task}/children").read_text().split()
    return found


@pytest.mark.parametrize("maker", [NydusMaker, NydusIndexMaker])
def test_abort_leaves_nothing(
    tool: NydusImage, maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = (open_files(), children(), threads())
    whole = packed(BROKEN, "gzip")
    for end in (0, 100, len(whole) // 2, len(whole)):
        upload = FakeUpload({})
        layer = Descriptor(GZIP_LAYER, f"sha256:{'0' * 64}", len(whole))
        builder = made(maker, tool).builder(layer, upload)
        builder.feed(whole[:end])
        builder.abort()
        builder.abort()
        assert upload.aborted
    assert (open_files(), children(), threads()) == before
    assert not list(tmp_path.iterdir())


def test_an_upload_that_fails(tool: NydusImage) -> None:
    before = open_files()
    upload = FakeUpload({})
    upload.fails_at = 1 << 20
    layer = Descriptor(TAR_LAYER, f"sha256:{'0' * 64}", 0)
    builder = NydusMaker(POOL).builder(layer, upload)
    data = tar_of([("a", F, {"data": os.urandom(32 << 20)})])

    def convert() -> None:
        builder.feed(data)
        builder.finish()

    with pytest.raises(UploadLostError, match="gone"):
        convert()
    builder.abort()
    assert open_files() == before


def test_nydus_image_that_dies(tool: NydusImage, tmp_path: Path) -> None:
    program = tmp_path / "nydus-image"
    program.write_text("#!/bin/sh\necho first\necho the disk is full >&2\nexit 3\n")
    program.chmod(0o755)
    layer = Descriptor(GZIP_LAYER, f"sha256:{'0' * 64}", 0)
    builder = NydusIndexMaker(NydusImage(str(program), "2.2.0")).builder(layer, FakeUpload({}))
    with pytest.raises(ToolError, match=r"exit code 3\n  first\n  the disk is full"):
        # More than the pipe holds.
        builder.feed(packed(BROKEN, "gzip"))
    builder.abort()


def test_no_tool(tmp_path: Path) -> None:
    for environment in ({"PATH": str(tmp_path)}, {"LAZYCI_NYDUS_IMAGE": str(tmp_path / "x")}):
        with pytest.raises(ToolError, match=r"github\.com/dragonflyoss/nydus"):
            find_nydus_image(environment)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (" Version: \tv2.3.1\nGit Commit: x", "2.3.1"),
        (" Version: \t2.2.0-abc", "2.2.0"),
        ("Version: v2.1.9", ""),
        ("Version: v3.0.0", ""),
        ("something else", ""),
        ("Version: unknown", ""),
    ],
)
def test_versions(tmp_path: Path, said: str, version: str) -> None:
    program = tmp_path / "nydus-image"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
    program.chmod(0o755)
    if version:
        assert find_nydus_image({"PATH": f"{tmp_path}:/usr/bin:/bin"}).version == version
        return
    with pytest.raises(ToolError):
        find_nydus_image({"PATH": f"{tmp_path}:/usr/bin:/bin"})


def test_index(tool: NydusImage, tmp_path: Path) -> None:
    """The tree is that of the layers, and each chunk's digest that of the file's bytes."""
    layers = [
        tar_of(
            [("d", D, {"mode": 0o1777}), ("d/a", F, {"data": os.urandom(3 << 20)}), ("b", F, {})]
        ),
        tar_of([("d/x", F, {"data": b"x" * 70000}), (".wh.b", F, {}), ("e", D, {})]),
        tar_of([("d/y", F, {"data": b"y" * 5})]),
    ]
    parts = []
    gzips = [packed(layer, "gzip") for layer in layers]
    sources = []
    for data in gzips:
        built = build(NydusIndexMaker(tool), data, {})
        sources.append(hashlib.sha256(data).hexdigest())
        assert built.blob.annotations["containerd.io/snapshot/nydus-ref"] == f"sha256:{sources[-1]}"
        parts.append(Part(built.blob, built.bootstrap))
    merged = merge(parts)
    (tmp_path / "merged").write_bytes(merged)
    check(tool, str(tmp_path / "merged"))
    rafs = Rafs(merged)
    assert [blob.id for blob in rafs.blobs] == sources
    expected = oracle.apply(layers)
    found = dict(rafs.walk())
    assert {path.decode() for path in found} == set(expected)
    for path, node in found.items():
        wanted = expected[path.decode()]
        assert (node.mode & 0o7777, node.uid, node.gid, node.mtime) == wanted.meta
        if wanted.kind == "0":
            pieces = [
                wanted.data[at : at + (1 << 20)] for at in range(0, len(wanted.data), 1 << 20)
            ]
            digests = [hashlib.sha256(piece).digest() for piece in pieces]
            assert [chunk.digest for chunk in rafs.chunks(node)] == digests


@pytest.mark.parametrize(
    "entries",
    [
        [("a", F, {"data": b"1"}), ("a", F, {"data": b"2"}), ("b", F, {})],
        [("a/b", F, {}), ("a", D, {})],
        [("a", F, {"uid": 3_000_000_000})],
        [("a", F, {"pax_headers": {"mtime": "-3"}})],
    ],
)
def test_index_refuses_what_nydus_image_misreads(tool: NydusImage, entries: list[Entry]) -> None:
    with pytest.raises(ImageError, match="misreads"):
        build(NydusIndexMaker(tool), packed(tar_of(entries), "gzip"), {})
    with pytest.raises(ImageError, match="no gzip"):
        build(NydusIndexMaker(tool), packed(tar_of(entries), "zstd"), {}, "zstd")


def test_manifest(tool: NydusImage) -> None:
    store: dict[str, bytes] = {}
    built = build(NydusMaker(POOL), tar_of([("a", F, {"data": b"1"})]), store, "none")
    merged = merge([Part(built.blob, built.bootstrap)] * 2)
    bootstrap = bootstrap_layer(merged)
    assert bootstrap == bootstrap_layer(merged)
    with tarfile.open(fileobj=io.BytesIO(bootstrap.body), mode="r:gz") as tar:
        assert tar.getnames() == ["image", "image/image.boot"]
        file = tar.extractfile("image/image.boot")
        assert file
        assert file.read() == merged
    config = json.dumps({"os": "linux", "architecture": "amd64", "history": [{}], "x": 1}).encode()
    made = nydus_manifest(config, [built.blob, built.blob], bootstrap)
    manifest = json.loads(made.body)
    assert manifest["config"]["digest"] == f"sha256:{hashlib.sha256(made.config).hexdigest()}"
    assert manifest["config"]["mediaType"] == "application/vnd.nydus.image.config.v1+json"
    assert manifest["layers"][0]["annotations"] == {"containerd.io/snapshot/nydus-blob": "true"}
    assert manifest["layers"][-1]["annotations"] == {
        "containerd.io/snapshot/nydus-bootstrap": "true",
        "containerd.io/snapshot/nydus-fs-version": "6",
    }
    new = json.loads(made.config)
    assert len(new["rootfs"]["diff_ids"]) == len(manifest["layers"]) == 3
    assert new["x"] == 1
    assert made.descriptor.artifact_type == manifest["artifactType"]


@given(st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_broken_bootstrap_is_an_image_error(tool: NydusImage, data: st.DataObject) -> None:
    built = build(NydusMaker(POOL), tar_of(CASES["whiteouts"][0]), {}, "none")
    body = bytearray(built.bootstrap)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(1024, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ImageError):
        unpack(bytes(body), lambda _blob, _at, size: bytes(size), lambda _: None)


@pytest.mark.parametrize("maker", [NydusMaker, NydusIndexMaker])
def test_nydusd_mounts_it(tool: NydusImage, tmp_path: Path, maker: Any) -> None:
    nydusd = installed("nydusd")
    if nydusd is None or os.geteuid() or not os.access("/dev/fuse", os.W_OK):
        assert not os.environ.get("LAZYCI_REQUIRE_CLIENTS") or os.geteuid(), "nydusd is missing"
        pytest.skip("mounting needs nydusd, root and /dev/fuse")
    case = CASES["implied keeps attributes"]
    big: list[Entry] = [("b", F, {"data": os.urandom(3 << 20)}), ("l", L, {"linkname": "b"})]
    layers = [tar_of([*case[0], *big]), tar_of([*case[1], ("tmp/.wh.a", F, {})]), tar_of(case[2])]
    blobs, mount = tmp_path / "blobs", tmp_path / "mount"
    blobs.mkdir()
    mount.mkdir()
    parts: list[Part] = []
    store: dict[str, bytes] = {}
    for layer in layers:
        data = packed(layer, "gzip")
        built = build(made(maker, tool), data, store)
        parts.append(Part(built.blob, built.bootstrap))
        store[hashlib.sha256(data).hexdigest()] = data
    for name, data in store.items():
        (blobs / name).write_bytes(data)
    (tmp_path / "boot").write_bytes(merge(parts))
    backend = {"type": "localfs", "config": {"dir": str(blobs)}}
    cache = {"type": "blobcache", "config": {"work_dir": str(tmp_path)}, "validate": True}
    config = {"device": {"backend": backend, "cache": cache}, "mode": "direct"}
    (tmp_path / "config").write_text(json.dumps(config))
    command = [str(nydusd), "--config", str(tmp_path / "config"), "--mountpoint", str(mount)]
    command += ["--bootstrap", str(tmp_path / "boot"), "--rlimit-nofile", "0"]
    expected = {path: node for path, node in oracle.apply(layers).items() if path}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            until = time.monotonic() + 20
            while not os.path.ismount(mount) or not os.listdir(mount):
                assert daemon.poll() is None, "nydusd ended"
                assert time.monotonic() < until, "nydusd does not mount"
                time.sleep(0.02)
            found = {path.relative_to(mount).as_posix(): path for path in mount.rglob("*")}
            assert found.keys() == expected.keys()
            for name, node in expected.items():
                status = found[name].lstat()
                # For the time 0 nydusd shows that of the mount.
                modified = int(status.st_mtime) if node.meta[3] else 0
                meta = (status.st_mode & 0o7777, status.st_uid, status.st_gid, modified)
                assert meta == node.meta
                if node.kind == "0":
                    assert found[name].read_bytes() == node.data
            assert found["b"].stat().st_ino == found["l"].stat().st_ino
        finally:
            daemon.terminate()
