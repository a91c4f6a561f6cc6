"""The ladder on real agents: what serves when something is missing, late or busy."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazyci.image.conversion import Options, Watch
from lazyci.image.convert import convert
from lazyci.image.registry import open_repository
from tests.agents.root import AgentError
from tests.e2e.agents import DockerAgent
from tests.e2e.conftest import House
from tests.images.small import push_image
from tests.servers import toxiproxy


def test_eight_at_once(empty: DockerAgent, house: House) -> None:
    """Of one image and of all, mixed; each container has its own files."""
    tags = "AABBCCDD"
    with ThreadPoolExecutor(8) as pool:
        samples = list(pool.map(lambda tag: empty.lazyci("pull", house.name(tag)), tags))
        assert [done.returncode for done in samples] == [0] * 8
        found = list(pool.map(lambda tag: house.wrong(empty, tag), tags))
    assert found == [[]] * 8
    assert {sample["rung"] for sample in empty.samples()[-8:]} == {"lazy"}


def test_no_variant(empty: DockerAgent, house: House, layers: dict[str, list[bytes]]) -> None:
    repository, _ = open_repository(house.name("plain"))
    push_image(repository, layers["C"], "plain", Cmd=["/bin/sh"], Env=["PATH=/bin"])
    repository.close()
    assert empty.pull(house.name("plain"))["rung"] == "variant-missing"
    assert house.wrong(empty, "C", house.name("plain")) == []


def test_a_stale_variant(empty: DockerAgent, house: House, layers: dict[str, list[bytes]]) -> None:
    """The tag moves on: the variant is of the older image, and never serves."""
    repository, _ = open_repository(house.name("moves"))
    push_image(repository, layers["D"], "moves", Cmd=["/bin/sh"], Env=["PATH=/bin"])
    convert(house.name("moves"), Options(formats=(empty.kind,)), Watch())
    assert empty.pull(house.name("moves"))["rung"] == "lazy"
    push_image(repository, layers["B"], "moves", Cmd=["/bin/sh"], Env=["PATH=/bin"])
    assert empty.pull(house.name("moves"))["rung"] == "variant-stale"
    assert house.wrong(empty, "B", house.name("moves")) == []
    convert(house.name("moves"), Options(formats=(empty.kind,)), Watch())
    repository.close()
    assert empty.pull(house.name("moves"))["rung"] == "lazy"
    assert house.wrong(empty, "B", house.name("moves")) == []


def test_a_variant_of_another_format(empty: DockerAgent, house: House) -> None:
    other = "estargz" if empty.kind == "nydus" else "nydus"
    convert(house.name("A"), Options(formats=(other,)), Watch())
    try:
        assert empty.pull(house.name("A"))["rung"] == "variant-of-another-format"
        assert house.wrong(empty, "A") == []
    finally:
        convert(house.name("A"), Options(formats=(empty.kind,)), Watch())


def test_what_docker_does_with_it(empty: DockerAgent, house: House) -> None:
    """A container's changes can be committed, and the result runs."""
    empty.pull(house.name("A"))
    name = house.name("A")
    empty.docker("run", "--name", "changed", "--network", "host", name, "touch", "/tmp/new")
    try:
        empty.docker("commit", "changed", house.name("committed"))
        assert "/tmp/new" in empty.run(house.name("committed"), "ls", "/tmp/new")
    finally:
        empty.docker("rm", "-f", "changed")


def test_a_slow_registry(house: House, empty: DockerAgent) -> None:
    """200 ms for each answer: the pull stays lazy, and faster than the bytes would come."""
    with toxiproxy(empty.folder) as api:
        proxy = api.add(house.address)
        proxy.toxic("latency", latency=200)
        name = f"{proxy.address}/team/app:A"
        began = time.monotonic()
        sample = empty.pull(name)
        assert time.monotonic() - began < 30
        assert sample["rung"] == "lazy"
        assert house.wrong(empty, "A", name) == []


def test_a_registry_that_is_gone(house: House, empty: DockerAgent) -> None:
    """As without lazyci: Docker says it, and the exit code is Docker's."""
    done = empty.lazyci("pull", "127.0.0.1:1/team/app:A")
    assert done.returncode == 1
    assert "registry-not-asked" in done.stderr
    with pytest.raises(AgentError, match="refused"):
        empty.docker("pull", "127.0.0.1:1/team/app:A")
