"""Plans a setup: reads what is there and makes what will be there. Nothing is written."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lazyci.agent.setup import jsonfile, tomlfile
from lazyci.agent.setup.host import Host, containerd_version, refuse
from lazyci.agent.setup.model import Change, File, Options, Plan
from lazyci.agent.setup.paths import decoded, inside, read
from lazyci.agent.setup.settings import (
    NYDUSD_CONFIG,
    NYDUSD_START,
    SNAPSHOTTERS,
    Place,
    settings_of,
)
from lazyci.agent.setup.steps import command, notes, restart, start, undo_command
from lazyci.agent.setup.templates import render
from lazyci.errors import ToolError

__all__ = ["CONTAINERD", "CREDENTIALS", "DAEMON", "SETUP", "make_plan"]

CONTAINERD = "/etc/containerd/config.toml"
DAEMON = "/etc/docker/daemon.json"
CREDENTIALS = "/etc/lazyci/docker/config.json"
SETUP = "/etc/lazyci/setup.json"
ECR_HELPER = "docker-credential-ecr-login"
# nydus-snapshotter, config.go: MaxRootPathLen, so that sockets below it fit into sun_path.
_MAX_STATE_PATH = 70


def make_plan(options: Options, host: Host) -> Plan:
    """Plan a setup.

    Args:
        options: What was asked for.
        host: The host.

    Returns:
        Every file with its bytes before and after.

    Raises:
        ToolError: The host is refused, with the reason.
        InputError: A file there cannot be read or is malformed.
    """
    daemon = jsonfile.load(_text(options, DAEMON), _shown(options, DAEMON))
    told = refuse(options, host, daemon if options.engine == "docker" else {})
    text = _text(options, CONTAINERD)
    containerd = tomlfile.load(text, _shown(options, CONTAINERD))
    place = _place(options, host, daemon, containerd, new=not text.strip())
    files = [change(options, file, _before(options, file)) for file in _files(options, host, place)]
    told += _imported(options, containerd, place)
    told += notes(options, host, place, daemon, containerd, files)
    pending = [each for each in files if each.state != "unchanged"]
    return Plan(
        options,
        tuple(files),
        tuple(told),
        restart(options) if pending or options.offline else (),
        start(options, host, place) if not options.systemd else (),
        undo_command(options) if pending else "",
    )


def change(options: Options, file: File, before: bytes | None) -> Change:
    """What becomes of one file.

    Raises:
        InputError: It is malformed.
    """
    if file.kind in ("private", "text"):
        return Change(file, before, file.text.encode())
    shown = _shown(options, file.path)
    old = decoded(before or b"", shown)
    module = tomlfile if file.kind == "toml" else jsonfile
    begin = old if old.strip() or file.kind == "json" else file.text + old
    new, touched = module.merge(begin, file.settings, shown)
    data = module.load(new, shown)
    kept = [
        (each, value)
        for each in file.settings
        if not each.firm and (value := _value(data, each.key)) != each.value
    ]
    return Change(file, before, new.encode(), tuple(touched), tuple(kept))


def _before(options: Options, file: File) -> bytes | None:
    if file.kind == "private":
        return b"" if inside(options.root, file.path).exists() else None
    return read(options.root, file.path)


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(data: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else ()


def _value(data: Any, key: Sequence[str]) -> Any:
    for name in key:
        data = data[name]
    return data


def _place(
    options: Options,
    host: Host,
    daemon: Mapping[str, Any],
    containerd: Mapping[str, Any],
    new: bool,
) -> Place:
    version = containerd_version(options, host)
    base = options.data_root
    if not base and options.engine == "docker":
        base = str(daemon.get("data-root") or "/var/lib/docker")
    elif not base:
        base = str(containerd.get("root") or "/var/lib/containerd")
    state = f"{base.rstrip('/')}/lazyci/{options.format}"
    # It stands in a unit and in scripts.
    if not re.fullmatch(r"/[A-Za-z0-9._/-]+", state) or len(state) > _MAX_STATE_PATH:
        raise ToolError(
            f"{state} cannot hold the snapshotter's state",
            hint=f"An absolute path of at most {_MAX_STATE_PATH} bytes, without blanks and quotes; "
            "--data-root names another.",
        )
    plugins = _table(containerd, "plugins")
    disabled = {str(name).rpartition(".")[2] for name in _list(containerd, "disabled_plugins")}
    unpacks = _list(_table(plugins, "io.containerd.transfer.v1.local"), "unpack_config")
    return Place(
        state=state,
        platform=host.platform,
        containerd=version,
        version=(2 if version < (2, 0) else 3) if new else containerd.get("version", 1),
        new=new,
        cri="cri" not in disabled and any("cri" in name.split(".") for name in plugins),
        unpacks=any(each.get("snapshotter") == "overlayfs" for each in unpacks),
    )


def _files(options: Options, host: Host, place: Place) -> Iterator[File]:
    """The files in the order in which they are written: what others rely on comes first."""
    snapshotter = SNAPSHOTTERS[options.format]
    header = "# Written by `lazyci agent setup`. Other keys may be added; they stay.\n"
    if options.format == "nydus":
        yield File(
            NYDUSD_CONFIG,
            "json",
            "what every nydusd begins with",
            settings_of("nydusd", options, place),
        )
        yield File(
            NYDUSD_START,
            "text",
            "starts nydusd so that it checks the digest of every chunk, and where the limit of "
            "open files cannot be raised",
            text=render("nydusd.sh.j2", nydusd=host.which("nydusd") or "/usr/local/bin/nydusd"),
            mode=0o755,
        )
    yield File(
        snapshotter.config,
        "toml",
        f"the configuration of {snapshotter.program}",
        settings_of(snapshotter.name, options, place),
        text=header,
    )
    yield _credentials(options, host)
    if options.systemd:
        yield _unit(options, host, place)
    yield File(
        CONTAINERD,
        "toml",
        "makes the snapshotter known to containerd",
        settings_of("containerd", options, place),
    )
    if options.engine == "docker":
        yield File(
            DAEMON,
            "json",
            "makes Docker pull through the snapshotter",
            settings_of("docker", options, place),
        )
    yield _setup(options, place)


def _credentials(options: Options, host: Host) -> File:
    helpers = {}
    if host.which(ECR_HELPER):
        helpers = {name: ECR_HELPER.removeprefix("docker-credential-") for name in options.ecr}
    data = {"credHelpers": helpers} if helpers else {}
    return File(
        CREDENTIALS,
        "private",
        "the snapshotter's own credentials, which Docker's login does not reach",
        text=json.dumps(data, indent=2) + "\n",
        mode=0o600,
    )


def _unit(options: Options, host: Host, place: Place) -> File:
    snapshotter = SNAPSHOTTERS[options.format]
    folder = snapshotter.socket.rpartition("/")[0]
    return File(
        f"/etc/systemd/system/{snapshotter.unit}",
        "text",
        "starts the snapshotter before the engines, and again when it dies",
        text=render(
            "snapshotter.service.j2",
            title=f"{snapshotter.name} snapshotter",
            runtime=folder.removeprefix("/run/"),
            socket=snapshotter.socket,
            command=command(options, host, place),
        ),
    )


def _setup(options: Options, place: Place) -> File:
    snapshotter = SNAPSHOTTERS[options.format]
    data: dict[str, Any] = {
        "format": options.format,
        "engine": options.engine,
        "snapshotter": snapshotter.name,
        "socket": snapshotter.socket,
        "state": place.state,
    }
    if options.cache_size:
        data["cache-size"] = options.cache_size
    text = json.dumps(data, indent=2) + "\n"
    return File(SETUP, "text", "what other parts of lazyci need to know of this agent", text=text)


def _imported(options: Options, containerd: Mapping[str, Any], place: Place) -> list[str]:
    """What files say that containerd reads after this one and that would win over it."""
    name = SNAPSHOTTERS[options.format].name
    said = []
    for pattern in _list(containerd, "imports"):
        # A relative pattern is taken from the importing file: containerd's resolveImports.
        whole = str(Path(CONTAINERD).parent / str(pattern))
        for found in sorted(glob.glob(str(options.root) + whole)):
            path = found.removeprefix(str(options.root).rstrip("/"))
            data = tomlfile.load(_text(options, path), found)
            if name in _table(data, "proxy_plugins"):
                said.append(
                    f"{path} is imported and has `proxy_plugins.{name}` too, which wins over "
                    f"{CONTAINERD}: take it out there"
                )
    return said


def _text(options: Options, path: str) -> str:
    return decoded(read(options.root, path) or b"", _shown(options, path))


def _shown(options: Options, path: str) -> str:
    return str(options.root / path.lstrip("/"))
