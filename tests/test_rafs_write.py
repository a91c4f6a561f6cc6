"""Bootstraps merged here are those of the real nydus-image to the byte, where it is right."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lazyci.errors import ImageError
from lazyci.image.nydus.maker import NydusIndexMaker, NydusMaker
from lazyci.image.nydus.merge import Part
from lazyci.image.nydus.tool import NydusImage, find_nydus_image
from lazyci.image.nydus.unpack import check
from lazyci.image.rafs.overlay import Layer, merge_bootstraps
from lazyci.image.rafs.reader import Rafs
from tests import oracle
from tests.clients.install import installed
from tests.test_nydus import CASES, ENTRIES, Entry, build, made, packed, tar_of, tree_of

D, F, L, S = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
SLOW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def tool() -> NydusImage:
    path = installed("nydus-image")
    if path is None:
        assert not os.environ.get("LAZYCI_REQUIRE_CLIENTS"), "nydus-image is not installed"
        pytest.skip("nydus-image is not installed: `make clients` builds it (needs Rust)")
    return find_nydus_image({"LAZYCI_NYDUS_IMAGE": str(path)})


def layers_of(
    tool: NydusImage, tars: Sequence[bytes], store: dict[str, bytes], maker: Any = NydusMaker
) -> list[Layer]:
    maker_of = made(maker, tool)
    kind = "gzip" if maker is NydusIndexMaker else "none"
    built = [build(maker_of, packed(tar, kind), store, kind) for tar in tars]
    return [Part(one.blob, one.bootstrap).layer for one in built]


def by_tool(tool: NydusImage, layers: Sequence[Layer], tmp_path: Path) -> bytes:
    """What nydus-image makes of the layers, and nothing but them."""
    files = []
    for layer in layers:
        files.append(tmp_path / layer.source)
        files[-1].write_bytes(layer.bootstrap)
    options = []
    if any(layer.is_index for layer in layers):
        options = [
            f"--blob-digests={','.join(layer.digest for layer in layers)}",
            f"--blob-sizes={','.join(str(layer.size) for layer in layers)}",
            f"--blob-toc-digests={','.join(layer.toc for layer in layers)}",
        ]
    target = tmp_path / "by-tool"
    where = f"--bootstrap={target}"
    tool.run(
        "merge", where, "--log-level=error", "--prefetch-policy=none", *options, *map(str, files)
    )
    return target.read_bytes()


def checked(tool: NydusImage, layers: Sequence[Layer], tmp_path: Path) -> bytes:
    merged = merge_bootstraps(layers)
    (tmp_path / "merged").write_bytes(merged)
    check(tool, str(tmp_path / "merged"))
    return merged


def fills_blocks(bootstrap: bytes) -> bool:
    """Whether it has a directory whose last name nydus-image misreads."""
    return any(node.is_directory and not node.size % 4096 for _, node in Rafs(bootstrap).walk())


# What a name stands for is the same in all layers: where a layer makes a directory of a file and
# a third one a directory again, nydus-image brings back what the first held.
FILE = st.one_of(
    st.fixed_dictionaries(
        {
            "data": st.one_of(
                st.binary(max_size=20),
                st.integers(0, 255).map(lambda byte: bytes([byte]) * 5000),
                st.integers(0, 9).map(lambda byte: bytes([byte, 1, 2]) * 1_500_000),
            ),
            "uid": st.sampled_from([0, 1000, 3_000_000]),
            "mtime": st.sampled_from([0, 7, 1 << 33]),
        }
    ),
    st.just({"pax_headers": {"SCHILY.xattr.user.a": "b" * 77}}),
    st.just({"pax_headers": {"SCHILY.xattr.security.capability": "x" * 3990}}),
)
DEVICES: dict[str, Entry] = {
    "dev": ("dev", tarfile.CHRTYPE, {"devmajor": 3, "devminor": 70000}),
    "pipe": ("pipe", tarfile.FIFOTYPE, {}),
}


class Tar(bytes):
    """A tar that a failing test does not print."""

    def __repr__(self) -> str:
        with tarfile.open(fileobj=io.BytesIO(self)) as tar:
            return f"<{', '.join(f'{one.name[:40]} {one.size}' for one in tar)[:2000]}>"


@st.composite
def described(draw: st.DrawFn, special: Sequence[str] = ("dev", "pipe")) -> Tar:
    """A layer that describes all its directories."""
    entries: list[Entry] = [("./", D, {"mode": draw(st.sampled_from([0o755, 0o700]))})]
    for folder in draw(st.lists(st.sampled_from(["", "a", "a/b", "a/b/c", "é", "+"]), unique=True)):
        names = folder.split("/") if folder else []
        for end in range(1, len(names) + 1):
            entries.append(("/".join(names[:end]), D, {"mode": 0o711, "uid": end}))
        start = f"{folder}/" if folder else ""
        for name in draw(st.lists(st.sampled_from(["f", "-f", "~", "g" * 200]), unique=True)):
            entries.append((start + name, F, draw(FILE)))
            if draw(st.booleans()):
                entries.append((start + "l" + name, L, {"linkname": start + name}))
        for at in range(draw(st.sampled_from([0, 0, 3, 70, 700]))):
            name = f"{start}many-{at}-" + "n" * (at % draw(st.sampled_from([1, 17, 90])))
            entries.append((name, F, {"data": b"%d" % at}))
        size = draw(st.sampled_from([0, 1, 99, 3000, 4031, 4032, 4033, 4095]))
        if size:
            entries.append((start + "s", S, {"linkname": "t" * size}))
    entries += [DEVICES[name] for name in draw(st.sets(st.sampled_from(special)))]
    form = tarfile.GNU_FORMAT if draw(st.booleans()) else tarfile.PAX_FORMAT
    return Tar(tar_of(entries, form))


@SLOW
@given(st.lists(described(), min_size=1, max_size=4))
def test_identical(tool: NydusImage, tmp_path: Path, tars: list[Tar]) -> None:
    layers = layers_of(tool, tars, {})
    theirs = by_tool(tool, layers, tmp_path)
    assume(not fills_blocks(theirs) and not any(fills_blocks(one.bootstrap) for one in layers))
    assert checked(tool, layers, tmp_path) == theirs


@SLOW
# nydus-image refuses a pipe as Python writes it, without a device.
@given(st.lists(described(("dev",)), min_size=1, max_size=3), st.booleans())
def test_identical_index(tool: NydusImage, tmp_path: Path, tars: list[Tar], is_mixed: bool) -> None:
    try:
        layers = layers_of(tool, tars, {}, NydusIndexMaker)
    except ImageError:
        # Owners and times that nydus-image misreads in the original layer.
        assume(False)
    if is_mixed:
        layers.append(layers_of(tool, [tar_of([("./", D, {}), ("m", F, {"data": b"m"})])], {})[0])
    theirs = by_tool(tool, layers, tmp_path)
    assume(not fills_blocks(theirs) and not any(fills_blocks(one.bootstrap) for one in layers))
    # What looks like a directory that is only passed through keeps its attributes.
    implied = {(0o755, 0, 0, 0)}
    for layer in layers:
        for _, node in Rafs(layer.bootstrap).walk():
            assume((node.mode & 0o7777, node.uid, node.gid, node.mtime) not in implied)
    assert checked(tool, layers, tmp_path) == theirs


def same(tool: NydusImage, tars: Sequence[bytes], tmp_path: Path) -> dict[str, Any]:
    store: dict[str, bytes] = {}
    merged = checked(tool, layers_of(tool, tars, store), tmp_path)
    expected = oracle.shown(oracle.apply(list(tars)))
    assert tree_of(merged, store) == expected
    return expected


@pytest.mark.parametrize("name", CASES)
def test_same_tree(tool: NydusImage, tmp_path: Path, name: str) -> None:
    same(tool, [tar_of(entries) for entries in CASES[name]], tmp_path)


@SLOW
@given(st.lists(st.lists(ENTRIES, max_size=7), min_size=1, max_size=4))
def test_any_layers(tool: NydusImage, tmp_path: Path, entries: list[list[Entry]]) -> None:
    tars = [tar_of(layer) for layer in entries]
    try:
        oracle.apply(tars)
    except oracle.RefusedError:
        # What a layer itself covers again is not in its bootstrap, so not all of these are seen.
        with suppress(ImageError):
            merge_bootstraps(layers_of(tool, tars, {}))
        return
    same(tool, tars, tmp_path)


def test_what_a_file_covered_stays_away(tool: NydusImage, tmp_path: Path) -> None:
    """nydus-image brings back what the first layer held."""
    folder: list[Entry] = [("./", D, {}), ("a", D, {}), ("a/old", F, {"data": b"1"})]
    tars = [tar_of(folder), tar_of([("./", D, {}), ("a", F, {})]), tar_of(folder[:2])]
    assert "a/old" not in same(tool, tars, tmp_path)
    theirs = by_tool(tool, layers_of(tool, tars, {}), tmp_path)
    assert b"a/old" in dict(Rafs(theirs).walk())


def test_several_attributes_are_reproducible(tool: NydusImage) -> None:
    xattrs = {f"SCHILY.xattr.user.{name}": name * 9 for name in "abcdefgh"}
    layers = layers_of(tool, [tar_of([("f", F, {"pax_headers": xattrs})])], {})
    merged = {merge_bootstraps(layers) for _ in range(3)}
    assert len(merged) == 1
    found = dict(Rafs(merged.pop()).walk())[b"f"].xattrs
    assert found == {b"user." + name.encode(): name.encode() * 9 for name in "abcdefgh"}


def paths_of(layer: Layer) -> list[bytes]:
    return [path for path, _ in Rafs(layer.bootstrap).walk()]


# 27 bytes for `.` and `..`, 150 for each file, the last name's length makes 4096 of it.
FULL = [f"{at:02d}" + "n" * 136 for at in range(27)] + ["z" * (4096 - 27 - 27 * 150 - 12)]


def test_directories_that_fill_a_block(tool: NydusImage, tmp_path: Path) -> None:
    """nydus-image and nydusd 2.2.0 read on behind the last name."""
    entries: list[Entry] = [("./", D, {}), ("d", D, {}), ("e", D, {"mode": 0o700})]
    entries += [(f"d/{name}", F, {"data": b"x"}) for name in FULL]
    tars = [tar_of(entries)]
    layers = layers_of(tool, tars, {}, NydusIndexMaker)
    assert fills_blocks(layers[0].bootstrap)
    assert dict(Rafs(by_tool(tool, layers, tmp_path)).walk()).keys() != {*paths_of(layers[0])}
    same(tool, tars, tmp_path)
    merged = merge_bootstraps(layers)
    assert not fills_blocks(merged)
    assert merge_bootstraps([dataclasses.replace(layers[0], bootstrap=merged)]) == merged


@pytest.mark.parametrize("maker", [NydusMaker, NydusIndexMaker])
def test_nydusd_shows_it(tool: NydusImage, tmp_path: Path, maker: Any) -> None:
    nydusd = installed("nydusd")
    if nydusd is None or os.geteuid() or not os.access("/dev/fuse", os.W_OK):
        assert not os.environ.get("LAZYCI_REQUIRE_CLIENTS") or os.geteuid(), "nydusd is missing"
        pytest.skip("mounting needs nydusd, root and /dev/fuse")
    full: list[Entry] = [(f"d/{name}", F, {"data": name.encode()}) for name in FULL]
    big: list[Entry] = [("b", F, {"data": os.urandom(3 << 20)}), ("l", L, {"linkname": "b"})]
    tars = [
        tar_of([("d", D, {}), *full, *big, ("gone", F, {})]),
        tar_of([(".wh.gone", F, {}), ("s", S, {"linkname": "t" * 4050}), ("e/n", F, {})]),
    ]
    store = {hashlib.sha256(data).hexdigest(): data for data in map(gzip_of, tars)}
    merged = checked(tool, layers_of(tool, tars, store, maker), tmp_path)
    expected = {path: node for path, node in oracle.apply(tars).items() if path}
    found = mounted(nydusd, merged, store, tmp_path)
    assert found.keys() == expected.keys()
    assert found == {p: node.data if node.kind == "0" else b"" for p, node in expected.items()}


def gzip_of(tar: bytes) -> bytes:
    return gzip.compress(tar, 6, mtime=0)


def mounted(
    nydusd: Path, bootstrap: bytes, store: dict[str, bytes], tmp_path: Path
) -> dict[str, bytes]:
    blobs, mount = tmp_path / "blobs", tmp_path / "mount"
    blobs.mkdir()
    mount.mkdir()
    for name, data in store.items():
        (blobs / name).write_bytes(data)
    (tmp_path / "boot").write_bytes(bootstrap)
    backend = {"type": "localfs", "config": {"dir": str(blobs)}}
    cache = {"type": "blobcache", "config": {"work_dir": str(tmp_path)}, "validate": True}
    config = {"device": {"backend": backend, "cache": cache}, "mode": "direct"}
    (tmp_path / "config").write_text(json.dumps(config))
    command = [str(nydusd), "--config", str(tmp_path / "config"), "--mountpoint", str(mount)]
    command += ["--bootstrap", str(tmp_path / "boot"), "--rlimit-nofile", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            until = time.monotonic() + 20
            while not os.path.ismount(mount) or not os.listdir(mount):
                assert daemon.poll() is None, "nydusd ended"
                assert time.monotonic() < until, "nydusd does not mount"
                time.sleep(0.02)
            return {
                path.relative_to(mount).as_posix(): path.read_bytes()
                if path.is_file() and not path.is_symlink()
                else b""
                for path in mount.rglob("*")
            }
        finally:
            daemon.terminate()


def test_refused(tool: NydusImage) -> None:
    one = layers_of(tool, [tar_of([("a", F, {"data": b"1"})])], {})[0]
    other = "1" * 64
    for layers, message in (
        ([], "no layers"),
        ([Layer(one.bootstrap, one.source, one.digest, 1, "x")], "is none"),
        ([Layer(one.bootstrap, "../" + one.source, one.digest, 1)], "is none"),
        ([Layer(one.bootstrap, one.source, one.digest, -1)], "is none"),
        ([Layer(one.bootstrap, one.source, other, 1)], "another kind"),
        ([Layer(one.bootstrap, f"{at:064x}", f"{at:064x}", 1) for at in range(255)], "254 layers"),
        ([Layer(b"", one.source, one.digest, 1)], "out of itself"),
    ):
        with pytest.raises(ImageError, match=message):
            merge_bootstraps(layers)
    assert merge_bootstraps([one] * 255) == merge_bootstraps([one])


def test_layers_that_do_not_fit(tool: NydusImage) -> None:
    tars = [tar_of([("x", D, {}), ("x/lib", S, {"linkname": "usr"})]), tar_of([("x/lib/a", F, {})])]
    with pytest.raises(ImageError, match="goes through b'x/lib'"):
        merge_bootstraps(layers_of(tool, tars, {}))


@pytest.fixture(scope="module")
def victims(tool: NydusImage) -> list[Layer]:
    entries = [*CASES["whiteouts"][0], *CASES["xattrs"][0], *CASES["hard links"][0]]
    return layers_of(tool, [tar_of(entries), tar_of(CASES["whiteouts"][1])], {})


@given(st.data())
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_broken_bootstrap_is_an_image_error(victims: list[Layer], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 1))
    body = bytearray(victims[at].bootstrap)
    # Most of a bootstrap is padding.
    places = [place for place in range(1024, len(body)) if any(body[place - 4 : place + 5])]
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    layers = list(victims)
    layers[at] = Layer(bytes(body), layers[at].source, layers[at].digest, layers[at].size)
    with suppress(ImageError):
        assert len(merge_bootstraps(layers)) < 1 << 20
