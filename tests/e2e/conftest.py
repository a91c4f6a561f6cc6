"""Real agents, one for each format, and a registry with images of both kinds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lazyci.image.check.compare import Difference, compare
from lazyci.image.check.tree import Tree, merge
from lazyci.image.check.treetar import read_tar
from lazyci.image.conversion import Options, Watch
from lazyci.image.convert import convert
from lazyci.image.registry import open_repository
from tests.agents import root as roots
from tests.e2e import images
from tests.e2e.agents import DockerAgent, docker_agent, missing
from tests.images.small import push_image
from tests.servers import registry

# What Docker itself puts into a container, and directories whose time that changes.
_DOCKERS = {".dockerenv", "etc/mtab", "etc/hosts", "etc/hostname", "etc/resolv.conf"}
_MOUNTED = {"dev", "proc", "sys"}
_TOUCHED = {"/", "etc"}


@dataclass(eq=False)
class House:
    """A registry with images, and what must be in their containers."""

    address: str
    trees: dict[str, Tree]

    def name(self, tag: str) -> str:
        """The reference of an image."""
        return f"{self.address}/team/app:{tag}"

    def wrong(self, agent: DockerAgent, tag: str, name: str = "") -> list[Difference]:
        """What a container of an image holds that the image does not, and the reverse."""
        return differences(self.trees[tag], archive(agent, name or self.name(tag)))


def archive(agent: DockerAgent, name: str) -> bytes:
    """The whole tree as a process in a container of the image sees it."""
    pack = ["tar", "--one-file-system", "--format=pax", "--xattrs", "-C", "/", "-cf", "-", "."]
    command = agent.agent.command("docker", "run", "--rm", "--network", "host", name, *pack)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def differences(expected: Tree, tar: bytes) -> list[Difference]:
    """The differences that Docker does not make in every container."""
    found, _ = read_tar(iter([tar]))
    return [
        one
        for one in compare(expected, found, layers=False)
        if one.path not in _DOCKERS | _MOUNTED
        and not (one.field == "mtime" and one.path in _TOUCHED)
    ]


def tree_of(layers: list[bytes]) -> Tree:
    """All layers, one over the other."""
    tree = Tree()
    for layer in layers:
        tree = merge(tree, read_tar(iter([layer]))[0])
    return tree


@pytest.fixture(scope="session", autouse=True)
def _possible() -> None:
    reason = roots.unavailable()
    if reason:
        assert not os.environ.get("LAZYCI_REQUIRE_CLIENTS"), reason
        pytest.skip(reason)


@pytest.fixture(scope="session")
def layers() -> dict[str, list[bytes]]:
    """Images that share layers pairwise; D is an older one of A's kind."""
    base, x, y = images.base(roots.build()), images.layer("x"), images.layer("y")
    old, new = images.layer("old"), images.layer("new", gone=("data/only-x",))
    return {
        "A": [base, x, new],
        "B": [base, x, y],
        "C": [base, y],
        "D": [base, x, old],
    }


@pytest.fixture(scope="module", params=["nydus", "estargz"])
def kind(request: pytest.FixtureRequest) -> str:
    """The format that the agent loads lazily."""
    found: str = request.param
    reason = missing(found)
    if reason:
        assert not os.environ.get("LAZYCI_REQUIRE_CLIENTS"), reason
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On the real file system: agents cannot write into an overlay."""
    return tmp_path_factory.mktemp("house")


@pytest.fixture(scope="module")
def house(kind: str, layers: dict[str, list[bytes]], folder: Path) -> Iterator[House]:
    """The registry, with each image and its variant."""
    with registry(folder) as address:
        repository, _ = open_repository(f"{address}/team/app")
        for tag, parts in layers.items():
            push_image(repository, parts, tag, Cmd=["/bin/sh"], Env=["PATH=/bin"])
        repository.close()
        for tag in layers:
            convert(f"{address}/team/app:{tag}", Options(formats=(kind,)), Watch())
        yield House(address, {tag: tree_of(parts) for tag, parts in layers.items()})


@pytest.fixture(scope="module")
def agent(kind: str, folder: Path) -> Iterator[DockerAgent]:
    """One agent for the tests of a module, with all daemons running."""
    with docker_agent(kind, folder) as running:
        yield running


@pytest.fixture
def empty(agent: DockerAgent) -> DockerAgent:
    """The agent, with no image left."""
    agent.docker("system", "prune", "--all", "--force")
    return agent
