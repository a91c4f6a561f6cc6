"""The pull ladder: each rung by a stand-in daemon, and what is printed and recorded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socketserver
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from lazyci.agent import choice
from lazyci.agent.endpoint import docker_endpoint
from lazyci.agent.ladder import Pull, pull
from lazyci.errors import RegistryError, ToolError
from lazyci.image import lookup
from lazyci.image.conversion import Options, Watch
from lazyci.image.convert import convert_in
from lazyci.image.lookup import Found, find_variant
from lazyci.image.pending import Pending, announced
from lazyci.sample import Rung
from tests.images.small import layer_of, push_image
from tests.repositories import MemoryRepository

IMAGE = "registry.example/team/app:1.0"
ORIGINAL, VARIANT = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
CURRENT = Found(ORIGINAL, VARIANT, "1.0-lazy", "nydus", ORIGINAL)
SIZE = 1_000_000_000
DOCKER = """#!/bin/sh
echo "$@" >> "$0.calls"
for image; do :; done
case "$image" in
*-lazy) {lazy} ;;
*) echo "regular: $*"; exit {regular} ;;
esac
"""
PULLED = 'echo "1.0-lazy: Pulling from team/app"; echo "Status: Downloaded newer image for $image"'


@dataclass
class Daemon:
    """What the daemon says, and what it was asked."""

    driver: str = "nydus"
    containerd: bool = True
    images: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refuses_tags: bool = False

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        path, _, query = unquote(path).partition("?")
        self.asked.append(f"{method} {path}")
        if path == "/info":
            kind = "io.containerd.snapshotter.v1" if self.containerd else "overlay"
            return 200, {
                "ServerVersion": "26.1.5",
                "Driver": self.driver,
                "DriverStatus": [["driver-type", kind]],
                "OSType": "linux",
                "Architecture": "x86_64",
            }
        if path.endswith("/tag"):
            return (500, {"message": "no"}) if self.refuses_tags else (201, None)
        if method == "DELETE":
            return 200, []
        if path == "/images/json":
            return 200, [{"RepoTags": [name]} for name in self.whole if name in query]
        image = path.removeprefix("/images/").removesuffix("/json")
        if image in self.images:
            return 200, {}
        return 404, {"message": "no such image"}


@contextlib.contextmanager
def listening(daemon: Daemon, path: Path) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            status, body = daemon.answer(self.command, self.path)
            data = json.dumps(body).encode() if body is not None else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_one  # noqa: N815

        def address_string(self) -> str:
            return "socket"

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Agent:
    """A machine with a docker command and a daemon."""

    folder: Path
    daemon: Daemon

    def script(self, lazy: str = PULLED, regular: int = 0) -> None:
        path = self.folder / "bin" / "docker"
        path.write_text(DOCKER.format(lazy=lazy, regular=regular))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "bin" / "docker.calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def sample(self) -> dict[str, Any]:
        (line,) = (self.folder / "samples").read_text().splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'docker.sock'}")
    monkeypatch.setenv("LAZYCI_SAMPLES", str(tmp_path / "samples"))
    monkeypatch.delenv("LAZYCI", raising=False)
    monkeypatch.setattr(choice, "find_variant", lambda reference, suffix: CURRENT)
    for module in (choice, lookup):
        monkeypatch.setattr(module, "layers_size", lambda reference, digest, platform: SIZE)
    daemon = Daemon(images=[f"{IMAGE}-lazy"])
    made = Agent(tmp_path, daemon)
    made.script()
    with listening(daemon, tmp_path / "docker.sock"):
        yield made


def test_lazily(agent: Agent, capfd: pytest.CaptureFixture[str]) -> None:
    assert pull(Pull(IMAGE, ("--platform", "linux/amd64"))) == 0
    assert agent.calls == [f"pull --platform linux/amd64 {IMAGE}-lazy"]
    assert f"POST /images/{IMAGE}-lazy/tag" in agent.daemon.asked
    sample = agent.sample
    assert (sample["rung"], sample["format"]) == ("lazy", "nydus")
    assert (sample["original"], sample["variant"]) == (ORIGINAL, VARIANT)
    said = capfd.readouterr()
    # As docker says it of the image that was asked for.
    assert said.out == (f"1.0: Pulling from team/app\nStatus: Downloaded newer image for {IMAGE}\n")
    assert said.err.startswith("lazyci: pulled lazily (nydus) in ")


def raising(error: Exception) -> Any:
    def find(reference: str, suffix: str) -> Found:
        raise error

    return find


@pytest.mark.parametrize(
    ("rung", "change"),
    [
        (Rung.ENGINE, {"driver": "overlay2", "containerd": False}),
        (Rung.ENGINE, {"driver": "overlayfs"}),
        (Rung.ENGINE, {"driver": "nydus", "containerd": False}),
        (Rung.FOREIGN, {"driver": "stargz"}),
        (Rung.FAILED, {"refuses_tags": True}),
    ],
)
def test_the_daemon_sends_it_down(agent: Agent, rung: Rung, change: dict[str, Any]) -> None:
    for name, value in change.items():
        setattr(agent.daemon, name, value)
    agent.script(regular=42)
    assert pull(Pull(IMAGE, ("-q",))) == 42
    assert agent.calls[-1] == f"pull -q {IMAGE}"
    assert agent.sample["rung"] == rung.value
    assert agent.sample["exit_code"] == 42


@pytest.mark.parametrize(
    ("rung", "found"),
    [
        (Rung.NO_VARIANT, Found(ORIGINAL)),
        (Rung.STALE, Found(ORIGINAL, VARIANT, "1.0-lazy", "nydus", VARIANT)),
        (Rung.FOREIGN, Found(ORIGINAL, VARIANT, "1.0-lazy", "estargz", ORIGINAL)),
        (Rung.NO_LOOKUP, RegistryError("the registry stalls")),
        (Rung.BROKEN, ZeroDivisionError("a mistake of lazyci's own")),
    ],
)
def test_the_registry_sends_it_down(
    agent: Agent, rung: Rung, found: Found | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = raising(found) if isinstance(found, Exception) else lambda reference, suffix: found
    monkeypatch.setattr(choice, "find_variant", find)
    assert pull(Pull(IMAGE)) == 0
    assert agent.calls == [f"pull {IMAGE}"]
    assert agent.sample["rung"] == rung.value
    assert agent.sample["reason"]


@pytest.mark.parametrize(
    ("rung", "reference", "options"),
    [
        (Rung.OPTIONS, IMAGE, ("-a",)),
        (Rung.OPTIONS, IMAGE, ("--disable-content-trust=false",)),
        (Rung.OPTIONS, f"registry.example/app@{ORIGINAL}", ()),
    ],
)
def test_what_is_never_lazy(
    agent: Agent, rung: Rung, reference: str, options: tuple[str, ...]
) -> None:
    assert pull(Pull(reference, options)) == 0
    assert agent.calls == [" ".join(["pull", *options, reference])]
    assert agent.sample["rung"] == rung.value


def test_switched_off_asks_nobody(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYCI", "off")
    assert pull(Pull(IMAGE)) == 0
    assert agent.daemon.asked == []
    assert agent.sample["rung"] == "switched-off"


def test_no_daemon(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("unix:///nowhere/docker.sock", "ssh://far", "tcp://127.0.0.1:1"):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert pull(Pull(IMAGE)) == 0
        assert agent.sample["rung"] == "engine-not-reached"
        (agent.folder / "samples").unlink()


def test_a_lazy_pull_that_fails_leaves_nothing(agent: Agent) -> None:
    agent.daemon.images.clear()
    agent.script(lazy='echo "connection refused" >&2; exit 1')
    assert pull(Pull(IMAGE)) == 0
    assert agent.calls == [f"pull {IMAGE}-lazy", f"pull {IMAGE}"]
    assert f"DELETE /images/{IMAGE}-lazy" in agent.daemon.asked
    assert (agent.sample["rung"], agent.sample["reason"]) == (
        "lazy-pull-failed",
        "connection refused",
    )


def test_a_lazy_pull_that_hangs(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lazyci.agent.ladder._LAZY_DEADLINE", 0.5)
    agent.script(lazy="exec sleep 60")
    began = time.monotonic()
    assert pull(Pull(IMAGE)) == 0
    assert time.monotonic() - began < 10
    assert agent.sample["rung"] == "lazy-pull-timed-out"


def test_layers_that_were_downloaded_are_no_lazy_pull(
    agent: Agent, capfd: pytest.CaptureFixture[str]
) -> None:
    agent.daemon.whole = [f"{IMAGE}-lazy"]
    assert pull(Pull(IMAGE)) == 0
    assert agent.sample["rung"] == "pulled-but-not-lazy"
    assert "not lazily" in capfd.readouterr().err


def test_if_missing(agent: Agent) -> None:
    agent.daemon.images = [IMAGE]
    assert pull(Pull(IMAGE, if_missing=True)) == 0
    assert agent.calls == []
    assert agent.sample["rung"] == "already-there"


def test_a_sample_that_cannot_be_written_costs_nothing(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAZYCI_SAMPLES", "/proc/nowhere/samples")
    assert pull(Pull(IMAGE)) == 0
    assert "the sample is lost" in capfd.readouterr().err


class Time:
    """A clock that sleeping moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr("lazyci.agent.choice.time", self)

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("wait", "ready", "rung"),
    [
        # A regular pull of 1 GB takes 16 s by the estimate.
        (None, 6.0, Rung.LAZY),
        (None, 600.0, Rung.NO_VARIANT),
        (0.0, 6.0, Rung.NO_VARIANT),
        (30.0, 25.0, Rung.LAZY),
        (5.0, 6.0, Rung.NO_VARIANT),
    ],
)
def test_waiting(
    agent: Agent,
    monkeypatch: pytest.MonkeyPatch,
    wait: float | None,
    ready: float,
    rung: Rung,
) -> None:
    clock = Time(monkeypatch)
    began = clock.now
    promise = Pending(ORIGINAL, int(began) - 2, 8, int(began) + 300)

    def find(reference: str, suffix: str) -> Found:
        return CURRENT if clock.now >= began + ready else Found(ORIGINAL, pending=promise)

    monkeypatch.setattr(choice, "find_variant", find)
    assert pull(Pull(IMAGE, wait=wait)) == 0
    assert agent.sample["rung"] == rung.value
    assert clock.now - began <= (wait if wait is not None else 17)


