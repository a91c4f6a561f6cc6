"""The host that is set up, and why some hosts are refused."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazyci.agent.setup.model import Options
from lazyci.agent.setup.settings import SNAPSHOTTERS
from lazyci.errors import ToolError

__all__ = ["MINIMUM_KERNEL", "Host", "containerd_version", "refuse"]

# Several lower folders of an overlay: containerd's README ("a minimum 4.x kernel") and its
# overlayutils.SupportsMultipleLowerDir. FUSE asks for less: go-fuse for 7.12 (Linux 2.6.31),
# fuse-backend-rs for none. 5.11 is for overlays in a user namespace, which is rootless.
MINIMUM_KERNEL = (4, 0)
_FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7"}


@dataclass(frozen=True)
class Host:
    """What a setup has to know of a host.

    Attributes:
        system: `Linux`.
        kernel: Version of the kernel, as it names itself.
        machine: Architecture, as the kernel names it.
        uid: Who runs this.
        has_fuse: Whether /dev/fuse is there.
        environment: The environment variables.
        which: Path of a program by its name; empty when it is missing.
        run: What a program prints; empty when it fails.
    """

    system: str
    kernel: str
    machine: str
    uid: int
    has_fuse: bool
    environment: Mapping[str, str]
    which: Callable[[str], str]
    run: Callable[[str, str], str]

    @classmethod
    def here(cls, root: Path) -> Host:
        """This host, with the programs that stand below `root`."""
        return cls(
            platform.system(),
            platform.release(),
            platform.machine(),
            os.geteuid(),
            Path("/dev/fuse").exists(),
            os.environ,
            _which_here if root == Path("/") else lambda name: _which_below(root, name),
            _run if root == Path("/") else lambda *_: "",
        )

    @property
    def platform(self) -> str:
        """`linux/amd64`, as containerd names it."""
        return f"linux/{_MACHINES.get(self.machine, self.machine)}"


def _which_here(name: str) -> str:
    return shutil.which(name) or ""


def _which_below(root: Path, name: str) -> str:
    return next((f"/{f}/{name}" for f in _FOLDERS if (root / f / name).exists()), "")


def _run(program: str, argument: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            [program, argument], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def containerd_version(options: Options, host: Host) -> tuple[int, int]:
    """Version of containerd, as given or as it says itself.

    Raises:
        ToolError: Neither gives one, or it is older than 1.7.
    """
    text = options.containerd
    if not text:
        program = host.which("containerd")
        # "containerd github.com/containerd/containerd/v2 2.1.9 REVISION": the path has a version,
        # too.
        said = host.run(program, "--version").split() if program else []
        text = next((word for word in said if re.match(r"v?\d+\.\d", word)), "")
    found = re.match(r"v?(\d+)\.(\d+)", text)
    if not found:
        raise ToolError(
            "the version of containerd is not known",
            hint="Name it: --containerd-version 2.1. Its settings differ by version.",
        )
    version = int(found[1]), int(found[2])
    if version < (1, 7):
        raise ToolError(
            f"containerd {text} is too old: 1.7 is the oldest that was tried with lazy images",
            hint="Docker 24 and later come with it.",
        )
    return version


def refuse(options: Options, host: Host, daemon: Mapping[str, Any]) -> list[str]:
    """Refuse a host on which nothing can be lazy, or that may not be changed.

    Args:
        options: What was asked for.
        host: The host.
        daemon: What stands in Docker's daemon.json.

    Returns:
        What is missing, where files are made for another host or a later start.

    Raises:
        ToolError: With the reason.
    """
    here = options.root == Path("/")
    if host.system != "Linux":
        raise ToolError(
            f"agents are set up on Linux only, this is {host.system}",
            hint="Lazy images are mounted by FUSE and overlayfs.",
        )
    if options.engine == "docker":
        _refuse_docker(host, daemon, here)
    if options.apply and here and host.uid != 0:
        raise ToolError(
            "only root may change the files of the engines",
            hint="Run it with sudo; --root DIR writes below a folder of your own.",
        )
    if here and not options.offline:
        _refuse_kernel(host)
    return _missing(options, host, may_miss=options.offline or not here)


def _refuse_docker(host: Host, daemon: Mapping[str, Any], here: bool) -> None:
    if daemon.get("userns-remap"):
        raise ToolError(
            "Docker maps users to others (userns-remap in daemon.json)",
            hint="The containerd image store does not work with it, and only that store is lazy. "
            "Take userns-remap out, or leave this agent with regular pulls.",
        )
    address = host.environment.get("DOCKER_HOST", "")
    if here and address.startswith("unix:///run/user/"):
        raise ToolError(
            f"Docker runs rootless here (DOCKER_HOST={address})",
            hint="A snapshotter of its own would have to run inside its user namespace. "
            "Unset DOCKER_HOST when it is the Docker of root that you mean.",
        )


def _refuse_kernel(host: Host) -> None:
    found = re.match(r"(\d+)\.(\d+)", host.kernel)
    if found and (int(found[1]), int(found[2])) < MINIMUM_KERNEL:
        raise ToolError(
            f"the kernel {host.kernel} is too old: {'.'.join(map(str, MINIMUM_KERNEL))} is needed",
            hint="overlayfs must take several lower folders (containerd's README).",
        )
    if not host.has_fuse:
        raise ToolError(
            "/dev/fuse is missing",
            hint="Run `modprobe fuse`; in a container add --privileged or --device /dev/fuse.",
        )


def _missing(options: Options, host: Host, may_miss: bool) -> list[str]:
    snapshotter = SNAPSHOTTERS[options.format]
    missing = [name for name in (snapshotter.program, *snapshotter.needs) if not host.which(name)]
    if not missing:
        return []
    where = "" if options.root == Path("/") else f" below {options.root}"
    text = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on the PATH{where}"
    hint = f"From {snapshotter.source}, into /usr/local/bin."
    if not may_miss:
        raise ToolError(text, hint=hint)
    return [f"{text}. {hint}"]
