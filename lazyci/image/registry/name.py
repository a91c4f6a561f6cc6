"""References to images in registries, taken apart by the rules of the distribution project.

`lazyci.reference` reads what stands in pipelines, with variables in it, and never fails; here a
reference is complete, and what the grammar does not allow is an error.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from lazyci.errors import InputError

__all__ = ["Name", "check_reference", "is_loopback", "parse", "split_host"]

_MAX_PATH = 255
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_HEX = re.compile(r"[0-9a-f]{64}")

# Docker Hub's registry has another host than its name.
_HUB, _HUB_HOST = "docker.io", "registry-1.docker.io"
_HUB_NAMES = (_HUB, "index.docker.io", _HUB_HOST)


@dataclass(frozen=True, slots=True)
class Name:
    """An image in a registry.

    Attributes:
        registry: HOST[:PORT] as people write it: `docker.io`.
        host: HOST[:PORT] that is spoken to, in lower case: `registry-1.docker.io`.
        repository: The path: `library/debian`.
        tag: The tag, or an empty text.
        digest: The digest, or an empty text.
    """

    registry: str
    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def reference(self) -> str:
        """What to ask the repository for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse(text: str) -> Name:
    """Take a complete reference apart: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.

    The first part is a host when it holds a dot, a colon or a capital letter, or is `localhost`;
    all else is on Docker Hub, in `library/` when it is one part only.

    Raises:
        InputError: It is no such reference.
    """
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _refused(text, f"{digest!r:.150} is not a sha256 or sha512 digest")
    first, slash, path = rest.partition("/")
    if slash and (set(".:[") & set(first) or first == "localhost" or first != first.lower()):
        registry, rest = first, path
        _check_host(text, registry)
    else:
        registry = _HUB
    path, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _refused(text, f"{tag!r:.150} is not a tag: up to 128 letters, digits, `_`, `.`, `-`")
    host = registry.lower()
    if host in _HUB_NAMES:
        registry, host = _HUB, _HUB_HOST
        path = path if "/" in path else f"library/{path}"
    _check_path(text, path)
    return Name(registry, host, path, tag, digest)


def check_reference(text: str) -> str:
    """Return a tag or digest.

    Raises:
        InputError: It is neither.
    """
    if not _TAG.fullmatch(text) and not _DIGEST.fullmatch(text):
        raise InputError(f"{text!r:.150} is neither a tag nor a digest")
    return text


def split_host(host: str) -> tuple[str, str]:
    """Split `HOST[:PORT]`; an IPv6 address comes without its brackets."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, ""
    return name.removeprefix("[").removesuffix("]"), port


def is_loopback(host: str) -> bool:
    """Whether `HOST[:PORT]` can only mean this machine: 127.0.0.0/8, ::1, localhost."""
    name = split_host(host)[0].removesuffix(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _check_host(text: str, host: str) -> None:
    name, port = split_host(host)
    good = _HOST.fullmatch(host) is not None and len(name) <= _MAX_PATH
    if good and host.startswith("["):
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            good = False
    if good and port:
        good = 0 < int(port) <= 65535
    if not good:
        raise _refused(text, f"{host!r:.150} is not HOST or HOST:PORT")


def _check_path(text: str, path: str) -> None:
    if path != path.lower():
        raise _refused(text, "the repository's name must be lower case")
    if len(path) > _MAX_PATH:
        raise _refused(text, f"the repository's name is longer than {_MAX_PATH} characters")
    if not _PATH.fullmatch(path):
        raise _refused(text, f"{path!r:.150} is not the name of a repository")
    if _HEX.fullmatch(path.removeprefix("library/")):
        raise _refused(text, "64 hexadecimal digits are an image's ID, not a name")


def _refused(text: str, reason: str) -> InputError:
    return InputError(f"{text!r:.300} is not an image reference: {reason}")
