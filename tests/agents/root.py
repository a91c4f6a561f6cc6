"""Agents for tests: a Debian root with containerd in it, entered through its own namespaces.

python tests/agents/root.py             build the root if it is missing; print where it is
python tests/agents/root.py --shell     start an agent with containerd, and a shell in it

Needs Linux, root and debootstrap. The root is built once per set of versions, in LAZYCI_AGENTS or
the user's cache; agents write into overlays of it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
# Debian package: how its version must begin. Only snapshot.debian.org keeps every version, and not
# every machine reaches it, so what a mirror gave is compared instead.
PACKAGES = {
    "ca-certificates": "",
    "containerd": "1.7.24",
    "docker.io": "26.1.5",
    "docker-cli": "26.1.5",
    "fuse3": "",
    "iproute2": "",
    "iptables": "",
    "pigz": "",
    "runc": "1.1.15",
    # Holds ctr-remote and containerd-stargz-grpc.
    "stargz-snapshotter": "0.14.3",
}
# Bound from the agent's own folder: an overlay cannot be the upper layer of another overlay.
STATE = (
    "var/lib/buildkit",
    "var/lib/containerd",
    "var/lib/containerd-nydus",
    "var/lib/containerd-stargz-grpc",
    "var/lib/docker",
)
SOCKET = "/run/containerd/containerd.sock"
STARTS_WITHIN = 30.0
SETTLES_WITHIN = 60
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1: root, $2: the agent's own folder, then the state folders. What runs as process 1 reaps the
# children of others: the shell's `wait` does.
_ENTER = """set -e
root=$1 own=$2; shift 2
mount --make-rprivate /
mount -t overlay -o "lowerdir=$root,upperdir=$own/upper,workdir=$own/work" overlay "$own/root"
cd "$own/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
for state; do mkdir -p "$state" "$own/state/$state"; mount --bind "$own/state/$state" "$state"; done
pivot_root . mnt
cd /
umount -l /mnt
echo ready
sleep infinity & wait
"""


_FORGET = """cd /
for folder; do
  awk -v "inside=/$folder/" 'index($2, inside) == 1 {print $2}' /proc/mounts | sort -r |
    while read -r mount; do umount -l "$mount"; done
  [ ! -d "$folder" ] || find "$folder" -mindepth 1 -delete
done
"""


class AgentError(Exception):
    """The root cannot be built, or something in an agent failed; says which command and why."""


def unavailable() -> str | None:
    """Why no agent can run on this machine, or None."""
    if sys.platform != "linux":
        return "agents need Linux"
    if os.geteuid() != 0:
        return "agents need root"
    if not _root_folder().is_dir() and not shutil.which("debootstrap"):
        return "the agents' root is not built, and debootstrap is missing: apt install debootstrap"
    return None


def cache_folder() -> Path:
    """Where roots are kept: LAZYCI_AGENTS, or the user's cache."""
    chosen = os.environ.get("LAZYCI_AGENTS")
    if chosen:
        return Path(chosen).expanduser().absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(user_cache) if os.path.isabs(user_cache) else Path.home() / ".cache"
    return base / "lazyci" / "agents"


def build() -> Path:
    """Return the root, built first if it is missing."""
    target = _root_folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            # Beside the target, so that a rename puts a whole root there or none.
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                _bootstrap(scratch)
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


def debootstrap(suite: str, target: Path, *options: str) -> None:
    """Make a minimal Debian in a folder."""
    _check("debootstrap", "--variant=minbase", *options, suite, str(target), MIRROR)


def apt_install(root: Path, packages: list[str]) -> None:
    """Install Debian packages, without those that they only recommend, into a root."""
    # The mirror's name must be found from inside; no service may start.
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    chroot = ["chroot", str(root), "env", "-i", f"PATH={PATH}", "DEBIAN_FRONTEND=noninteractive"]
    _check(*chroot, "apt-get", "-q", "update")
    _check(*chroot, "apt-get", "-qy", "install", "--no-install-recommends", *packages)
    _check(*chroot, "apt-get", "clean")
    policy.unlink()


def _root_folder() -> Path:
    # A package or setting more is another root.
    recipe = hashlib.sha256(repr((SUITE, PACKAGES, STATE)).encode()).hexdigest()[:12]
    return cache_folder() / f"{SUITE}-{recipe}"


def _bootstrap(root: Path) -> None:
    root.chmod(0o755)
    debootstrap(SUITE, root)
    apt_install(root, list(PACKAGES))
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    query = ["dpkg-query", "-W", "-f", "${Package} ${source:Upstream-Version}\\n", *PACKAGES]
    found = dict(line.split() for line in _check("chroot", str(root), *query).splitlines())
    wrong = [
        f"{name} {found.get(name)} instead of {version}"
        for name, version in PACKAGES.items()
        if not found.get(name, "").startswith(version)
    ]
    if wrong:
        raise AgentError(f"{MIRROR} {SUITE} has other versions: {', '.join(wrong)}")
    for state in STATE:
        (root / state).mkdir(parents=True, exist_ok=True)


