"""Logins that other tools have left: Docker's config.json, containers' auth.json, helpers.

Looked at in this order; the first that has a login for the registry wins:

1. the file that REGISTRY_AUTH_FILE names
2. $DOCKER_CONFIG/config.json, else ~/.docker/config.json
3. $XDG_RUNTIME_DIR/containers/auth.json
4. $XDG_CONFIG_HOME/containers/auth.json, else ~/.config/containers/auth.json

In each file: the helper in `credHelpers`, then the one in `credsStore`, then `auths`; of several
keys in `auths` the one with the longest path (`quay.io/team` before `quay.io`).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lazyci.image.registry.answers import cleaned

__all__ = ["Credential", "Logins"]

_HUB = "docker.io"
# Docker keeps Docker Hub's login under this name.
_HUB_SERVER = "https://index.docker.io/v1/"
_HUB_NAMES = {_HUB, "index.docker.io", "registry-1.docker.io"}
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS = 30
_MAX_FILE = 4 << 20
# What Docker's helpers return as the user of an identity token.
_TOKEN_USER = "<token>"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Credential:
    """A login. Its secrets are in no repr.

    Attributes:
        username: The user.
        password: The password, for basic authentication.
        identity_token: A refresh token, which the token server exchanges.
        registry_token: A bearer token that is sent as it is.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of a header `Authorization`; empty when there is no password."""
        if not self.password:
            return ""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def __bool__(self) -> bool:
        return bool(self.password or self.identity_token or self.registry_token)


class _Entry(msgspec.Struct):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


class _File(msgspec.Struct, rename="camel"):
    auths: dict[str, _Entry] | None = None
    cred_helpers: dict[str, str] | None = None
    creds_store: str | None = None


class _Answer(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


class Logins:
    """The logins of this user.

    Attributes:
        problems: What was wrong with files and helpers that were asked, for error texts.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self.problems: list[str] = []

    def find(self, registry: str, repository: str = "") -> Credential | None:
        """The login for a repository of a registry (HOST[:PORT]), or None."""
        registry = _HUB if registry in _HUB_NAMES else registry
        for path in self._files():
            file = self._read(path)
            found = file and self._look(file, registry, f"{registry}/{repository}")
            if found:
                return found
        return None

    def _files(self) -> Iterator[Path]:
        home = self._environ.get("HOME") or os.path.expanduser("~")
        named = self._environ.get("REGISTRY_AUTH_FILE")
        if named:
            yield Path(named)
        yield Path(self._environ.get("DOCKER_CONFIG") or f"{home}/.docker") / "config.json"
        runtime = self._environ.get("XDG_RUNTIME_DIR")
        if runtime:
            yield Path(runtime) / "containers" / "auth.json"
        config = self._environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        yield Path(config) / "containers" / "auth.json"

    def _read(self, path: Path) -> _File | None:
        try:
            with path.open("rb") as stream:
                body = stream.read(_MAX_FILE)
            return msgspec.json.decode(body, type=_File) if body.strip() else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.problems.append(f"{path} cannot be read: {error.strerror}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            # The error's text may quote the file, which holds secrets.
            self.problems.append(f"{path} is malformed")
        return None

    def _look(self, file: _File, registry: str, name: str) -> Credential | None:
        servers = [_HUB_SERVER, registry] if registry == _HUB else [registry]
        helpers = file.cred_helpers or {}
        chosen = [helpers[key] for key in helpers if _key(key) == registry]
        for helper in [*chosen, *([file.creds_store] if file.creds_store else [])]:
            for server in servers:
                found = self._ask(helper, server)
                if found:
                    return found
        matching = [
            (len(_key(key)), entry)
            for key, entry in (file.auths or {}).items()
            if f"{name}/".startswith(f"{_key(key)}/")
        ]
        for _, entry in sorted(matching, key=lambda pair: -pair[0]):
            found = self._credential(entry)
            if found:
                return found
        return None

    def _credential(self, entry: _Entry) -> Credential | None:
        username, password = entry.username or "", entry.password or ""
        if entry.auth:
            try:
                pair = base64.b64decode(entry.auth.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError):
                self.problems.append("a login in `auths` is not base64")
                return None
            username, _, password = pair.partition(":")
            # Docker pads with NUL.
            password = password.strip("\0")
        identity = entry.identitytoken or ""
        if username == _TOKEN_USER:
            identity, password = identity or password, ""
        return Credential(username, password, identity, entry.registrytoken or "")

    def _ask(self, helper: str, server: str) -> Credential | None:
        """What a helper has for a server (Docker's protocol of credential helpers)."""
        program = f"docker-credential-{helper}"
        path = shutil.which(program, path=self._environ.get("PATH"))
        if not _HELPER.fullmatch(helper) or path is None:
            self.problems.append(f"{program!r:.100} is not in PATH")
            return None
        try:
            done = subprocess.run(  # noqa: S603
                [path, "get"],
                input=server.encode(),
                capture_output=True,
                timeout=_HELPER_SECONDS,
                env=dict(self._environ),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = "does not end" if isinstance(error, subprocess.TimeoutExpired) else "fails"
            self.problems.append(f"{program} {reason}")
            return None
        if done.returncode:
            text = (done.stdout or done.stderr).decode(errors="replace")
            if "credentials not found" not in text and not text.lstrip().startswith("{"):
                self.problems.append(f"{program}: {cleaned(text)}")
            return None
        try:
            answer = msgspec.json.decode(done.stdout[:_MAX_FILE], type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.problems.append(f"{program} answers what is not JSON")
            return None
        if answer.username == _TOKEN_USER:
            return Credential(answer.username, identity_token=answer.secret)
        return Credential(answer.username, answer.secret)


def _key(text: str) -> str:
    """One spelling of a key: no scheme, no API path, Docker Hub by its name."""
    text = text.strip().removeprefix("https://").removeprefix("http://").rstrip("/")
    host, slash, path = text.partition("/")
    host = _HUB if host.lower() in _HUB_NAMES else host.lower()
    return f"{host}/{path}" if slash and path not in ("v1", "v2") else host
