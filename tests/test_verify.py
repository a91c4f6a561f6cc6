"""A variant is its original, or the difference is named: layers, tables of contents, configs."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyci.errors import ImageError, RegistryError
from lazyci.image.check.compare import WHOLE_SECONDS, Difference
from lazyci.image.check.verify import Report, verify
from lazyci.image.manifest import (
    ANNOTATION_ORIGINAL,
    DOCKER_MANIFEST,
    GZIP_LAYER,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    ZSTD_LAYER,
    Content,
    Descriptor,
)
from lazyci.image.store import Repository, Sink
from tests.repositories import MemoryRepository
from tests.toclayers import Made, Rows, digest, lazy_layer
from tests.trees import Item, tar_of

SECOND = 10**9
NYDUS = "application/vnd.nydus.image.manifest.v1+json"
BASE = (
    Item("bin/", "directory", mode=0o755, mtime=SECOND),
    Item("bin/tool", content=b"tool" * 1500, mode=0o4755, mtime=1_500_000_000, uid=3),
    Item("bin/same", "hard link", target="bin/tool", mode=0o4755, mtime=1_500_000_000, uid=3),
    Item("bin/link", "symbolic link", target="tool", mode=0o777),
    Item("etc/small", content=b"1", xattrs=(("user.a", b"\0\xff"),)),
    Item("etc/empty"),
    Item("dev/null", "character device", mode=0o666, device=(1, 3)),
    Item("etc/other", content=b"22"),
)
TOP = (Item("etc/.wh.small"), Item("etc/new", content=b"new"), Item("opt/.wh..wh..opq"))
LAYERS = (BASE, TOP)
CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["A=1"], "Cmd": ["tool"]},
    "history": [{"created_by": "a"}, {"created_by": "b"}],
}

Change = Callable[[dict[str, Any]], None]


def nothing(value: Any) -> None:
    """Changes nothing."""


def _plain(blob: Descriptor, **more: Any) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size, **more}


class House:
    """One repository with an original, and what makes variants of it."""

    def __init__(self) -> None:
        self.repository = MemoryRepository()

    def push(self, document: dict[str, Any], media_type: str = OCI_MANIFEST) -> Content:
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
        return self.repository.resolve(self.repository.push_manifest(body, media_type))

    def image(
        self,
        layers: list[tuple[Made, str]],
        *,
        notes: dict[str, str] | None = None,
        config: Change = nothing,
        media_type: str = OCI_MANIFEST,
        more: dict[str, Any] | None = None,
    ) -> Content:
        value = json.loads(json.dumps(CONFIG)) | (more or {})
        value["rootfs"] = {"type": "layers", "diff_ids": [made.diff_id for made, _ in layers]}
        config(value)
        config_blob = self.repository.add_blob(json.dumps(value).encode(), OCI_CONFIG)
        blobs = [(self.repository.add_blob(made.body, kind), made) for made, kind in layers]
        document: dict[str, Any] = {
            "config": _plain(config_blob),
            "layers": [_plain(blob, annotations=made.annotations) for blob, made in blobs],
        }
        if notes:
            document["annotations"] = notes
        return self.push(document, media_type)

    def original(self, media_type: str = OCI_MANIFEST, **more: Any) -> Content:
        return self.image([plain(items) for items in LAYERS], media_type=media_type, more=more)

    def chunked(
        self,
        original: Content,
        kind: str = "gzip",
        layers: tuple[tuple[Item, ...], ...] = LAYERS,
        change: Callable[[Rows], None] = nothing,
        config: Change = nothing,
        made: Callable[[Made], Made] = lambda made: made,
        more: dict[str, Any] | None = None,
        **how: Any,
    ) -> Content:
        built = [lazy_layer(items, kind, change=change, **how) for items in layers]
        media_type = GZIP_LAYER if kind == "gzip" else ZSTD_LAYER
        notes = {ANNOTATION_ORIGINAL: original.digest}
        return self.image(
            [(made(one), media_type) for one in built], notes=notes, config=config, more=more
        )

    def nydus(
        self,
        original: Content,
        *,
        isolating: tuple[Item, ...] = (),
        config: Change = nothing,
        nydus_config: Change = nothing,
        layers: tuple[tuple[Item, ...], ...] = LAYERS,
        others: tuple[dict[str, Any], ...] = (),
        named: str = "",
    ) -> Content:
        def copied(value: dict[str, Any]) -> None:
            value["history"].insert(0, {"created_by": "lazyci"})
            config(value)

        notes = {ANNOTATION_ORIGINAL: named or original.digest}
        copy = self.image(
            [plain(isolating, "lazyci"), *(plain(items) for items in layers)],
            notes=notes,
            config=copied,
        )
        blob = Made(b"blob", {}, b"blob")
        beside = self.image(
            [(blob, "application/vnd.oci.image.layer.nydus.blob.v1")], config=nydus_config
        )
        platform = {"architecture": "amd64", "os": "linux"}
        entries = [
            _plain(copy.descriptor, platform=platform),
            _plain(beside.descriptor, platform=platform, artifactType=NYDUS),
            *others,
        ]
        return self.push({"manifests": entries, "annotations": notes}, OCI_INDEX)

    def check(self, original: Content, variant: Content, **how: Any) -> Report:
        return verify(self.repository, self.repository, original, variant, **how)


def plain(items: tuple[Item, ...], comment: str = "") -> tuple[Made, str]:
    stream = io.BytesIO()
    if comment:
        with tarfile.open(fileobj=stream, mode="w", pax_headers={"comment": comment}):
            pass
    body = tar_of(items) if items or not comment else stream.getvalue()
    return Made(gzip.compress(body, mtime=0), {}, body), GZIP_LAYER


@pytest.fixture
def house() -> House:
    return House()


def found(report: Report) -> list[tuple[str, str, str]]:
    return [
        (check.name, one.path, one.field) for check in report.checks for one in check.differences
    ]


class TestChunked:
    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
    def test_a_right_one_is_right(
        self, house: House, kind: str, shared: bool, media_type: str
    ) -> None:
        original = house.original(media_type)
        house.repository.piece = 100
        report = house.check(original, house.chunked(original, kind, shared=shared))
        assert found(report) == []
        assert report.ok
        assert [check.name for check in report.platforms[0].checks] == [
            "image", "layer 1", "table of contents 1", "layer 2", "table of contents 2", "config",
        ]  # fmt: skip
        # The table of contents has whole seconds: said, not hidden.
        kept = [check.name for check in report.checks if check.not_kept]
        assert kept == ["table of contents 1"]

    def test_each_blob_is_read_once(self, house: House) -> None:
        original = house.original()
        variant = house.chunked(original)
        house.repository.calls.clear()
        house.check(original, variant)
        read = house.repository.called("read_blob")
        assert len(read) == len(set(read)) == 6

    @pytest.mark.parametrize(
        ("index", "changes", "expected"),
        [
            (1, {"content": b"Tool" * 1500}, ("bin/same", "content")),
            (1, {"mode": 0o755}, ("bin/same", "mode")),
            (3, {"target": "toll"}, ("bin/link", "target")),
            (4, {"xattrs": ()}, ("etc/small", "xattr user.a")),
            (6, {"device": (1, 5)}, ("dev/null", "device")),
            (5, {"path": "etc/full"}, ("etc/empty", "entry")),
        ],
    )
    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    def test_a_changed_file_is_found(
        self,
        house: House,
        index: int,
        changes: dict[str, Any],
        expected: tuple[str, str],
        kind: str,
    ) -> None:
        base = list(BASE)
        base[index] = base[index].but(**changes)
        if index == 1:
            base[2] = base[2].but(mode=base[1].mode)
        original = house.original()
        report = house.check(original, house.chunked(original, kind, (tuple(base), TOP)))
        assert ("layer 1", *expected) in found(report)
        assert {name for name, _, _ in found(report)} == {"layer 1"}
        assert not report.ok

    def test_a_layer_that_is_missing_is_found(self, house: House) -> None:
        original = house.original()
        report = house.check(original, house.chunked(original, layers=(BASE,)))
        assert found(report) == [("manifest", "/", "layers")]

    def test_layers_in_another_order_are_found(self, house: House) -> None:
        original = house.original()
        report = house.check(original, house.chunked(original, layers=(TOP, BASE)))
        assert {name for name, _, _ in found(report)} == {"layer 1", "layer 2"}

    def test_a_layer_without_a_table_of_contents_is_said(self, house: House) -> None:
        original = house.original()
        bare = house.chunked(original, made=lambda made: Made(made.body, {}, made.plain))
        report = house.check(original, bare)
        assert report.ok
        assert [check.note for check in report.checks if check.note] == [
            "none: the layer is loaded whole"
        ] * 2


def _row(rows: Rows, name: str, number: int = 0) -> dict[str, Any]:
    return [row for row in rows if row["name"] == name][number]


def _spoil(name: str, number: int = 0, /, **changes: Any) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        if any(row["name"] == name for row in rows):
            _row(rows, name, number).update(changes)

    return change


def _drop(name: str, number: int = 0) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        if any(row["name"] == name for row in rows):
            rows.remove(_row(rows, name, number))

    return change


def _swap(first: str, second: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        if any(row["name"] == first for row in rows):
            one, other = _row(rows, first), _row(rows, second)
            for key in ("offset", "innerOffset"):
                one[key], other[key] = other[key], one[key]

    return change


WRONG = digest(b"wrong")


class TestTableOfContents:
    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (_spoil("bin/tool", mode=0o755), {("bin/same", "mode")}),
            (_spoil("bin/tool", uid=0), {("bin/same", "uid")}),
            (_spoil("bin/tool", modtime="1970-01-01T00:00:03Z"), {("bin/same", "mtime")}),
            (_spoil("bin/tool", digest=WRONG), {("bin/same", "content"), ("bin/tool", "content by chunks")}),
            (_spoil("bin/tool", chunkDigest=WRONG), {("bin/tool", "chunk")}),
            (_spoil("bin/tool", 2, chunkDigest=WRONG), {("bin/tool", "chunk")}),
            (_spoil("bin/tool", 5, chunkDigest=""), {("bin/tool", "chunk")}),
            (_drop("bin/tool", 5), {("bin/tool", "chunks")}),
            (_spoil("bin/tool", 3, chunkOffset=1), {("bin/tool", "chunk offset")}),
            (_spoil("etc/other", offset=1 << 40), {("etc/other", "offset")}),
            (_spoil("etc/other", offset=-1), {("etc/other", "offset")}),
            (_spoil("etc/other", innerOffset=1), {("etc/other", "chunk"), ("etc/other", "content by chunks")}),
            (_spoil("etc/other", innerOffset=1 << 40), {("etc/other", "chunk")}),
            (_swap("etc/small", "etc/other"), {("etc/small", "chunk"), ("etc/other", "chunk")}),
            (_drop("etc/empty"), {("etc/empty", "entry")}),
            (_drop("etc/.wh.small"), {("etc/small", "whiteout")}),
            (_spoil("opt/.wh..wh..opq", name="opt/x"), {("opt", "opaque"), ("opt/x", "entry")}),
            (_spoil("bin/link", linkName="x"), {("bin/link", "target")}),
            (_spoil("bin/same", linkName="etc/small"), {("bin/tool", "hard link"), ("etc/small", "hard link")}),
            (_spoil("dev/null", devMinor=5), {("dev/null", "device")}),
            (_spoil("etc/small", xattrs={}), {("etc/small", "xattr user.a")}),
            (_spoil("etc/empty", type="?"), {("/", "table of contents")}),
            (_spoil("etc/empty", modtime="yesterday"), {("/", "table of contents")}),
            (_spoil("etc/empty", modtime="2024-13-01T00:00:00Z"), {("/", "table of contents")}),
            (_spoil("etc/empty", name="bin/link/x"), {("/", "table of contents")}),
            (_spoil("etc/empty", name="../x"), {("/", "table of contents")}),
            (_spoil("bin/tool", size=1 << 60), {("/", "table of contents 1")}),
            (lambda rows: rows.append({"name": "x", "type": "chunk"}), {("x", "chunk")}),
        ],
    )  # fmt: skip
    def test_what_it_says_wrongly_is_found(
        self,
        house: House,
        kind: str,
        change: Callable[[Rows], None],
        expected: set[tuple[str, str]],
    ) -> None:
        original = house.original()
        report = house.check(original, house.chunked(original, kind, change=change))
        assert not report.ok
        differences = found(report)
        assert all(name.startswith("table of contents") for name, _, _ in differences)
        assert expected <= {(path, field) for _, path, field in differences}

    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    def test_offsets_between_members_are_found(self, house: House, kind: str) -> None:
        def change(rows: Rows) -> None:
            for row in rows:
                if row["name"] == "etc/other":
                    row["offset"] += 3

        original = house.original()
        report = house.check(original, house.chunked(original, kind, change=change))
        assert ("table of contents 1", "etc/other", "chunk") in found(report)

    def test_times_with_zones_and_fractions(self, house: House) -> None:
        original = house.original()
        for text in (
            "1970-01-01T01:00:01+01:00",
            "1970-01-01T00:00:01.000Z",
            "1969-12-31t23:30:01-00:30",
        ):
            variant = house.chunked(original, change=_spoil("bin/", modtime=text))
            assert house.check(original, variant).ok, text

    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    @pytest.mark.parametrize("spoil", ["digest", "footer", "size", "toc", "media type"])
    def test_what_leads_to_it_is_checked(self, house: House, kind: str, spoil: str) -> None:
        def made(one: Made) -> Made:
            body, notes = bytearray(one.body), dict(one.annotations)
            if spoil == "digest":
                notes["containerd.io/snapshot/stargz/toc.digest"] = WRONG
            elif spoil == "footer":
                body[-51 + 16 if kind == "gzip" else -40] ^= 1
            elif spoil == "size":
                notes["io.containers.estargz.uncompressed-size"] = "1"
            elif spoil == "toc":
                notes["containerd.io/snapshot/stargz/toc.digest"] = digest(b"{}")
            elif kind == "zstd":
                notes["io.containers.zstd-chunked.manifest-position"] = "1:2:3:1"
            else:
                body += bytes(10)
            return Made(bytes(body), notes, one.plain)

        original = house.original()
        report = house.check(original, house.chunked(original, kind, made=made))
        assert not report.ok
        assert {name.rstrip(" 12") for name, _, _ in found(report)} <= {
            "layer",
            "table of contents",
        }

    def test_an_older_one_in_the_original_does_not_count(self, house: House) -> None:
        toc = Item("stargz.index.json", content=b"{}")
        original = house.original()
        report = house.check(original, house.chunked(original, layers=((*BASE, toc), TOP)))
        assert report.ok

    @given(
        st.lists(st.integers(0, 3500), max_size=12),
        st.booleans(),
        st.sampled_from(["gzip", "zstd"]),
        st.integers(1, 700),
    )
    @settings(max_examples=60)
    def test_any_sizes_of_files_chunks_and_pieces(
        self, sizes: list[int], shared: bool, kind: str, piece: int
    ) -> None:
        house = House()
        house.repository.piece = piece
        items = tuple(Item(f"f{n}", content=bytes([n]) * size) for n, size in enumerate(sizes))
        stored = house.image([plain(items)])
        variant = house.chunked(stored, kind, (items,), shared=shared)
        assert found(house.check(stored, variant)) == []


class TestBrokenLayers:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda body: body[:-60],
            lambda body: body[:100],
            lambda body: b"junk" + body,
            lambda body: b"",
        ],
    )
    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    def test_a_broken_variant_is_a_difference(
        self, house: House, kind: str, spoil: Callable[[bytes], bytes]
    ) -> None:
        original = house.original()
        variant = house.chunked(
            original, kind, made=lambda made: Made(spoil(made.body), made.annotations, made.plain)
        )
        assert not house.check(original, variant).ok

    def test_a_blob_of_other_bytes_is_a_difference(self, house: House) -> None:
        original = house.original()
        variant = house.chunked(original)
        first = json.loads(variant.body)["layers"][0]["digest"]
        house.repository.served = lambda at, body: body + b"\0" if at == first else body
        assert found(house.check(original, variant)) != []

    def test_a_broken_original_is_an_error(self, house: House) -> None:
        original = house.original()
        first = json.loads(original.body)["layers"][0]["digest"]
        variant = house.chunked(original)
        house.repository.served = lambda at, body: body[:-9] if at == first else body
        with pytest.raises(ImageError):
            house.check(original, variant)

    def test_a_registry_that_fails_is_an_error_and_no_thread_stays(self, house: House) -> None:
        original = house.original()
        variant = house.chunked(original)
        layers = [layer["digest"] for layer in json.loads(variant.body)["layers"]]

        def before(method: str, subject: str) -> None:
            if method == "read_blob" and subject in layers:
                raise RegistryError("gone")

        house.repository.before = before
        with pytest.raises(RegistryError, match="gone"):
            house.check(original, variant)

    def test_diff_ids_of_the_original_are_checked(self, house: House) -> None:
        def wrong(config: dict[str, Any]) -> None:
            config["rootfs"]["diff_ids"][1] = WRONG

        original = house.image([plain(items) for items in LAYERS], config=wrong)
        differences = found(house.check(original, house.chunked(original)))
        assert differences == [("layer 2", "/", "diffID of the original")]


def _config_changes() -> list[Any]:
    def env(config: dict[str, Any]) -> None:
        config["config"]["Env"].append("B=2")

    def diff_id(config: dict[str, Any]) -> None:
        config["rootfs"]["diff_ids"][1] = WRONG

    def fewer(config: dict[str, Any]) -> None:
        config["rootfs"]["diff_ids"].pop()

    def user(config: dict[str, Any]) -> None:
        config["config"]["User"] = "root"

    def history(config: dict[str, Any]) -> None:
        config["history"].pop()

    def no_rootfs(config: dict[str, Any]) -> None:
        config["rootfs"] = None

    def system(config: dict[str, Any]) -> None:
        config["os"] = "windows"

    return [
        pytest.param(env, "config.config.Env", id="env"),
        pytest.param(diff_id, "config.rootfs.diff_ids[1]", id="diffID"),
        pytest.param(fewer, "config.rootfs", id="fewer"),
        pytest.param(user, "config.config.User", id="user"),
        pytest.param(history, "config.history", id="history"),
        pytest.param(no_rootfs, "config.rootfs", id="no rootfs"),
        pytest.param(system, "config.os", id="os"),
    ]


class TestConfig:
    @pytest.mark.parametrize(("change", "path"), _config_changes())
    def test_of_a_chunked_variant(self, house: House, change: Change, path: str) -> None:
        original = house.original()
        differences = found(house.check(original, house.chunked(original, config=change)))
        assert {(name, at) for name, at, _ in differences} == {("config", path)}

    @pytest.mark.parametrize(("change", "path"), _config_changes())
    def test_of_a_copy(self, house: House, change: Change, path: str) -> None:
        original = house.original()
        variant = house.nydus(original, config=change)
        differences = found(house.check(original, variant, unpack=unpack(merged())))
        assert {(name, at) for name, at, _ in differences} == {("copy", path)}

    def test_of_a_nydus_manifest(self, house: House) -> None:
        def change(config: dict[str, Any]) -> None:
            config["config"]["Cmd"] = ["other"]

        original = house.original()
        variant = house.nydus(original, nydus_config=change)
        differences = found(house.check(original, variant, unpack=unpack(merged())))
        assert differences == [("config", "config.config.Cmd", "value")]


def merged() -> list[Item]:
    """What the two layers are together, with every directory described."""
    gone = Item("etc/small")
    kept = [item for item in BASE if item.path != gone.path]
    folders = [
        Item(name, "directory", mode=0o755, mtime=7 * SECOND) for name in ("", "etc", "dev", "opt")
    ]
    return [*folders, *kept, TOP[1]]


def unpack(items: list[Item]) -> Callable[[Repository, Content, Sink], None]:
    def write(repository: Repository, manifest: Content, sink: Sink) -> None:
        assert repository.resolve(manifest.digest) == manifest
        data = tar_of(items)
        for start in range(0, len(data), 700):
            sink(data[start : start + 700])

    return write


class TestNydus:
    def test_a_right_one_is_right(self, house: House) -> None:
        original = house.original()
        report = house.check(original, house.nydus(original), unpack=unpack(merged()))
        assert found(report) == []
        assert [check.name for check in report.platforms[0].checks] == [
            "image", "copy", "config", "merged",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda items: items.append(Item("etc/small", content=b"1")), ("etc/small", "entry")),
            (lambda items: items.pop(), ("etc/new", "entry")),
            (lambda items: items.append(Item("etc/new", content=b"old")), ("etc/new", "content")),
            (lambda items: items.append(Item("bin", "directory", mode=0o700)), ("bin", "mode")),
        ],
    )
    def test_another_tree_is_found(
        self, house: House, change: Callable[[list[Item]], Any], expected: tuple[str, str]
    ) -> None:
        items = merged()
        change(items)
        original = house.original()
        report = house.check(original, house.nydus(original), unpack=unpack(items))
        assert ("merged", *expected) in found(report)

    def test_what_the_format_does_not_keep_is_counted_apart(self, house: House) -> None:
        items = [item.but(mtime=item.mtime // SECOND * SECOND) for item in merged()]
        original = house.original()
        how = {"unpack": unpack(items), "losses": [WHOLE_SECONDS]}
        report = house.check(original, house.nydus(original), **how)
        assert report.ok
        kept = [one for check in report.checks for one in check.not_kept]
        assert [(one.path, one.field) for one in kept] == [("bin/same", "mtime")]
        del how["losses"]
        assert not house.check(original, house.nydus(original), **how).ok

    def test_without_a_reader_it_is_not_called_right(self, house: House) -> None:
        original = house.original()
        assert not house.check(original, house.nydus(original)).ok

    def test_a_reader_that_fails_is_a_difference(self, house: House) -> None:
        def fail(repository: Repository, manifest: Content, sink: Sink) -> None:
            sink(tar_of(merged())[:512])
            raise ImageError("the bootstrap is broken")

        original = house.original()
        report = house.check(original, house.nydus(original), unpack=fail)
        assert found(report) == [("merged", "/", "merged")]

    def test_the_isolating_layer_is_empty(self, house: House) -> None:
        original = house.original()
        variant = house.nydus(original, isolating=(Item("a"),))
        report = house.check(original, variant, unpack=unpack(merged()))
        assert found(report) == [("copy", "isolating layer", "entries")]

    def test_the_copy_has_the_layers_of_the_original(self, house: House) -> None:
        original = house.original()
        variant = house.nydus(original, layers=(BASE, (Item("a"),)))
        report = house.check(original, variant, unpack=unpack(merged()))
        assert ("copy", "layer 2", "digest") in found(report)


class TestIndexes:
    def entries(self, house: House) -> tuple[list[dict[str, Any]], list[Content]]:
        images = [house.original(), house.original(architecture="arm64")]
        platforms = [{"architecture": name, "os": "linux"} for name in ("amd64", "arm64")]
        attestation = house.image([plain((Item("x"),))], more={"architecture": "unknown"})
        entries = [
            _plain(image.descriptor, platform=platform)
            for image, platform in zip(images, platforms, strict=True)
        ]
        entries.append(
            _plain(
                attestation.descriptor,
                platform={"architecture": "unknown", "os": "unknown"},
                annotations={"vnd.docker.reference.type": "attestation-manifest"},
            )
        )
        return entries, images

    def variant(
        self, house: House, change: Callable[[list[dict[str, Any]]], Any] = nothing
    ) -> tuple[Content, Content]:
        entries, images = self.entries(house)
        original = house.push({"manifests": entries, "annotations": {"a": "1"}}, OCI_INDEX)
        built = []
        for image, entry in zip(images, entries, strict=False):
            more = {"architecture": entry["platform"]["architecture"]}
            content = house.chunked(image, more=more)
            built.append(_plain(content.descriptor, platform=entry["platform"]))
        built.append(entries[2])
        change(built)
        notes = {"a": "1", ANNOTATION_ORIGINAL: original.digest}
        return original, house.push({"manifests": built, "annotations": notes}, OCI_INDEX)

    def test_every_platform_is_compared(self, house: House) -> None:
        report = house.check(*self.variant(house))
        assert found(report) == []
        assert [one.platform for one in report.platforms] == ["linux/amd64", "linux/arm64"]
        assert all(len(one.checks) == 6 for one in report.platforms)

    def test_the_order_does_not_matter(self, house: House) -> None:
        assert house.check(*self.variant(house, lambda entries: entries.reverse())).ok

    def test_platforms_may_be_chosen(self, house: House) -> None:
        def keep(entries: list[dict[str, Any]]) -> None:
            entries[1] = self.entries(house)[0][1]

        report = house.check(*self.variant(house, keep), platforms=["linux/amd64"])
        assert report.ok
        assert [one.platform for one in report.platforms] == ["linux/amd64"]
        # By default the other one is looked at, too: it is not lazy, and that is said.
        report = house.check(*self.variant(house, keep))
        assert report.ok
        assert report.platforms[1].checks[0].note == "carried over as it is, not lazy"

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda entries: entries.pop(0), ("image", "/", "platform")),
            (lambda entries: entries.pop(2), ("index", None, "entry")),
            (lambda entries: entries[2].update(annotations={}), ("index", None, "entry")),
            (lambda entries: entries.append(entries[0]), ("index", None, "entry")),
        ],
    )
    def test_what_is_missing_changed_or_added_is_found(
        self, house: House, change: Callable[[Any], Any], expected: tuple[str, str | None, str]
    ) -> None:
        differences = found(house.check(*self.variant(house, change)))
        name, path, field = expected
        assert [(one, what) for one, at, what in differences if path in (None, at)] == [
            (name, field)
        ]

    def test_swapped_platforms_are_found(self, house: House) -> None:
        def swap(entries: list[dict[str, Any]]) -> None:
            one, other = entries[0]["platform"], entries[1]["platform"]
            entries[0]["platform"], entries[1]["platform"] = other, one

        assert ("config", "config.architecture", "value") in found(
            house.check(*self.variant(house, swap))
        )

    def test_a_nydus_variant_of_another_original_is_found(self, house: House) -> None:
        original = house.original()
        variant = house.nydus(original, named=WRONG)
        report = house.check(original, variant, unpack=unpack(merged()))
        assert [field for _, _, field in found(report)] == [ANNOTATION_ORIGINAL] * 2

    def test_a_variant_that_names_no_original_is_found(self, house: House) -> None:
        original = house.original()
        bare = house.image([plain(items) for items in LAYERS])
        report = house.check(original, bare)
        assert bare == original
        assert found(report) == [("index", "/", ANNOTATION_ORIGINAL)]

    def test_an_index_that_is_none_is_a_difference(self, house: House) -> None:
        original = house.original()
        house.repository.strict = False
        broken = house.push({"manifests": [{"digest": 1}]}, OCI_INDEX)
        report = house.check(original, broken)
        assert ("index", "/", "index") in found(report)


def test_what_is_printed_is_safe(house: House) -> None:
    original = house.original()
    variant = house.chunked(original, change=_spoil("etc/empty", type="\x1b[2J\n"))
    for check in house.check(original, variant).checks:
        for one in check.findings:
            assert isinstance(one, Difference)
            assert str(one).isprintable()


def test_zstd_layers_of_an_original_are_read(house: House) -> None:
    bodies = [tar_of(items) for items in LAYERS]
    original = house.image(
        [(Made(zstandard.compress(body), {}, body), ZSTD_LAYER) for body in bodies]
    )
    assert house.check(original, house.chunked(original)).ok
