"""The Docker daemon, spoken to by HTTP over its socket.

API: docs.docker.com/reference/api/engine; without a version in the path the daemon uses its newest.
Docker's own library takes 150 ms to import, which is as much as a pull may be slowed down by.
"""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from lazyci.errors import ToolError

__all__ = ["Docker", "Info"]

_SECONDS = 5.0
_MAX_ANSWER = 32 << 20
_CONTAINERD_DRIVER = "io.containerd.snapshotter.v1"


@dataclass(frozen=True, slots=True)
class Info:
    """What the daemon says of itself.

    Attributes:
        version: Of the daemon.
        driver: Storage driver: a snapshotter's name where `uses_containerd`.
        uses_containerd: Whether images lie in containerd's store; only there can a pull be lazy.
        platform: `os/architecture` as images name them.
    """

    version: str
    driver: str
    uses_containerd: bool
    platform: str


class Docker:
    """A daemon.

    Args:
        address: `unix://PATH` or `tcp://HOST:PORT`.

    Raises:
        ToolError: The address is of another kind.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme == "unix" and parts.path:
            self._path, self._host = parts.path, ""
        elif parts.scheme == "tcp" and parts.hostname:
            self._path, self._host = "", parts.netloc
        else:
            raise ToolError(f"lazyci does not speak to a daemon at {parts.scheme or address}:")

    def info(self) -> Info:
        """What the daemon says of itself.

        Raises:
            ToolError: It does not answer.
        """
        said = self._call("GET", "/info")
        machine = str(said.get("Architecture", ""))
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
        drivers = {
            str(row[0]): str(row[1]) for row in said.get("DriverStatus") or [] if len(row) > 1
        }
        return Info(
            str(said.get("ServerVersion", "")),
            str(said.get("Driver", "")),
            drivers.get("driver-type") == _CONTAINERD_DRIVER,
            f"{said.get('OSType', 'linux')}/{architecture}",
        )

    def has(self, image: str) -> bool:
        """Whether there is an image of this name, lazily pulled or not.

        Raises:
            ToolError: The daemon does not answer.
        """
        return self._call("GET", f"/images/{quote(image, safe='')}/json", missing=True) is not None

    def is_whole(self, image: str) -> bool:
        """Whether all layers of an image are in the daemon's store.

        With containerd's store the list holds images whose content is there, and those alone
        (measured with 26.1: a lazily pulled one can be inspected and run, but is not listed);
        from API 1.47 on (Docker 27) each image's manifests say whether theirs is available.

        Raises:
            ToolError: The daemon does not answer.
        """
        query = urlencode({"filters": json.dumps({"reference": [image]}), "manifests": "1"})
        for listed in self._call("GET", f"/images/json?{query}") or []:
            manifests = [one for one in listed.get("Manifests") or [] if one.get("Kind") == "image"]
            if not manifests or any(one.get("Available") for one in manifests):
                return True
        return False

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image one more name.

        Raises:
            ToolError: It cannot be done.
        """
        query = urlencode({"repo": repository, "tag": tag})
        self._call("POST", f"/images/{quote(image, safe='')}/tag?{query}")

    def remove(self, image: str) -> None:
        """Take a name from an image, and the image with its last name.

        Raises:
            ToolError: It cannot be done.
        """
        self._call("DELETE", f"/images/{quote(image, safe='')}", missing=True)

    def _call(self, method: str, path: str, *, missing: bool = False) -> Any:
        connection = (
            _Connection(self._path)
            if self._path
            else http.client.HTTPConnection(self._host, timeout=_SECONDS)
        )
        try:
            connection.request(method, path, headers={"Host": "docker"})
            answer = connection.getresponse()
            body = answer.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise ToolError(f"the Docker daemon does not answer: {error}") from None
        finally:
            connection.close()
        if answer.status == 404 and missing:
            return None
        try:
            said = msgspec.json.decode(body) if body else None
        except msgspec.MsgspecError:
            said = None
        if answer.status >= 300:
            message = said.get("message", "") if isinstance(said, dict) else ""
            raise ToolError(f"the Docker daemon says {answer.status} {str(message)[:500]}")
        return said


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
