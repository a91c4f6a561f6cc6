"""What `lazyci prune` removes, and above all what it must not."""

from __future__ import annotations

import json
import time

import pytest

from lazyci.errors import NotFoundError, RegistryError
from lazyci.image import pending
from lazyci.image.places import open_image
from lazyci.image.prune import find_orphans, find_variants, remove
from lazyci.image.records import RECORD_PREFIX
from tests.images.small import push_image, push_index
from tests.repositories import MemoryRepository
from tests.test_convert import BASE, NEW_TOP, TOP, run


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


def tags(repository: MemoryRepository) -> list[str]:
    return sorted(tag for tag in repository.tagged if not tag.startswith(RECORD_PREFIX))


def test_nothing_is_removed_while_all_is_in_use(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    push_image(repository, [BASE, NEW_TOP], "main")
    run(repository, "1.0", formats=("estargz", "zstdchunked"))
    run(repository, "main", in_place=True)
    assert find_orphans(repository, "-lazy") == []


def test_variant_of_a_replaced_image_goes_with_its_records(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    run(repository)
    push_image(repository, [BASE, NEW_TOP], "1.0")
    found = find_orphans(repository, "-lazy")
    assert [(each.kind, each.reason) for each in found] == [
        ("variant", "its reference names another image now"),
        ("record", "no image has its layer"),
    ]
    remove(repository, found)
    assert tags(repository) == ["1.0"]
    assert find_orphans(repository, "-lazy") == []


def test_variant_of_a_deleted_image_goes(repository: MemoryRepository) -> None:
    content = push_image(repository, [BASE, TOP], "1.0")
    run(repository)
    repository.delete_manifest(content.digest)
    found = find_orphans(repository, "-lazy")
    assert sorted(each.kind for each in found) == ["record", "record", "variant"]


def test_children_go_after_their_index_and_the_originals_stay(
    repository: MemoryRepository,
) -> None:
    images = [
        (architecture, push_image(repository, [BASE, TOP], architecture=architecture))
        for architecture in ("amd64", "arm64")
    ]
    original = push_index(repository, images, "1.0", attestation=True)
    run(repository, platforms=("linux/amd64",))
    own = json.loads(repository.resolve("1.0-lazy").body)["manifests"][0]["digest"]
    found = find_variants(repository, "1.0", "-lazy")
    assert [each.children for each in found] == [(own,)]
    # The repository of the tests refuses to delete what an index lists.
    remove(repository, found)
    with pytest.raises(NotFoundError):
        repository.resolve(own)
    for entry in json.loads(original.body)["manifests"]:
        repository.resolve(entry["digest"])
    assert tags(repository) == ["1.0"]


def test_tag_that_looks_like_a_variant_is_none(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    mine = push_image(repository, [BASE, NEW_TOP], "1.0-lazy")
    assert find_variants(repository, "1.0", "-lazy") == []
    assert find_orphans(repository, "-lazy") == []
    assert repository.resolve("1.0-lazy").digest == mine.digest


def test_tag_that_moved_since_is_left(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    run(repository)
    found = find_variants(repository, "1.0", "-lazy")
    push_image(repository, [BASE, NEW_TOP], "1.0")
    newer = run(repository).variants[0].digest
    remove(repository, found)
    assert repository.resolve("1.0-lazy").digest == newer


def test_unreadable_tag_stops_everything(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    run(repository)

    def refuse(method: str, subject: str) -> None:
        if method == "resolve" and subject == "1.0":
            raise RegistryError("500")

    repository.before = refuse
    with pytest.raises(RegistryError):
        find_orphans(repository, "-lazy")


def test_mark_of_a_dead_conversion_goes_when_it_expired(
    repository: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_image(repository, [BASE, TOP], "1.0")

    def crash(line: str) -> None:
        raise AssertionError(line)

    mark = pending.announced(repository, "1.0-lazy", "sha256:" + "0" * 64, 10, crash)
    mark.__enter__()
    assert find_orphans(repository, "-lazy") == []
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    [found] = find_orphans(repository, "-lazy")
    assert (found.kind, found.tag) == ("pending", "1.0-lazy-pending")
    remove(repository, [found])
    assert tags(repository) == ["1.0"]


def test_other_tags_of_the_same_variant_stay(repository: MemoryRepository) -> None:
    """By its digest it would take them along, and in place the image's own tag with them."""
    push_image(repository, [BASE, TOP], "1.0")
    run(repository, in_place=True)
    run(repository)
    assert repository.resolve("1.0").digest == repository.resolve("1.0-lazy").digest
    remove(repository, find_variants(repository, "1.0", "-lazy"))
    assert {"1.0", "1.0-regular"} <= set(tags(repository))
    assert "1.0-lazy" not in tags(repository)


def test_manifests_that_another_variant_names_stay(repository: MemoryRepository) -> None:
    image = push_image(repository, [BASE, TOP], "amd64")
    push_index(repository, [("amd64", image)], "multi")
    for name in ("amd64", "multi"):
        run(repository, name, formats=("nydus",))
    remove(repository, find_variants(repository, "amd64", "-lazy"))
    for entry in json.loads(repository.resolve("multi-lazy").body)["manifests"]:
        repository.resolve(entry["digest"])


def test_a_variant_with_a_missing_manifest_is_made_again(repository: MemoryRepository) -> None:
    push_image(repository, [BASE, TOP], "1.0")
    run(repository, formats=("nydus",))
    index = json.loads(repository.resolve("1.0-lazy").body)
    del repository.manifests[index["manifests"][1]["digest"]]
    assert run(repository, formats=("nydus",)).variants[0].state == "made"
    repository.resolve(index["manifests"][1]["digest"])


def test_a_repository_without_a_tag_is_pruned_whole() -> None:
    """The command's own example: `latest` is not meant where no tag is named."""
    _, name = open_image("registry.example/team/app", default="")
    assert name == ""
    assert open_image("registry.example/team/app")[1] == "latest"