@pytest.mark.parametrize(("started", "expected"), [(-100, 200), (0, 60), (-4000, 10)])
def test_waiting_that_does_not_pay(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, started: int, expected: int
) -> None:
    clock = Time(monkeypatch)
    began = clock.now
    promise = Pending(ORIGINAL, int(began) + started, expected, int(began) + started + 300)
    monkeypatch.setattr(
        choice, "find_variant", lambda reference, suffix: Found(ORIGINAL, pending=promise)
    )
    assert pull(Pull(IMAGE)) == 0
    assert clock.now == began
    assert agent.calls == [f"pull {IMAGE}"]


def test_find_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = MemoryRepository()
    monkeypatch.setattr(lookup, "open_image", lambda reference: (repository, "1.0"))
    original = push_image(repository, [layer_of({"a": b"1" * 9000})], "1.0")
    assert find_variant("x", "-lazy") == Found(original.digest)
    with announced(repository, "1.0-lazy", original.digest, 30, print):
        assert (find_variant("x", "-lazy").pending or Pending("", 0, 0, 0)).expected == 30
    with announced(repository, "1.0-lazy", VARIANT, 30, print):
        assert find_variant("x", "-lazy").pending is None
    convert_in(repository, "1.0", repository, "1.0", Options(formats=("estargz",)), Watch())
    found = find_variant("x", "-lazy")
    assert found.is_current
    assert (found.tag, found.format) == ("1.0-lazy", "estargz")
    push_image(repository, [layer_of({"a": b"2"})], "1.0")
    assert not find_variant("x", "-lazy").is_current


def test_endpoint(tmp_path: Path) -> None:
    home = {"DOCKER_CONFIG": str(tmp_path)}
    assert docker_endpoint(home) == "unix:///var/run/docker.sock"
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "far"}))
    with pytest.raises(ToolError, match="far"):
        docker_endpoint(home)
    name = hashlib.sha256(b"far").hexdigest()
    folder = tmp_path / "contexts" / "meta" / name
    folder.mkdir(parents=True)
    meta = {"Name": "far", "Endpoints": {"docker": {"Host": "tcp://far:2375"}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert docker_endpoint(home) == "tcp://far:2375"
    assert docker_endpoint({**home, "DOCKER_CONTEXT": "default"}) == "unix:///var/run/docker.sock"
    assert docker_endpoint({**home, "DOCKER_HOST": "unix:///x"}) == "unix:///x"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ToolError, match=r"config\.json"):
        docker_endpoint(home)