def _check(*command: str) -> str:
    """Run a command; return what it printed."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        end = "\n".join(done.stdout.rstrip().splitlines()[-20:])
        raise AgentError(f"{' '.join(command)} failed ({done.returncode}):\n{end}")
    return done.stdout


class Agent:
    """A running agent: one overlay of the root, with mounts and processes of its own.

    It shares the network with the machine, so that 127.0.0.1 is the same inside and outside.
    """

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid
        self._containerd: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """The agent's root as seen from outside, mounts included."""
        return Path(f"/proc/{self.pid}/root")

    def command(self, *command: str) -> list[str]:
        """The command that runs a command inside, for subprocess."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "-r", "-w"]
        return [*inside, "env", "-i", f"PATH={PATH}", "HOME=/root", *command]

    def run(self, *command: str) -> str:
        """Run a command inside to its end; return what it printed.

        Raises:
            AgentError: It failed.
        """
        return _check(*self.command(*command))

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a daemon inside; what it prints goes to NAME.log in the agent's folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self.command(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self, daemon: subprocess.Popen[bytes]) -> None:
        """End a daemon that `start` started, and wait for it."""
        # nsenter stays outside the PID namespace and its child inside: the child is the daemon.
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), 15)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), 9)
            daemon.wait()

    def wait(self, *command: str, daemon: subprocess.Popen[bytes], name: str) -> None:
        """Wait until a command inside succeeds, which shows that a daemon has started."""
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                self.run(*command)
            except AgentError as error:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / f"{name}.log").read_text(errors="replace")
                    raise AgentError(f"{name} did not start: {error}\n{log[-2000:]}") from None
                time.sleep(0.05)
            else:
                return

    def start_containerd(self) -> None:
        """Start containerd and wait until it answers."""
        self._containerd = self.start("containerd", "containerd", "--log-level", "warn")
        self.wait("ctr", "version", daemon=self._containerd, name="containerd")

    def stop_containerd(self) -> None:
        """Stop containerd; what it stored stays."""
        if self._containerd is not None:
            self.stop(self._containerd)
            self._containerd = None

    def cold(self) -> None:
        """Start containerd again with nothing stored and nothing in the page cache."""
        self.stop_containerd()
        self.forget("var/lib/containerd", "run/containerd")
        self.start_containerd()
        drop_caches()

    def forget(self, *folders: str) -> None:
        """Empty folders, named without the leading slash, and unmount what is mounted in them."""
        self.run("sh", "-c", _FORGET, "sh", *folders)


@contextlib.contextmanager
def agent(folder: Path | None = None) -> Iterator[Agent]:
    """Run an agent to the end of the block; nothing of it stays.

    Args:
        folder: Where the agent writes, on a real file system (no overlay); default: a temporary one.
    """
    reason = unavailable()
    if reason:
        raise AgentError(reason)
    root = build()
    with tempfile.TemporaryDirectory(prefix="lazyci-agent-", dir=folder) as own:
        for name in ("upper", "work", "root", "state"):
            (Path(own) / name).mkdir()
        with _inside(root, Path(own)) as pid:
            running = Agent(Path(own), pid)
            try:
                yield running
            finally:
                running.stop_containerd()


@contextlib.contextmanager
def _inside(root: Path, own: Path) -> Iterator[int]:
    """Enter the root in new namespaces; yield the process outside that is process 1 inside."""
    # Ends with this process, also when this one is killed.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-mpf", "--kill-child"]
    command += ["sh", "-c", _ENTER, "sh", str(root), str(own), *STATE]
    outer = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={"PATH": PATH}
    )
    inner = None
    try:
        assert outer.stdout is not None
        if outer.stdout.readline() != b"ready\n":
            raise AgentError("the agent's mounts failed; the message is above")
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        inner = os.pidfd_open(int(children[0]))
        yield int(children[0])
    finally:
        # With unshare ends process 1 inside, and with that all others and the mounts.
        outer.kill()
        outer.wait()
        assert outer.stdout is not None
        outer.stdout.close()
        if inner is not None:
            # Readable once it has ended, which is after all others in its namespace.
            select.select([inner], [], [], STARTS_WITHIN)
            os.close(inner)


def drop_caches() -> None:
    """Write out what is dirty, let the disks come to rest, and empty the machine's page cache."""
    os.sync()
    # What was deleted before is still being given back to the disk.
    before = ""
    for _ in range(SETTLES_WITHIN):
        now = Path("/proc/diskstats").read_text()
        if now == before:
            break
        before = now
        time.sleep(1)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build the root of the agents for tests.")
    parser.add_argument("--shell", action="store_true", help="start an agent and a shell in it")
    options = parser.parse_args()
    try:
        if not options.shell:
            print(build())
            return 0
        with agent() as running:
            running.start_containerd()
            shell = [*running.command(), f"TERM={os.environ.get('TERM', 'dumb')}", "bash"]
            return subprocess.run(shell, check=False).returncode
    except AgentError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
