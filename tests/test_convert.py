"""Conversions as a whole: shapes of variants, what is taken over, and what is published when."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lazyci.errors import ImageError, InputError, PublishError, RegistryError
from lazyci.image.check.check import unpack_nydus
from lazyci.image.check.verify import verify
from lazyci.image.conversion import Conversion, Options, Watch
from lazyci.image.convert import convert, convert_in
from lazyci.image.layout import Layout
from lazyci.image.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from lazyci.image.pending import read_pending
from lazyci.image.records import RECORD_PREFIX
from tests.images.small import layer_of, push_image, push_index
from tests.repositories import MemoryRepository
from tests.servers import client

BASE = layer_of(
    {"etc/": b"", "etc/os": b"base", "bin/": b"", "bin/sh": random.Random(1).randbytes(9000)}
)
TOP = layer_of({"app/": b"", "app/main.py": b"print('1')\n" * 999})
NEW_TOP = layer_of({"app/": b"", "app/main.py": b"print('2')\n" * 999})
CHUNKED = ("estargz", "zstdchunked")
ORIGINAL = "dev.lazyci.original"


class Said(Watch):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.expected = 0
        self.done = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def total(self, size: int) -> None:
        self.expected = size

    def read(self, size: int) -> None:
        self.done += size


def run(
    repository: MemoryRepository, name: str = "1.0", watch: Watch | None = None, **options: Any
) -> Conversion:
    options.setdefault("formats", ("estargz",))
    return convert_in(repository, name, repository, name, Options(**options), watch or Said())


def document(repository: MemoryRepository, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(repository.resolve(name).body)
    return found


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


@pytest.fixture
def nydus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYCI_NYDUS_IMAGE", client("nydus-image"))


@pytest.mark.parametrize("form", CHUNKED)
# Docker's schema 2 has gzip layers only.
@pytest.mark.parametrize(
    ("docker", "compression"),
    [(False, "gzip"), (False, "zstd"), (False, "none"), (True, "gzip")],
)
def test_variant_is_the_same_file_system(
    repository: MemoryRepository, form: str, docker: bool, compression: str
) -> None:
    original = push_image(
        repository, [BASE, TOP], "1.0", docker=docker, compression=compression, Cmd=["/bin/sh"]
    )
    watch = Said()
    result = run(repository, watch=watch, formats=(form,))
    variant = repository.resolve("1.0-lazy")
    assert result.variants[0].digest == variant.digest
    assert variant.media_type == OCI_MANIFEST
    assert variant.notes[ORIGINAL] == original.digest
    assert verify(repository, repository, original, variant).ok
    assert repository.resolve("1.0").digest == original.digest
    assert watch.done == watch.expected > 0
    # Nothing of the work stays but records.
    assert all(
        tag in ("1.0", "1.0-lazy") or tag.startswith(RECORD_PREFIX) for tag in repository.tagged
    )


@pytest.mark.usefixtures("nydus")
@pytest.mark.parametrize("form", ["nydus", "nydus-index"])
@pytest.mark.parametrize("docker", [False, True])
def test_nydus_variant_is_an_index_of_a_copy_and_a_nydus_manifest(
    repository: MemoryRepository, form: str, docker: bool
) -> None:
    original = push_image(repository, [BASE, TOP], "1.0", docker=docker)
    run(repository, formats=(form,))
    index = document(repository, "1.0-lazy")
    assert index["mediaType"] == OCI_INDEX
    copy, lazy = index["manifests"]
    # The ordinary manifest first, with the types that it has; both with their platform.
    assert copy["mediaType"] == original.media_type
    assert copy["platform"] == lazy["platform"] == {"architecture": "amd64", "os": "linux"}
    assert lazy["artifactType"] == "application/vnd.nydus.image.manifest.v1+json"
    assert "os.features" not in json.dumps(index)
    layers = document(repository, copy["digest"])["layers"]
    before = json.loads(original.body)["layers"]
    assert layers[1:] == before
    config = json.loads(repository.blobs[document(repository, copy["digest"])["config"]["digest"]])
    assert len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 3
    isolating = repository.blobs[layers[0]["digest"]]
    assert len(isolating) < 1000
    variant = repository.resolve("1.0-lazy")
    assert verify(repository, repository, original, variant, unpack=unpack_nydus).ok


@pytest.mark.usefixtures("nydus")
def test_isolating_layers_differ_by_image_and_format(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    push_image(repository, [BASE, NEW_TOP], "2.0")
    seen = set()
    for tag in ("1.0", "2.0"):
        run(repository, tag, formats=("nydus", "nydus-index"))
        for variant in (f"{tag}-lazy", f"{tag}-lazy-nydus-index"):
            copy = document(repository, variant)["manifests"][0]["digest"]
            seen.add(document(repository, copy)["layers"][0]["digest"])
    assert len(seen) == 4


def test_every_platform_and_what_is_no_image(repository: MemoryRepository) -> None:
    images = [
        (architecture, push_image(repository, [BASE, layer], architecture=architecture))
        for architecture, layer in (("amd64", TOP), ("arm64", NEW_TOP))
    ]
    original = push_index(repository, images, "1.0", attestation=True)
    result = run(repository)
    index = document(repository, "1.0-lazy")
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == [
        "amd64",
        "arm64",
        "unknown",
    ]
    # Unchanged, also what lazyci does not know.
    assert index["manifests"][2] == json.loads(original.body)["manifests"][2]
    assert verify(repository, repository, original, repository.resolve("1.0-lazy")).ok
    assert len(result.layers) == 3  # The base once.


def test_entries_without_a_platform_get_one(repository: MemoryRepository) -> None:
    """nydus-snapshotter ends when it looks at one that has none."""
    image = push_image(repository, [TOP], architecture="amd64")
    original = push_index(repository, [("amd64", image)], "1.0", attestation=True)
    index = json.loads(original.body)
    del index["manifests"][1]["platform"]
    repository.push_manifest(json.dumps(index).encode(), OCI_INDEX, "1.0")
    run(repository)
    entry = document(repository, "1.0-lazy")["manifests"][1]
    unknown = {"architecture": "unknown", "os": "unknown"}
    assert entry == {**index["manifests"][1], "platform": unknown}


def test_one_platform_leaves_the_others_as_they_are(repository: MemoryRepository) -> None:
    images = [
        (architecture, push_image(repository, [layer], architecture=architecture))
        for architecture, layer in (("amd64", TOP), ("arm64", NEW_TOP))
    ]
    push_index(repository, images, "1.0", docker=True)
    run(repository, platforms=("linux/arm64",))
    digests = [entry["digest"] for entry in document(repository, "1.0-lazy")["manifests"]]
    assert images[0][1].digest in digests
    assert images[1][1].digest not in digests
    with pytest.raises(ImageError, match="for linux/s390x"):
        run(repository, platforms=("linux/s390x",))


def test_only_new_layers_are_converted(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    first = run(repository)
    push_image(repository, [BASE, NEW_TOP], "2.0")
    second = run(repository, "2.0")
    assert [layer.reused for layer in first.layers] == ["", ""]
    assert sorted(layer.reused for layer in second.layers) == ["", "record"]
    assert verify(
        repository, repository, repository.resolve("2.0"), repository.resolve("2.0-lazy")
    ).ok
    third = run(repository, "2.0")
    assert [variant.state for variant in third.variants] == ["unchanged"]
    assert third.bytes_out == 0


@pytest.mark.usefixtures("nydus")
@pytest.mark.parametrize("form", ["nydus", "nydus-index", *CHUNKED])
def test_reuse_changes_nothing(repository: MemoryRepository, form: str) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    fresh = run(repository, formats=(form,)).variants[0].digest
    repository.delete_manifest("1.0-lazy")
    again = run(repository, formats=(form,))
    assert {layer.reused for layer in again.layers} == {"record"}
    assert again.variants[0].digest == fresh
    repository.delete_manifest("1.0-lazy")
    anew = run(repository, formats=(form,), reuse=False)
    assert {layer.reused for layer in anew.layers} == {""}
    assert anew.variants[0].digest == fresh


def break_record(repository: MemoryRepository, change: str) -> None:
    """Poison all records, as somebody with write access might."""
    for tag in [tag for tag in repository.tagged if tag.startswith(RECORD_PREFIX)]:
        record = document(repository, tag)
        if change == "source":
            record["annotations"]["dev.lazyci.source"] = "sha256:" + "0" * 64
        elif change == "size":
            record["layers"][0]["size"] += 1
        elif change == "blob":
            blob = repository.add_blob(b"something else, of the size that it says")
            record["layers"][0].update(digest=blob.digest, size=blob.size)
        elif change == "toc":
            record["layers"][0]["annotations"] = {
                "containerd.io/snapshot/stargz/toc.digest": "sha256:" + "0" * 64
            }
        elif change == "missing":
            record["annotations"] = {}
        elif change == "diff-id":
            record["annotations"]["dev.lazyci.diff-id"] = "../../etc"
        else:
            repository.strict = False
            del repository.blobs[record["layers"][0]["digest"]]
        body = msgspec.json.encode(record)
        repository.push_manifest(body, OCI_MANIFEST, tag)


@pytest.mark.parametrize(
    "change", ["source", "size", "blob", "toc", "missing", "diff-id", "deleted"]
)
@pytest.mark.parametrize("form", CHUNKED)
def test_record_that_does_not_fit_is_not_believed(
    repository: MemoryRepository, change: str, form: str
) -> None:
    original = push_image(repository, [BASE, TOP], "1.0")
    run(repository, formats=(form,))
    repository.delete_manifest("1.0-lazy")
    break_record(repository, change)
    again = run(repository, formats=(form,))
    assert {layer.reused for layer in again.layers} == {""}
    assert verify(repository, repository, original, repository.resolve("1.0-lazy")).ok


def test_layer_that_is_estargz_stays(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    run(repository)
    repository.push_manifest(
        _without_notes(repository.resolve("1.0-lazy").body), OCI_MANIFEST, "built-so"
    )
    result = run(repository, "built-so")
    assert {layer.reused for layer in result.layers} == {"kept"}
    layers = document(repository, "built-so-lazy")["layers"]
    assert layers == document(repository, "built-so")["layers"]


def _without_notes(body: bytes) -> bytes:
    document = json.loads(body)
    del document["annotations"]
    return json.dumps(document).encode()


def test_in_place_keeps_the_original_under_its_own_tag(repository: MemoryRepository) -> None:
    original = push_image(repository, [BASE, TOP], "main")
    result = run(repository, "main", in_place=True)
    assert result.variants[0].original_tag == "main-regular"
    assert repository.resolve("main-regular").digest == original.digest
    assert repository.resolve("main").notes[ORIGINAL] == original.digest
    again = run(repository, "main", in_place=True)
    assert again.original == original.digest
    assert again.variants[0].state == "unchanged"


@pytest.mark.parametrize("in_place", [False, True])
def test_moved_tag_gets_no_variant_of_the_old_image(
    repository: MemoryRepository, in_place: bool
) -> None:
    push_image(repository, [BASE, TOP], "main")
    moved: list[str] = []

    def move(method: str, subject: str) -> None:
        if method == "commit" and not moved:
            moved.append("")
            moved[0] = push_image(repository, [BASE, NEW_TOP], "main").digest

    repository.before = move
    with pytest.raises(PublishError, match="names another image"):
        run(repository, "main", in_place=in_place)
    assert repository.resolve("main").digest == moved[0]
    assert not [tag for tag in repository.tagged if "lazy" in tag and RECORD_PREFIX not in tag]


def test_failure_leaves_no_variant_and_no_mark(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    repository.served = lambda digest, body: body[:-1] + b"x" if len(body) > 5000 else body
    with pytest.raises(ImageError):
        run(repository)
    assert set(repository.tagged) <= {"1.0"} | {
        tag for tag in repository.tagged if tag.startswith(RECORD_PREFIX)
    }


def test_mark_tells_of_the_conversion_while_it_runs(repository: MemoryRepository) -> None:
    original = push_image(repository, [BASE, TOP], "1.0")
    seen: list[str] = []

    def look(method: str, subject: str) -> None:
        if method == "commit" and "1.0-lazy-pending" in repository.tagged:
            repository.before = lambda method, subject: None
            pending = read_pending(repository.resolve("1.0-lazy-pending"))
            assert pending.original == original.digest
            assert pending.started < pending.expires
            seen.append(subject)

    repository.before = look
    run(repository)
    assert seen
    assert "1.0-lazy-pending" not in repository.tagged


def test_registry_that_refuses_records_and_marks_still_gets_the_variant(
    repository: MemoryRepository,
) -> None:
    original = push_image(repository, [BASE, TOP], "1.0")

    def refuse(method: str, subject: str) -> None:
        if method == "push_manifest" and (RECORD_PREFIX in subject or "pending" in subject):
            raise RegistryError("PUT refused: unknown artifactType")

    repository.before = refuse
    watch = Said()
    run(repository, watch=watch)
    assert verify(repository, repository, original, repository.resolve("1.0-lazy")).ok
    assert [line for line in watch.lines if "not kept" in line or "not written" in line]


def test_dry_run_changes_nothing(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    before = dict(repository.tagged), dict(repository.blobs)
    result = run(repository, dry_run=True)
    assert (dict(repository.tagged), dict(repository.blobs)) == before
    assert result.variants[0].state == "would be made"


def test_what_cannot_be_asked_for_is_told(repository: MemoryRepository) -> None:
    content = push_image(repository, [BASE], "1.0")
    with pytest.raises(InputError, match="suffix of lazy variants"):
        run(repository, "1.0-lazy")
    with pytest.raises(InputError, match="is a digest"):
        run(repository, content.digest, in_place=True)
    with pytest.raises(InputError, match="only one format"):
        run(repository, formats=CHUNKED, in_place=True)


def test_image_by_digest_has_a_variant_of_its_own(repository: MemoryRepository) -> None:
    content = push_image(repository, [BASE], "1.0")
    run(repository, content.digest)
    tag = content.digest.replace(":", "-") + "-lazy"
    assert repository.resolve(tag).notes[ORIGINAL] == content.digest


def test_several_formats_read_each_layer_once(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    reads: list[str] = []
    repository.before = lambda method, subject: (
        reads.append(subject) if method == "read_blob" else None
    )
    result = run(repository, formats=CHUNKED)
    layers = {layer.source for layer in result.layers}
    assert sorted(digest for digest in reads if digest in layers) == sorted(layers)
    assert {variant.reference for variant in result.variants} == {
        "registry.test/app:1.0-lazy",
        "registry.test/app:1.0-lazy-zstdchunked",
    }


def test_layouts_are_source_and_destination(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in", create=True)
    content = push_image(layout, [BASE, TOP], "app", docker=True)
    assert content.media_type == DOCKER_MANIFEST
    options = Options(formats=("estargz",), destination=f"oci:{tmp_path}/out:app")
    result = convert(f"oci:{tmp_path}/in:app", options, Said())
    assert result.variants[0].reference == f"oci:{tmp_path}/out:app-lazy"
    out = Layout(tmp_path / "out")
    assert verify(layout, out, content, out.resolve("app-lazy")).ok
    assert not list((tmp_path / "out" / "blobs" / "sha256").glob(".upload*"))


@pytest.mark.usefixtures("nydus")
def test_nydus_variant_elsewhere_takes_its_layers_along(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in", create=True)
    images = [("amd64", push_image(layout, [BASE, TOP]))]
    push_index(layout, images, "app", attestation=True)
    options = Options(formats=("nydus",), destination=f"oci:{tmp_path}/out:app")
    convert(f"oci:{tmp_path}/in:app", options, Said())
    out = Layout(tmp_path / "out")
    index = json.loads(out.resolve("app-lazy").body)
    for entry in index["manifests"]:
        manifest = json.loads(out.resolve(entry["digest"]).body)
        for blob in (manifest["config"], *manifest["layers"]):
            assert out.blob_size(blob["digest"]) == blob["size"]


def test_an_image_of_somebody_else_is_not_replaced(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    own = push_image(repository, [BASE], "1.0-lazy")
    with pytest.raises(PublishError, match="lazyci did not make"):
        run(repository)
    assert repository.resolve("1.0-lazy").digest == own.digest


def test_in_place_and_elsewhere_exclude_each_other() -> None:
    options = Options(in_place=True, destination="registry.example/b:1")
    with pytest.raises(InputError, match="not both"):
        convert("registry.example/a:1", options, Watch())


@pytest.mark.parametrize("suffix", ["", "-" * 41, "-l/zy", "+x"])
def test_suffixes_that_are_none(repository: MemoryRepository, suffix: str) -> None:
    push_image(repository, [TOP], "1.0")
    with pytest.raises(InputError, match="suffix"):
        run(repository, suffix=suffix)


def test_too_many_layers_are_refused_before_the_work(repository: MemoryRepository) -> None:
    push_image(repository, [layer_of({"a": b"%d" % number}) for number in range(255)], "1.0")
    with pytest.raises(ImageError, match="255 different layers"):
        run(repository, formats=("nydus",))
    assert repository.tagged.keys() == {"1.0"}


def test_an_error_names_the_layer(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, b"x" * 600], "1.0")
    with pytest.raises(ImageError, match=r"^layer sha256:[0-9a-f]{64}: "):
        run(repository)


@pytest.mark.parametrize("form", ["nydus", *CHUNKED])
def test_headers_of_hard_links_count(repository: MemoryRepository, form: str) -> None:
    """Mode, owner and time in them are the file's, as engines unpack it; symlinks have no mode."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, mode, uid in (
            ("a", b"0", 0o600, 1),
            ("b", b"1", 0o755, 2),
            ("s", b"2", 0o644, 3),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.linkname = (
                kind,
                mode,
                uid,
                "a" if kind != b"0" else "",
            )
            tar.addfile(info)
    original = push_image(repository, [stream.getvalue()], "1.0")
    run(repository, formats=(form,))
    variant = repository.resolve("1.0-lazy")
    assert verify(repository, repository, original, variant, unpack=unpack_nydus).ok


@pytest.mark.parametrize("form", ["nydus", *CHUNKED])
def test_attributes_without_end_are_refused(repository: MemoryRepository, form: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(5000):
            info = tarfile.TarInfo(f"f{number}")
            info.pax_headers = {"SCHILY.xattr.user.a": "x" * 60_000}
            tar.addfile(info)
    push_image(repository, [stream.getvalue()], "1.0")
    with pytest.raises(ImageError, match="names and attributes"):
        run(repository, formats=(form,))
