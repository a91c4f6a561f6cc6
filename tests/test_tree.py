"""Layers as trees: what tars hold, what merging makes of them, and that nothing differs unseen."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lazyci.errors import ImageError
from lazyci.image.check.compare import TOC_FILES, WHOLE_SECONDS, Loss, compare, shown
from lazyci.image.check.tree import Node, Tree, components, merge
from lazyci.image.check.treeblob import unpacked
from lazyci.image.check.treetar import LIBARCHIVE, Limits, read_tar
from tests.trees import ROOT, Item, Unpacked, seen, tar_of

GNU_TAR = shutil.which("tar")
_MODES = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symbolic link": stat.S_IFLNK,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}
SECOND = 10**9


def tree_of(data: bytes, step: int = 1 << 16, limits: Limits | None = None) -> Tree:
    pieces = (data[start : start + step] for start in range(0, len(data), step))
    return read_tar(pieces, limits)[0]


def layer(*items: Item, form: int = tarfile.PAX_FORMAT) -> Tree:
    return tree_of(tar_of(items, form))


def merged(layers: Sequence[Tree]) -> Tree:
    result = Tree()
    for one in layers:
        result = merge(result, one)
    return result


def told(tree: Tree) -> dict[str, dict[str, Any]]:
    """A tree in the words of `tests.trees.seen`."""
    found: dict[str, dict[str, Any]] = {}
    names: dict[int, str] = {}
    for path, node in tree.walk():
        if not path:
            continue
        link = node.kind == "symbolic link"
        plain = node.kind in ("file", "directory")
        found[path] = {
            "type": _MODES[node.kind],
            "mode": None if link else node.mode,
            "owner": (node.uid, node.gid),
            "mtime": node.mtime,
            "xattrs": dict(node.xattrs or {}) if plain else {},
            "target": node.target,
            "device": node.device,
            "content": node.digest.hex(),
            "same as": names.setdefault(id(node), path),
        }
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    at = tmp_path / "root"
    at.mkdir()
    return at


def _takes_xattrs() -> bool:
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.setxattr(file.name, "user.x", b"1")
        except OSError:
            return False
    return True


XATTRS = _takes_xattrs()
_names = st.sampled_from(["a", "b", "c", "d"])
_values = st.binary(max_size=20)
_ids = st.sampled_from([0, 1, 1000, 65534, 3_000_000]) if ROOT else st.just(os.getuid())
_times = st.one_of(
    st.integers(0, 2_000_000_000).map(lambda seconds: seconds * SECOND),
    st.integers(0, 2_000_000_000 * SECOND),
)


@st.composite
def _item(draw: st.DrawFn, whiteouts: bool = True) -> Item:
    depth = draw(st.integers(1, 3))
    path = "/".join(draw(_names) for _ in range(depth))
    kinds = ["file", "file", "directory", "directory", "symbolic link", "hard link", "fifo"]
    if ROOT:
        kinds += ["character device", "block device"]
    if whiteouts:
        kinds += ["whiteout", "opaque"]
    kind = draw(st.sampled_from(kinds))
    folder, _, name = path.rpartition("/")
    prefix = f"{folder}/" if folder else ""
    if kind == "whiteout":
        return Item(f"{prefix}.wh.{name}")
    if kind == "opaque":
        return Item(f"{prefix}.wh..wh..opq")
    plain = kind in ("file", "directory")
    return Item(
        path,
        kind,
        content=draw(st.binary(max_size=2000)) if kind == "file" else b"",
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(_ids),
        gid=draw(_ids),
        mtime=draw(_times),
        xattrs=tuple(
            draw(
                st.dictionaries(st.sampled_from(["user.a", "user.b"]), _values, max_size=2)
            ).items()
        )
        if plain and XATTRS
        else (),
        target=_target(draw, kind),
        device=(draw(st.integers(1, 200)), draw(st.integers(0, 200)))
        if "device" in kind
        else (0, 0),
    )


def _target(draw: st.DrawFn, kind: str) -> str:
    if kind == "symbolic link":
        return draw(st.sampled_from(["nowhere", "../nowhere/x", "ü" * 80, "no/" * 60]))
    return (
        "/".join(draw(_names) for _ in range(draw(st.integers(1, 2))))
        if kind == "hard link"
        else ""
    )


class TestAgainstARealDirectory:
    @pytest.mark.skipif(not ROOT, reason="owners, devices and modes need root")
    @given(
        st.lists(st.lists(_item(), max_size=10), min_size=1, max_size=4),
        st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    )
    @settings(max_examples=300)
    def test_layers_merge_as_they_unpack(self, layers: list[list[Item]], form: int) -> None:
        if form == tarfile.GNU_FORMAT:
            layers = [
                [item.but(mtime=item.mtime // SECOND * SECOND, xattrs=()) for item in items]
                for items in layers
            ]
        with tempfile.TemporaryDirectory() as name:
            root = Unpacked(Path(name))
            try:
                for items in layers:
                    root.apply(items)
            except OSError:
                assume(False)
            expected = seen(root.folder)
        found = merged([layer(*items, form=form) for items in layers])
        assert told(found) == expected

    @pytest.mark.skipif(not ROOT or not GNU_TAR, reason="needs root and GNU tar")
    @pytest.mark.parametrize("form", ["gnu", "pax", "posix"])
    @pytest.mark.parametrize("sparse", [[], ["--sparse"], ["--sparse", "--sparse-version=0.0"]])
    def test_gnu_tar_writes_what_is_read(self, folder: Path, form: str, sparse: list[str]) -> None:
        self._fill(folder)
        times = form != "gnu"
        xattrs = ["--xattrs"] if XATTRS and times else []
        done = subprocess.run(
            [
                "tar",
                "-C",
                folder,
                f"--format={form}",
                "--numeric-owner",
                *xattrs,
                *sparse,
                "-cf",
                "-",
                ".",
            ],
            capture_output=True,
            check=True,
        )
        expected = seen(folder)
        for one in expected.values():
            if not times:
                one["mtime"] = one["mtime"] // SECOND * SECOND
                one["xattrs"] = {}
        assert told(tree_of(done.stdout)) == expected

    def _fill(self, folder: Path) -> None:
        (folder / "plain").write_bytes(b"x" * 10_000)
        (folder / ("long" * 40)).write_bytes(b"1")
        (folder / "deep").mkdir()
        deep = folder / "deep" / ("directory" * 20)
        deep.mkdir()
        (deep / ("ü" * 100)).symlink_to("target" * 30)
        os.link(folder / "plain", deep / "link")
        (folder / os.fsdecode(b"not\xff utf-8")).write_bytes(b"2")
        with (folder / "sparse").open("wb") as file:
            for at in (0, 1 << 20, 3 << 20, 9 << 20):
                file.seek(at)
                file.write(b"data" * 1000)
            file.truncate(10 << 20)
        with (folder / "hole").open("wb") as file:
            file.truncate(1 << 20)
        os.mkfifo(folder / "fifo")
        os.mknod(folder / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.chown(folder / "plain", 3_000_000, 12)
        os.chmod(folder / "plain", 0o4751)
        if XATTRS:
            os.setxattr(folder / "plain", "user.binary", b"\0\xff\n=")

    @pytest.mark.skipif(not ROOT or not GNU_TAR, reason="needs root and GNU tar")
    @given(st.lists(_item(whiteouts=False), max_size=8, unique_by=lambda item: item.path))
    @settings(max_examples=50)
    def test_gnu_tar_unpacks_what_is_read(self, items: list[Item]) -> None:
        # GNU tar sets no attributes by the header of a hard link, and a directory's time when it
        # has left it.
        items.sort(key=lambda item: item.path.split("/"))
        data = tar_of(item for item in items if item.kind != "hard link")
        with tempfile.TemporaryDirectory() as name:
            done = subprocess.run(
                ["tar", "-C", name, "--numeric-owner", "--xattrs", "-xpf", "-"],
                input=data,
                capture_output=True,
            )
            assume(done.returncode == 0)
            expected = seen(Path(name))
        tree = tree_of(data)
        implied = {path for path, node in tree.walk() if node.implied}
        found = told(tree)
        for path in implied - {""}:
            # Times of directories that no entry describes are those of the unpacking.
            expected[path]["mtime"] = 0
            expected[path]["mode"] = found[path]["mode"]
        assert found == expected


class TestReading:
    @given(st.lists(_item(), max_size=12), st.integers(1, 3000))
    @settings(max_examples=50)
    def test_the_size_of_pieces_does_not_matter(self, items: list[Item], step: int) -> None:
        data = tar_of(items)
        try:
            expected = tree_of(data, len(data))
        except ImageError:
            assume(False)
        assert not compare(expected, tree_of(data, step))

    def test_paths_are_normal(self) -> None:
        found = [
            path
            for path, _ in layer(Item("./a/./b"), Item("/c"), Item("d//e/", "directory")).walk()
        ]
        assert found == ["", "a", "a/b", "c", "d", "d/e"]

    def test_the_root_may_be_described(self) -> None:
        tree = layer(Item("./", "directory", mode=0o700))
        assert (tree.root.mode, tree.root.implied) == (0o700, False)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("1.5", 1500000000),
            ("-1.5", -1500000000),
            ("7", 7 * SECOND),
            ("0.0000000019", 1),
            ("3.", 3 * SECOND),
        ],
    )
    def test_times_have_nanoseconds(self, text: str, expected: int) -> None:
        node = self._with_records({"mtime": text}).find("a")
        assert node is not None
        assert node.mtime == expected

    @pytest.mark.parametrize(
        "records", [{"mtime": "1e9"}, {"mtime": "x"}, {"uid": "x"}, {"gid": "1.5"}]
    )
    def test_what_go_refuses_is_refused(self, records: dict[str, str]) -> None:
        with pytest.raises(ImageError):
            self._with_records(records)

    def test_xattrs_of_libarchive_are_apart(self) -> None:
        records = {
            "SCHILY.xattr.user.a": "1",
            "LIBARCHIVE.xattr.user.a": "MQ",
            "LIBARCHIVE.xattr.user%2eb": "Mg",
        }
        node = self._with_records(records).find("a")
        assert node is not None
        assert node.xattrs == {"user.a": b"1", f"{LIBARCHIVE}user.b": b"2"}

    def test_global_records_are_ignored(self) -> None:
        stream = io.BytesIO()
        records = {"comment": "x", "mtime": "99", "SCHILY.xattr.user.a": "1", "path": "b"}
        with tarfile.open(fileobj=stream, mode="w", pax_headers=records) as tar:
            tar.addfile(tarfile.TarInfo("a"))
        node = tree_of(stream.getvalue()).find("a")
        assert node is not None
        assert (node.mtime, node.xattrs) == (0, None)

    def test_a_tar_may_hold_global_records_alone(self) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", pax_headers={"comment": "x"}):
            pass
        tree, total = read_tar(iter([stream.getvalue()]))
        assert (tree.entries, total.size) == (0, len(stream.getvalue()))

    @pytest.mark.parametrize("data", [b"", bytes(512), bytes(1024), bytes(10240)])
    def test_nothing_is_an_empty_layer(self, data: bytes) -> None:
        tree, total = read_tar(iter([data]))
        assert tree.entries == 0
        assert total.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"

    def test_gnu_times_are_no_prefix(self) -> None:
        header = bytearray(tar_of([Item("a")], tarfile.GNU_FORMAT)[:512])
        header[345:357] = b"14763524105\0"
        assert tree_of(_summed(header) + bytes(1024)).find("a") is not None

    def test_the_last_entry_is_known(self) -> None:
        assert read_tar(iter([tar_of([Item("a"), Item("b")])]))[1].last == "b"

    def _with_records(self, records: dict[str, str]) -> Tree:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo("a")
            info.pax_headers = records
            tar.addfile(info)
        return tree_of(stream.getvalue())


def _summed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _broken_tars() -> Iterator[tuple[str, bytes]]:
    good = tar_of([Item("a", content=b"x" * 600), Item("b", content=b"y")])
    yield "truncated content", good[:800]
    yield "truncated header", good[:1800]
    yield "broken header in the middle", good[:1536] + b"junk" + good[1540:]
    yield "junk", b"junk" * 512
    for path in ("../a", "a/../../b", "a/..", "..", "a/\0b"):
        yield f"path {path!r}", _named(path)
    yield "long path", _named("a/" * 2100)
    yield "whiteout of nothing", tar_of([Item("a/.wh.")])
    yield "whiteout of the parent", tar_of([Item("a/.wh...")])
    yield "link out", tar_of([Item("a", "hard link", target="../b")])
    yield "link to the root", tar_of([Item("a", "hard link", target="/")])
    yield "below a file", tar_of([Item("a"), Item("a/b")])
    yield "links in a circle", tar_of([Item("a", "symbolic link", target="a"), Item("a/b")])
    for size in (b"-0000000001\0", b"\xff" * 12):
        header = bytearray(good[:512])
        header[124:136] = size
        yield f"size {size!r}", _summed(header) + good[512:]
    header = bytearray(good[:512])
    header[156:157] = b"V"
    yield "unknown type", _summed(header) + good[512:]
    yield "huge PAX header", _special(b"x", 1 << 30)
    yield "huge long name", _special(b"L", 1 << 30)
    yield "many PAX headers", _special(b"x", 0) * 5000
    yield "digits", _special(b"x", 100_000) + b"1" * 100_352
    yield "negative PAX size", _with_pax(b"15 size=-99999\n")
    yield "sparse with no map", _with_pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")
    yield "endless hole", _with_pax(b"20 GNU.sparse.map=1\n34 GNU.sparse.size=9999999999999999\n")


def _named(path: str) -> bytes:
    return tar_of([Item("a")]) if not path else _with_pax(_record(b"path", path.encode()))


def _record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    size += len(str(size + len(str(size))))
    return b"%d %s=%s\n" % (size, key, value)


def _with_pax(records: bytes) -> bytes:
    body = records + bytes(-len(records) % 512)
    return _special(b"x", len(records)) + body + tar_of([Item("a", content=b"1" * 600)])


def _special(kind: bytes, size: int) -> bytes:
    header = bytearray(tar_of([Item("PaxHeader")])[:512])
    header[124:136] = b"%011o\0" % size
    header[156:157] = kind
    return _summed(header)


@pytest.mark.parametrize(
    ("name", "data"), [pytest.param(*case, id=case[0]) for case in _broken_tars()]
)
def test_hostile_tars_are_refused(name: str, data: bytes) -> None:
    del name
    with pytest.raises(ImageError):
        tree_of(data, limits=Limits(unpacked=1 << 30))


@pytest.mark.parametrize("limits", [Limits(entries=9), Limits(unpacked=5000)])
def test_limits_hold(limits: Limits) -> None:
    data = tar_of([Item(f"f{number}") for number in range(10)])
    tree_of(data, limits=Limits(entries=10, unpacked=len(data)))
    with pytest.raises(ImageError):
        tree_of(data, limits=limits)


@given(st.lists(_item(), min_size=1, max_size=5), st.data())
@settings(max_examples=200)
def test_no_bytes_make_anything_but_a_tree_or_an_error(
    items: list[Item], data: st.DataObject
) -> None:
    body = bytearray(tar_of(items))
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        tree_of(bytes(body), limits=Limits(unpacked=1 << 24))


class TestMerging:
    def test_a_described_directory_changes_the_lower_one(self) -> None:
        lower = layer(Item("d", "directory", mode=0o700), Item("d/a"))
        tree = merged([lower, layer(Item("d", "directory", mode=0o755))])
        assert _modes(tree) == {"d": 0o755, "d/a": 0o644}

    def test_a_directory_that_is_not_described_does_not(self) -> None:
        lower = layer(Item("d", "directory", mode=0o700))
        assert _modes(merged([lower, layer(Item("d/a"))])) == {"d": 0o700, "d/a": 0o644}

    def test_a_directory_takes_the_place_of_a_link_below(self) -> None:
        lower = layer(Item("lib", "symbolic link", target="usr/lib"), Item("usr/lib/a"))
        tree = merged([lower, layer(Item("lib/b"))])
        assert set(_modes(tree)) == {"lib", "lib/b", "usr", "usr/lib", "usr/lib/a"}

    @pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "../../usr/./lib"])
    def test_links_of_the_same_layer_are_followed(self, target: str) -> None:
        tree = layer(Item("lib", "symbolic link", target=target), Item("lib/b"))
        assert set(_modes(tree)) == {"lib", "usr", "usr/lib", "usr/lib/b"}

    def test_a_whiteout_hides_lower_layers_only(self) -> None:
        lower = layer(Item("a", content=b"old"), Item("b"), Item("d/a"))
        upper = layer(
            Item("a", content=b"new"), Item(".wh.a"), Item(".wh.b"), Item(".wh.d"), Item("d/c")
        )
        tree = merged([lower, upper])
        assert set(_modes(tree)) == {"a", "d", "d/c"}

    def test_a_directory_after_a_file_shows_what_is_below_as_on_overlayfs(self) -> None:
        lower = layer(Item("d/a"))
        tree = merged([lower, layer(Item("d"), Item("d", "directory", mode=0o700))])
        assert _modes(tree) == {"d": 0o700, "d/a": 0o644}

    def test_an_opaque_directory_hides_what_is_below_in_any_order(self) -> None:
        lower = layer(Item("d/a"), Item("d/e/f"))
        tree = merged([lower, layer(Item("d/b"), Item("d/.wh..wh..opq"))])
        assert set(_modes(tree)) == {"d", "d/b"}

    def test_links_before_after_and_below(self) -> None:
        lower = layer(Item("low"))
        upper = layer(
            Item("before", "hard link", target="file"),
            Item("chain", "hard link", target="before"),
            Item("file", content=b"x"),
            Item("after", "hard link", target="./file"),
            Item("deep", "hard link", target="low"),
            Item("deeper", "hard link", target="deep"),
        )
        tree = merged([lower, upper])
        same = {tree.find(name) for name in ("before", "chain", "file", "after")}
        assert len(same) == 1
        assert tree.find("deep") is tree.find("deeper") is tree.find("low")

    def test_a_link_to_nothing_is_refused(self) -> None:
        with pytest.raises(ImageError, match="which is no file"):
            merged([layer(Item("a", "hard link", target="b"))])

    def test_a_link_keeps_the_file_that_was_there(self) -> None:
        tree = layer(
            Item("a", content=b"old"), Item("b", "hard link", target="a"), Item("a", content=b"new")
        )
        assert [_content(tree, name) for name in "ab"] == [_sum(b"new"), _sum(b"old")]


def _modes(tree: Tree) -> dict[str, int]:
    return {
        path: node.mode if node.kind != "symbolic link" else 0 for path, node in tree.walk() if path
    }


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _content(tree: Tree, path: str) -> bytes:
    node = tree.find(path)
    assert node is not None
    return node.digest


_SAMPLE = (
    Item("d", "directory", mode=0o755),
    Item("d/file", content=b"content", mtime=1_700_000_000_123_456_789, xattrs=(("user.a", b"1"),)),
    Item("d/twin", "hard link", target="d/file", mtime=1_700_000_000_123_456_789),
    Item(
        "d/other", content=b"content", mtime=1_700_000_000_123_456_789, xattrs=(("user.a", b"1"),)
    ),
    Item("link", "symbolic link", target="d/file", mode=0o777),
    Item("device", "character device", device=(1, 3)),
    Item("fifo", "fifo"),
    Item("empty"),
    Item("d/.wh.gone"),
    Item("implied/x"),
)
_CHANGES: dict[str, Any] = {
    "mode": lambda value: value ^ 0o4001,
    "uid": lambda value: value + 1,
    "gid": lambda value: value + 1,
    "mtime": lambda value: value + 1,
}


def _mutations() -> Iterator[Any]:
    for index, item in enumerate(_SAMPLE):
        if item.kind == "hard link" or ".wh." in item.path:
            continue
        for field, change in _CHANGES.items():
            if field == "mode" and item.kind == "symbolic link":
                # Linux knows no modes of these.
                continue
            changes = {field: change(getattr(item, field))}
            yield pytest.param(index, changes, (item.path, field), id=f"{item.path} {field}")
        if item.kind in ("file", "directory"):
            more = {"xattrs": (*item.xattrs, ("user.b", b"2"))}
            yield pytest.param(index, more, (item.path, "xattr user.b"), id=f"{item.path} xattr")
    for index, changes, found in (
        (1, {"content": b"CONTENT"}, ("d/file", "content")),
        (1, {"content": b"more content"}, ("d/file", "size")),
        (1, {"xattrs": ()}, ("d/file", "xattr user.a")),
        (1, {"xattrs": (("user.a", b"2"),)}, ("d/file", "xattr user.a")),
        (4, {"target": "d/other"}, ("link", "target")),
        (5, {"device": (1, 5)}, ("device", "device")),
        (5, {"kind": "block device"}, ("device", "type")),
        (7, {"kind": "directory"}, ("empty", "type")),
        (2, {"target": "d/other"}, ("d/twin", "hard link")),
        (
            2,
            {"kind": "file", "content": b"content", "xattrs": (("user.a", b"1"),)},
            ("d/twin", "hard link"),
        ),
    ):
        yield pytest.param(index, changes, found, id=f"{found[0]} {found[1]} {changes}")


def _facts(tree: Tree) -> Iterator[tuple[object, ...]]:
    for path, node in tree.walk():
        yield path, node.kind, node.mode, node.uid, node.gid, node.mtime


class TestComparing:
    @pytest.mark.parametrize(("index", "changes", "expected"), list(_mutations()))
    def test_one_change_is_one_difference(
        self, index: int, changes: dict[str, Any], expected: tuple[str, str]
    ) -> None:
        # A link's header would set the attributes of its file again.
        sample = list(_SAMPLE)
        if index == 1 and not changes.keys() & {"content", "kind"}:
            sample[2] = sample[2].but(
                **{key: value for key, value in changes.items() if key != "xattrs"}
            )
        sample[index] = sample[index].but(**changes)
        found = compare(layer(*_SAMPLE), layer(*sample))
        assert [(one.path, one.field) for one in found] == [expected]
        assert not any(one.reason for one in found)

    @pytest.mark.parametrize("index", range(len(_SAMPLE)))
    def test_a_missing_or_added_entry_is_found(self, index: int) -> None:
        sample = list(_SAMPLE)
        gone = sample.pop(index)
        for left, right in ((_SAMPLE, sample), (sample, _SAMPLE)):
            try:
                found = compare(layer(*left), layer(*right))
            except ImageError:
                continue
            fields = {one.field for one in found}
            assert fields & {"entry", "whiteout", "described"}, gone.path
            assert found

    @given(st.lists(_item(), max_size=10), st.data())
    @settings(max_examples=200)
    def test_any_one_change_is_seen(self, items: list[Item], data: st.DataObject) -> None:
        plain = [
            n
            for n, item in enumerate(items)
            if ".wh." not in item.path and item.kind != "hard link"
        ]
        assume(plain)
        index = data.draw(st.sampled_from(plain))
        field = data.draw(st.sampled_from(sorted(_CHANGES)))
        changed = list(items)
        changed[index] = items[index].but(**{field: _CHANGES[field](getattr(items[index], field))})
        try:
            expected, found = layer(*items), layer(*changed)
        except ImageError:
            assume(False)
        differences = compare(expected, found)
        # An entry that a later one replaces has no effect.
        assert differences == [] or [one.field for one in differences] == [field]
        assert bool(differences) == (list(_facts(expected)) != list(_facts(found)))

    def test_a_whole_directory_is_said_once(self) -> None:
        found = compare(layer(Item("d/e/f"), Item("d/g")), layer())
        assert [(one.path, one.expected, one.found) for one in found] == [
            ("d", "directory with 3 entries", "nothing")
        ]

    def test_opaque_and_described(self) -> None:
        found = compare(
            layer(Item("d/.wh..wh..opq"), Item("e", "directory")), layer(Item("d/a"), Item("e/b"))
        )
        assert [(one.path, one.field) for one in found] == [
            ("d", "opaque"),
            ("d/a", "entry"),
            ("e", "described"),
            ("e/b", "entry"),
        ]

    def test_the_table_of_contents_is_no_difference(self) -> None:
        toc = [Item(name, content=b"x") for name in sorted(TOC_FILES)]
        assert not compare(layer(Item("a")), layer(Item("a"), *toc), ignore=TOC_FILES)
        # Only in the root, and only as files.
        below = layer(Item("a"), Item("d/stargz.index.json"))
        assert compare(layer(Item("a")), below, ignore=TOC_FILES)
        assert compare(layer(), layer(Item("stargz.index.json/x")), ignore=TOC_FILES)

    @pytest.mark.parametrize(
        ("old", "new", "covered"),
        [(1_500_000_000, SECOND, True), (1_500_000_000, 2 * SECOND, True), (1_500_000_000, 3 * SECOND, False),
         (SECOND, 2 * SECOND, False), (1_500_000_000, 1_400_000_000, False)],
    )  # fmt: skip
    def test_a_loss_is_reported_with_its_reason(self, old: int, new: int, covered: bool) -> None:
        found = compare(layer(Item("a", mtime=old)), layer(Item("a", mtime=new)), [WHOLE_SECONDS])
        assert [(one.field, bool(one.reason)) for one in found] == [("mtime", covered)]
        assert ("not kept" in str(found[0])) is covered

    def test_a_loss_covers_its_field_alone(self) -> None:
        loss = Loss("xattr user.*", "no such attributes")
        one = layer(Item("a", xattrs=(("user.a", b"1"), ("trusted.a", b"1"))))
        found = compare(one, layer(Item("a", mode=0)), [loss])
        assert {one.field: one.reason for one in found} == {
            "mode": "",
            "xattr trusted.a": "",
            "xattr user.a": "no such attributes",
        }

    def test_in_merged_trees_the_time_of_an_implied_directory_is_free(self) -> None:
        one, other = (
            layer(Item("d/a")),
            layer(Item("d", "directory", mode=0o755, mtime=5), Item("d/a")),
        )
        assert not compare(one, other, layers=False)
        assert [found.field for found in compare(one, other)] == ["described"]

    def test_hostile_names_are_safe_to_print(self) -> None:
        name = "\x1b[2J\n\u202eevil\\" + os.fsdecode(b"\xff")
        text = str(compare(layer(Item(name)), layer())[0])
        assert text == r"\x1b[2J\n\u202eevil\\\xff: entry: file -> nothing"

    def test_what_is_long_is_cut_but_not_alike(self) -> None:
        long = "x" * 1000
        assert len(shown(long)) < 300
        assert shown(long + "a") != shown(long + "b")

    def test_names_are_components(self) -> None:
        assert components("./a//b/.") == ("a", "b")
        assert Node("file").children is None


class TestUnpacking:
    BODY = b"some text " * 100_000

    def test_members_follow_one_another(self) -> None:
        halves = self.BODY[:777], self.BODY[777:]
        for kind, compress in (("gzip", gzip.compress), ("zstd", zstandard.compress)):
            stored = b"".join(compress(half) for half in halves)
            for step in (1, 1000, len(stored)):
                if step == 1 and len(stored) > 100_000:
                    continue
                pieces = (stored[at : at + step] for at in range(0, len(stored), step))
                assert b"".join(unpacked(pieces, kind)) == self.BODY

    def test_members_of_one_byte_are_many(self) -> None:
        stored = gzip.compress(b"x") * 20_000
        assert b"".join(unpacked(iter([stored]), "gzip")) == b"x" * 20_000

    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    def test_zeros_may_follow_and_nothing_else(self, kind: str) -> None:
        stored = gzip.compress(b"x") if kind == "gzip" else zstandard.compress(b"x")
        assert b"".join(unpacked(iter([stored + bytes(1000)]), kind)) == b"x"
        with pytest.raises(ImageError):
            list(unpacked(iter([stored + b"junk"]), kind))

    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    def test_what_is_truncated_is_refused(self, kind: str) -> None:
        stored = gzip.compress(self.BODY) if kind == "gzip" else zstandard.compress(self.BODY)
        for size in (1, 9, len(stored) // 2, len(stored) - 1):
            with pytest.raises(ImageError):
                list(unpacked(iter([stored[:size]]), kind))

    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    def test_a_bomb_comes_in_small_pieces(self, kind: str) -> None:
        body = bytes(300 << 20)
        stored = gzip.compress(body, 9) if kind == "gzip" else zstandard.compress(body)
        with pytest.raises(ImageError, match="unpacks to more than"):
            read_tar(unpacked(iter([stored]), kind), Limits(unpacked=200 << 20))

    def test_an_unknown_compression_is_refused(self) -> None:
        with pytest.raises(ImageError):
            list(unpacked(iter([b"x"]), ""))
