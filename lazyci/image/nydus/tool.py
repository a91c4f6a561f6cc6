"""`nydus-image`: where it is, whether it will do, and one run of it."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lazyci.errors import ToolError

__all__ = ["NydusImage", "Run", "find_nydus_image"]

HINT = (
    "get nydus-image 2.2 or a later 2.x from https://github.com/dragonflyoss/nydus/releases, or"
    " `cargo install nydus-rs --locked`; put it into PATH or name it in LAZYCI_NYDUS_IMAGE"
)
_MINIMUM = (2, 2)
# What `create --help` of a build that does not know its version must offer.
_NEEDED = ("tar-rafs", "targz-ref", "blob-toc", "--blob-inline-meta")
_KEPT = 64 << 10
_LINES_SHOWN = 8
_TIMEOUT = 30
# Its environment: what a program needs to run, and no secrets of the build.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH")

_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True, slots=True)
class NydusImage:
    """The program, checked.

    Attributes:
        path: Where it is.
        version: `2.2.0`; or `unknown-` and the begin of the program's digest, where the build
            did not record one (cargo's does not).
    """

    path: str
    version: str

    def start(self, *arguments: str, pass_fds: Sequence[int] = ()) -> Run:
        """Begin a run of it.

        Raises:
            ToolError: It cannot be started.
        """
        return Run([self.path, *arguments], pass_fds)

    def run(self, *arguments: str) -> None:
        """Run it to its end.

        Raises:
            ToolError: It failed.
        """
        run = self.start(*arguments)
        try:
            run.wait()
        finally:
            run.kill()


class Run:
    """One run of nydus-image. It ends with the process that started it, whatever happens."""

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int]) -> None:
        self._what = f"nydus-image {command[1]}"
        try:
            self._process = subprocess.Popen(  # noqa: S603 - no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(pass_fds),
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            )
        except OSError as error:
            raise ToolError(f"nydus-image cannot be started: {error}", hint=HINT) from error
        _running.add(self._process)
        self._said = bytearray()
        self._listener = threading.Thread(target=self._listen, name="nydus-image", daemon=True)
        self._listener.start()

    def wait(self) -> None:
        """Wait for its end.

        Raises:
            ToolError: It failed; with the last lines that it printed.
        """
        code = self._process.wait()
        self._listener.join()
        _running.discard(self._process)
        if code:
            lines = bytes(self._said).decode(errors="replace").split("\n")
            end = [line.strip() for line in lines if line.strip()][-_LINES_SHOWN:]
            raise ToolError("\n  ".join([f"{self._what} failed with exit code {code}", *end]))

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        # It starts no processes of its own.
        self._process.kill()
        self._process.wait()
        self._listener.join()
        _running.discard(self._process)

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as said:
            while data := os.read(said.fileno(), _KEPT):
                self._said += data
                del self._said[:-_KEPT]


def find_nydus_image(environment: Mapping[str, str]) -> NydusImage:
    """Find the program that LAZYCI_NYDUS_IMAGE names, else the one in PATH, and check it.

    Raises:
        ToolError: There is none, or it is of a version that lazyci does not know.
    """
    named = environment.get("LAZYCI_NYDUS_IMAGE", "")
    path = shutil.which(named or "nydus-image", path=environment.get("PATH"))
    if path is None:
        where = f"LAZYCI_NYDUS_IMAGE names {named}, which" if named else "nydus-image"
        missing = "cannot be run" if named else "is not in PATH"
        raise ToolError(f"{where} {missing}", hint=HINT)
    path = os.path.abspath(path)
    said = _ask(path, "--version")
    found = re.search(r"Version:\s*v?(\d+)\.(\d+)\.(\d+)", said)
    if found:
        version = (int(found[1]), int(found[2]))
        if version[0] != _MINIMUM[0] or version < _MINIMUM:
            raise ToolError(f"{path} is of version {'.'.join(found.groups())}", hint=HINT)
        return NydusImage(path, ".".join(found.groups()))
    offered = _ask(path, "create", "--help")
    if not re.search(r"Version:\s*unknown", said) or not all(word in offered for word in _NEEDED):
        raise ToolError(f"{path} is no nydus-image that lazyci knows", hint=HINT)
    with open(path, "rb") as program:
        digest = hashlib.sha256()
        while data := program.read(1 << 20):
            digest.update(data)
    return NydusImage(path, f"unknown-{digest.hexdigest()[:12]}")


def _ask(path: str, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{path} cannot be run: {error}", hint=HINT) from error
    return done.stdout[:_KEPT].decode(errors="replace")


@atexit.register
def _kill_all() -> None:
    for process in list(_running):
        with contextlib.suppress(OSError):
            process.kill()
