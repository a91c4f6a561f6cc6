"""Real servers for tests: a registry, and a proxy that makes the way to it bad."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.clients.install import installed

USER, PASSWORD = "lazyci", "secret"
# The line of `htpasswd -nbBC 4 lazyci secret`; 4 is the lowest cost of bcrypt.
_HTPASSWD = "lazyci:$2a$04$1yP3Sy29A.a1.jgyTstcEOmXq9vgNfmDkZu5wKzUqc5mQ0uBHjFy6\n"
_STARTS_WITHIN, _ANSWERS_WITHIN = 20, 10
# No proxy of the environment stands before the loopback.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def client(name: str) -> str:
    """Return the path of a real client; without it the test skips, or fails where it must run."""
    path = installed(name)
    if path is None:
        # In CI they are built before, so there a missing one is a failure.
        assert not os.environ.get("LAZYCI_REQUIRE_CLIENTS"), f"{name} is not installed"
        pytest.skip(f"{name} is not installed: `make clients` builds it")
    return str(path)


@contextlib.contextmanager
def registry(folder: Path, *, auth: bool = False) -> Iterator[str]:
    """Serve a registry that keeps its data in the folder; yield its "127.0.0.1:PORT".

    It lets manifests and blobs be deleted, writes each request to registry.log in the folder, and
    with `auth` takes only USER and PASSWORD. Another one on the same folder has the same data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "version": 0.1,
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
        },
        # Port 0: the registry takes a free port itself, and its log tells which.
        "http": {"addr": "127.0.0.1:0", "secret": "lazyci"},
    }
    if auth:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "lazyci", "path": str(folder / "htpasswd")}}
    # JSON is YAML.
    (folder / "registry.yml").write_text(json.dumps(config))
    log = folder / "registry.log"

    def address() -> str | None:
        found = re.search(r'"listening on (127\.0\.0\.1:\d+)"', log.read_text())
        return found and found[1]

    command = [client("registry"), "serve", str(folder / "registry.yml")]
    with _running(command, log, address) as found:
        yield found


class Proxy:
    """A proxy to one upstream at `address`, and the faults put on it."""

    def __init__(self, api: str, name: str, address: str) -> None:
        self._api, self._name, self.address = api, name, address

    def toxic(
        self,
        kind: Literal["latency", "bandwidth", "reset_peer", "limit_data", "timeout"],
        stream: Literal["downstream", "upstream"] = "downstream",
        **attributes: int,
    ) -> None:
        """Put a fault on the connections of now and later; downstream is towards the client.

        The attributes, with times in milliseconds, are latency and jitter of latency, rate (kB/s)
        of bandwidth, timeout of reset_peer and of timeout (0: never closes), bytes of limit_data.
        A timeout is put upstream: downstream, it still closes when the server does, as HTTP's
        "Connection: close" makes it do.
        """
        body = {"type": kind, "stream": stream, "attributes": attributes}
        taken = _post(f"{self._api}/proxies/{self._name}/toxics", body)["attributes"]
        # toxiproxy leaves out what it does not know.
        assert taken.items() >= attributes.items(), f"{kind} takes {sorted(taken)}"


class Toxiproxy:
    """A running toxiproxy, by its HTTP API."""

    def __init__(self, api: str) -> None:
        self._api = api

    def add(self, upstream: str) -> Proxy:
        """Return a new proxy, on a free port, to "HOST:PORT"."""
        name = os.urandom(4).hex()
        body = {"name": name, "listen": "127.0.0.1:0", "upstream": upstream}
        return Proxy(self._api, name, _post(f"{self._api}/proxies", body)["listen"])

    def reset(self) -> None:
        """Take all faults away; the proxies stay."""
        _post(f"{self._api}/reset", None)


@contextlib.contextmanager
def toxiproxy(folder: Path) -> Iterator[Toxiproxy]:
    """Run a toxiproxy without proxies; its log is toxiproxy.log in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # It does not tell which port it took, so it gets one that was free a moment ago.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}"

    def answers() -> str | None:
        with contextlib.suppress(OSError), _open(f"{api}/version", timeout=_ANSWERS_WITHIN):
            return api
        return None

    command = [client("toxiproxy-server"), "-host", "127.0.0.1", "-port", str(port)]
    with _running(command, folder / "toxiproxy.log", answers) as found:
        yield Toxiproxy(found)


@contextlib.contextmanager
def _running(command: list[str], log: Path, look: Callable[[], str | None]) -> Iterator[str]:
    """Run a server until the end of the block; yield what `look` finds once it has started."""
    # Not the caller's REGISTRY_* settings, and no traces sent to a collector.
    environment = {"PATH": os.defpath, "OTEL_TRACES_EXPORTER": "none"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _wait(process, log, look)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, look: Callable[[], str | None]) -> str:
    end = time.monotonic() + _STARTS_WITHIN
    while process.poll() is None and time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise RuntimeError(f"{log.stem} did not start:\n{log.read_text()}")


def _post(url: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, method="POST")
    with _open(request, timeout=_ANSWERS_WITHIN) as answer:
        return json.loads(answer.read() or b"null")
