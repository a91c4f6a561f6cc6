"""The most important test: whatever was pulled how and when, containers have the right files."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.e2e.agents import DockerAgent
from tests.e2e.conftest import House


def test_a_lazy_pull(empty: DockerAgent, house: House) -> None:
    sample = empty.pull(house.name("A"))
    assert sample["rung"] == "lazy", empty.log("snapshotter")
    assert [str(one) for one in house.wrong(empty, "A")] == []


def test_a_regular_pull_is_not_lazy(empty: DockerAgent, house: House) -> None:
    before = empty.mounts()
    sample = empty.pull(house.name("A"), lazily=False)
    assert sample["rung"] == "switched-off"
    assert [str(one) for one in house.wrong(empty, "A")] == []
    assert empty.mounts() == before


@pytest.mark.parametrize("order", list(permutations("ABCD"))[::5], ids="".join)
def test_any_order(empty: DockerAgent, house: House, order: tuple[str, ...]) -> None:
    """The first and the third lazily, the others regularly; all share layers with one another."""
    for number, tag in enumerate(order):
        sample = empty.pull(house.name(tag), lazily=number % 2 == 0)
        assert sample["rung"] == ("lazy" if number % 2 == 0 else "switched-off")
        assert house.wrong(empty, tag) == []
    # And once more, with all of them there.
    for tag in order:
        assert house.wrong(empty, tag) == []


def test_regular_after_lazy_and_lazy_after_regular(empty: DockerAgent, house: House) -> None:
    empty.pull(house.name("A"))
    empty.pull(house.name("B"), lazily=False)
    empty.pull(house.name("A"), lazily=False)
    assert [str(one) for one in house.wrong(empty, "A")] == []
    empty.pull(house.name("B"))
    assert house.wrong(empty, "B") == []
    assert [str(one) for one in house.wrong(empty, "A")] == []


def test_two_names_of_one_image(empty: DockerAgent, house: House) -> None:
    empty.pull(house.name("A"))
    other = house.name("other")
    empty.docker("tag", house.name("A"), other)
    empty.pull(house.name("B"))
    assert house.wrong(empty, "A", other) == []
    empty.docker("rmi", house.name("A"))
    assert house.wrong(empty, "A", other) == []


def test_prune_between(empty: DockerAgent, house: House) -> None:
    empty.pull(house.name("A"))
    empty.docker("system", "prune", "--all", "--force")
    empty.pull(house.name("D"), lazily=False)
    empty.pull(house.name("A"))
    for tag in "AD":
        assert house.wrong(empty, tag) == []


def test_restart_between(empty: DockerAgent, house: House) -> None:
    empty.pull(house.name("A"))
    assert [str(one) for one in house.wrong(empty, "A")] == []
    empty.restart()
    assert [str(one) for one in house.wrong(empty, "A")] == []
    empty.pull(house.name("B"), lazily=False)
    empty.pull(house.name("C"))
    for tag in "ABC":
        assert house.wrong(empty, tag) == []
