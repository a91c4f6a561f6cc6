"""Agents with Docker and a snapshotter, set up by `lazyci agent setup`.

python -m tests.e2e.agents nydus|estargz    start one with a registry, and a shell in it
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.agents import root as roots
from tests.clients.install import installed
from tests.servers import registry

LAZYCI = Path(sys.executable).parent / "lazyci"
PROGRAMS = {
    "nydus": ("containerd-nydus-grpc", "nydusd"),
    "estargz": ("containerd-stargz-grpc",),
}
SNAPSHOTTER = {
    "nydus": ("containerd-nydus-grpc", "--config", "/etc/lazyci/nydus/snapshotter.toml"),
    "estargz": (
        "containerd-stargz-grpc",
        "--config=/etc/lazyci/stargz/config.toml",
        "--root=/var/lib/docker/lazyci/stargz",
    ),
}
SOCKETS = {
    "nydus": "run/containerd-nydus/containerd-nydus-grpc.sock",
    "estargz": "run/containerd-stargz-grpc/containerd-stargz-grpc.sock",
}
CONTAINERD = "1.7.24"
# Containers use the machine's network, and no rule of its firewall changes.
DAEMON = {"iptables": False, "ip6tables": False, "bridge": "none", "ip-forward": False}
SHIM = """#!/bin/sh
exec nsenter -t {pid} -m -p -r -w env -i PATH={path} HOME=/root docker "$@"
"""


@dataclass(eq=False)
class DockerAgent:
    """A running agent, with the daemons that make it lazy.

    Attributes:
        agent: The root it runs in.
        kind: `nydus` or `estargz`.
        folder: Its samples, and the `docker` command that reaches into it.
    """

    agent: roots.Agent
    kind: str
    folder: Path

    def __post_init__(self) -> None:
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start what is not running: the snapshotter, containerd, Docker."""
        self.start_snapshotter()
        self.agent.start_containerd()
        self._daemons["dockerd"] = self.agent.start(
            "dockerd", "dockerd", "--containerd", roots.SOCKET
        )
        self.agent.wait("docker", "info", daemon=self._daemons["dockerd"], name="dockerd")

    def start_snapshotter(self) -> None:
        """Start the snapshotter, and wait for its socket."""
        socket = self.agent.root / SOCKETS[self.kind]
        socket.parent.mkdir(parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
        self._daemons["snapshotter"] = self.agent.start("snapshotter", *SNAPSHOTTER[self.kind])
        deadline = time.monotonic() + roots.STARTS_WITHIN
        while not socket.exists():
            if time.monotonic() > deadline or self._daemons["snapshotter"].poll() is not None:
                raise roots.AgentError(f"the snapshotter did not start:\n{self.log('snapshotter')}")
            time.sleep(0.05)

    def stop(self, name: str) -> None:
        """End a daemon: `dockerd`, `snapshotter` or `containerd`."""
        if name == "containerd":
            self.agent.stop_containerd()
            return
        daemon = self._daemons.pop(name, None)
        if daemon is not None:
            self.agent.stop(daemon)

    def restart(self) -> None:
        """End all daemons, and start them again."""
        for name in ("dockerd", "containerd", "snapshotter"):
            self.stop(name)
        self.start()

    def kill(self, program: str) -> None:
        """Kill all processes of a name, and wait until they are gone."""
        self.agent.run("pkill", "-KILL", "-x", program[:15])

    def log(self, name: str) -> str:
        """The end of what a daemon printed."""
        return (self.agent.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def docker(self, *arguments: str) -> str:
        """Run `docker` inside; return what it printed.

        Raises:
            AgentError: It failed.
        """
        return self.agent.run("docker", *arguments)

    def run(self, image: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Run a container to its end; return what it printed."""
        return self.docker("run", "--rm", "--network", "host", *options, image, *command)

    def lazyci(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `lazyci` for this agent's Docker."""
        where = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "DOCKER_HOST": f"unix://{self.agent.root}/run/docker.sock",
            "LAZYCI_SAMPLES": str(self.folder / "samples"),
            **(environment or {}),
        }
        command = [str(LAZYCI), *arguments]
        return subprocess.run(command, env=where, capture_output=True, text=True, check=False)

    def pull(self, image: str, *, lazily: bool = True) -> dict[str, Any]:
        """`lazyci pull`, which must succeed; return its sample."""
        done = self.lazyci("pull", image, environment={} if lazily else {"LAZYCI": "off"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip().endswith(image)
        return self.samples()[-1]

    def samples(self) -> list[dict[str, Any]]:
        """What was recorded so far."""
        return [json.loads(line) for line in (self.folder / "samples").read_text().splitlines()]

    def mounts(self) -> list[str]:
        """What is mounted lazily: nydus one for each image that runs, eStargz one for each layer."""
        lines = self.agent.run("cat", "/proc/mounts").splitlines()
        kinds = {"nydus": "rafs ", "estargz": "stargz "}
        return [line.split()[1] for line in lines if line.startswith(kinds[self.kind])]

    def close(self) -> None:
        """End all daemons."""
        for name in ("dockerd", "containerd", "snapshotter"):
            self.stop(name)


def missing(kind: str) -> str | None:
    """Why no agent of a kind can run here, or None."""
    lacks = [name for name in (*PROGRAMS[kind], "registry") if installed(name) is None]
    if lacks:
        return f"`make clients` builds what is missing: {', '.join(lacks)}"
    if not os.access("/dev/fuse", os.W_OK):
        return "there is no /dev/fuse"
    return roots.unavailable()


@contextlib.contextmanager
def docker_agent(kind: str, folder: Path) -> Iterator[DockerAgent]:
    """An agent with Docker on the snapshotter of a format, running.

    Args:
        kind: `nydus` or `estargz`.
        folder: Where it writes; on a real file system.
    """
    with roots.agent(folder) as inner:
        own = folder / f"host-{inner.pid}"
        (own / "bin").mkdir(parents=True)
        shim = own / "bin" / "docker"
        shim.write_text(SHIM.format(pid=inner.pid, path=roots.PATH))
        shim.chmod(0o755)
        _install(inner, kind, own / "setup")
        agent = DockerAgent(inner, kind, own)
        try:
            agent.start()
            yield agent
        finally:
            agent.close()


def _install(inner: roots.Agent, kind: str, baked: Path) -> None:
    for name in PROGRAMS[kind]:
        built = installed(name)
        assert built is not None
        shutil.copy(built, inner.root / "usr/local/bin" / name)
    # As for a machine's image: the agent's root, seen through /proc, has no path of its own.
    docker = baked / "etc/docker/daemon.json"
    docker.parent.mkdir(parents=True)
    docker.write_text(json.dumps(DAEMON))
    done = subprocess.run(
        [
            *(str(LAZYCI), "agent", "setup", "--format", kind, "--engine", "docker", "--apply"),
            *("--root", str(baked), "--no-systemd", "--containerd-version", CONTAINERD),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    if kind == "nydus":
        # The tests' registry has no TLS.
        path = baked / "etc/lazyci/nydus/nydusd.json"
        config = json.loads(path.read_text())
        config["device"]["backend"]["config"] |= {"scheme": "http", "skip_verify": True}
        path.write_text(json.dumps(config))
    shutil.copytree(baked, inner.root, dirs_exist_ok=True)


def main() -> int:
    """Run the command line."""
    kind = sys.argv[1] if len(sys.argv) == 2 else ""
    if kind not in PROGRAMS or missing(kind):
        print(__doc__ if kind not in PROGRAMS else missing(kind), file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lazyci-e2e-")))
        address = stack.enter_context(registry(folder))
        agent = stack.enter_context(docker_agent(kind, folder))
        print(f"registry: {address}", file=sys.stderr)
        shell = [*agent.agent.command(), f"TERM={os.environ.get('TERM', 'dumb')}", "bash"]
        return subprocess.run(shell, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
