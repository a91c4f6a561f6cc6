"""Where the Docker daemon listens: what the `docker` command itself would use.

Order as in docker/cli, `cli/command/cli.go` and `cli/context/store`: DOCKER_HOST, DOCKER_CONTEXT,
`currentContext` in config.json, the default socket.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lazyci.errors import ToolError

__all__ = ["DEFAULT", "docker_endpoint"]

DEFAULT = "unix:///var/run/docker.sock"
_MAX_FILE = 4 << 20


def docker_endpoint(environ: Mapping[str, str]) -> str:
    """The address of the daemon: `unix://PATH`, `tcp://HOST:PORT` or what else a user has named.

    Raises:
        ToolError: A context is chosen that cannot be read.
    """
    host = environ.get("DOCKER_HOST", "")
    if host:
        return host
    folder = Path(environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
    name = environ.get("DOCKER_CONTEXT") or str(
        _read(folder / "config.json").get("currentContext") or ""
    )
    if name in ("", "default"):
        return DEFAULT
    # The folder's name is the digest of the context's.
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    try:
        return str(_read(meta)["Endpoints"]["docker"]["Host"]) or DEFAULT
    except (KeyError, TypeError):
        raise ToolError(f"docker's context {name!r} names no daemon") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_FILE), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise ToolError(f"{path}: {error}") from None
