"""What a plan tells besides the files: what to know, to restart, to start by hand."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lazyci.agent.setup.host import Host
from lazyci.agent.setup.model import Change, Options
from lazyci.agent.setup.settings import SNAPSHOTTERS, Place

__all__ = ["command", "notes", "restart", "start", "undo_command", "undo_steps"]


def notes(
    options: Options,
    host: Host,
    place: Place,
    daemon: Mapping[str, Any],
    containerd: Mapping[str, Any],
    changes: Sequence[Change],
) -> list[str]:
    """What an operator has to know or do besides the files."""
    told = []
    if options.engine == "docker":
        told += _docker(options, daemon)
    told += _containerd(options, place, containerd)
    told += _credentials(options, host, changes)
    if options.cache_size:
        told.append(
            "neither snapshotter limits its cache: --cache-size is recorded for lazyci's own "
            f"clean-up. Until that runs, `docker image prune` frees it, or a quota on {place.state}"
        )
    return told


def _docker(options: Options, daemon: Mapping[str, Any]) -> list[str]:
    name = SNAPSHOTTERS[options.format].name
    old = daemon.get("storage-driver")
    told = []
    if old and old != name:
        told.append(
            f"storage-driver was {old}: images and containers that are there will not be visible "
            f"under {name}. They stay on disk; pull them again, or take this setup back and "
            "restart Docker, and they are there as before"
        )
    elif not old:
        told.append(
            "images and containers of the storage driver before will not be visible. They stay "
            "on disk; pull them again, or take this setup back and restart Docker"
        )
    if daemon.get("storage-opts"):
        told.append("storage-opts are those of the driver before: see whether dockerd takes them")
    if not options.systemd:
        told.append(
            "dockerd without --containerd starts a containerd of its own and writes its "
            "configuration at each start: start containerd first and name its socket"
        )
    return told


def _containerd(options: Options, place: Place, containerd: Mapping[str, Any]) -> list[str]:
    told = []
    if not place.new and "version" not in containerd:
        told.append(
            "containerd's config.toml has no `version`, which means 1: what is written here is "
            "the same in each version; `containerd config migrate` prints the newest form"
        )
    if (2, 0) <= place.containerd < (2, 1) and options.engine == "containerd":
        told.append("containerd 2.0 is never lazy under nerdctl 2.3; 2.1 is")
    return told


def _credentials(options: Options, host: Host, changes: Sequence[Change]) -> list[str]:
    file = next(change for change in changes if change.file.kind == "private")
    told = []
    if file.before is not None:
        told.append(f"{file.path} is there and stays as it is; it was not read for this plan")
        if options.ecr:
            told.append(f"see that its credHelpers name {', '.join(options.ecr)}: ecr-login")
    elif options.ecr and "credHelpers" not in file.after.decode():
        told.append(
            "docker-credential-ecr-login is not on the PATH: install amazon-ecr-credential-helper "
            f"and put `credHelpers` for {', '.join(options.ecr)} into {file.path}"
        )
    elif not options.ecr:
        told.append(
            "private registries: --ecr names one of ECR; for others log in as root with "
            "`DOCKER_CONFIG=/etc/lazyci/docker docker login REGISTRY`"
        )
    return told


def restart(options: Options) -> tuple[str, ...]:
    """The commands that make new files count, in order."""
    snapshotter = SNAPSHOTTERS[options.format]
    if not options.systemd:
        return ()
    if options.root != Path("/"):
        return (f"systemctl --root={shlex.quote(str(options.root))} enable {snapshotter.unit}",)
    lines = [
        "systemctl daemon-reload",
        f"systemctl enable {snapshotter.unit}",
        f"systemctl restart {snapshotter.unit}",
        "systemctl restart containerd",
    ]
    return (*lines, "systemctl restart docker") if options.engine == "docker" else tuple(lines)


def start(options: Options, host: Host, place: Place) -> tuple[str, ...]:
    """The commands that start the daemons where systemd does not, in order."""
    snapshotter = SNAPSHOTTERS[options.format]
    socket = snapshotter.socket
    folder = socket.rpartition("/")[0]
    lines = [
        f"mkdir -p {folder} {shlex.quote(place.state)}",
        f"rm -f {socket}",
        f"DOCKER_CONFIG=/etc/lazyci/docker {command(options, host, place)} &",
        f"until [ -S {socket} ]; do sleep 0.1; done",
        "containerd &",
        "until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done",
    ]
    if options.engine == "docker":
        lines.append("dockerd --containerd /run/containerd/containerd.sock &")
    return tuple(lines)


def command(options: Options, host: Host, place: Place) -> str:
    """The command that starts the snapshotter."""
    snapshotter = SNAPSHOTTERS[options.format]
    program = host.which(snapshotter.program) or f"/usr/local/bin/{snapshotter.program}"
    line = f"{program} --config {snapshotter.config}"
    # nydus-snapshotter reads both from its configuration.
    if options.format == "estargz":
        line += f" --address {snapshotter.socket} --root {place.state} --log-level info"
    return line


def undo_steps(units: Sequence[str]) -> tuple[str, ...]:
    """The commands that make an undo count, in order.

    Args:
        units: Names of the units that were taken away.
    """
    if not units:
        return ("restart containerd and Docker",)
    names = " ".join(units)
    return (
        f"systemctl disable {names}",
        "systemctl daemon-reload",
        "systemctl restart containerd docker",
        # Last: what still has a lazy mount reads through it.
        f"systemctl stop {names}",
    )


def undo_command(options: Options) -> str:
    """The command that takes a setup back."""
    root = "" if options.root == Path("/") else f" --root {shlex.quote(str(options.root))}"
    return f"lazyci agent setup --undo --apply{root}"
