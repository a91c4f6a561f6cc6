"""A registry that does what a test tells it, also what no registry should do."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lazyci.image.registry.clock import Clock
from lazyci.image.registry.credentials import Logins
from lazyci.image.registry.exchange import Timeouts
from lazyci.image.registry.hosts import Hosts
from lazyci.image.registry.name import parse
from lazyci.image.registry.opening import open_name
from lazyci.image.registry.repository import RegistryRepository


@dataclass
class Call:
    """One request, and the means to answer it."""

    handler: BaseHTTPRequestHandler
    method: str = ""
    path: str = ""
    query: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.handler.path)
        self.method, self.path = self.handler.command, parts.path
        self.query = parse_qs(parts.query)
        self._left = int(self.handler.headers.get("Content-Length") or 0)

    def header(self, name: str) -> str:
        return str(self.handler.headers.get(name, ""))

    def body(self, most: int | None = None) -> bytes:
        """The body, or up to so many bytes of it; each byte once."""
        size = self._left if most is None else min(most, self._left)
        self._left -= size
        return self.handler.rfile.read(size)

    def reply(
        self, status: int, body: bytes = b"", length: int | None = None, **headers: str
    ) -> None:
        """Answer; underscores in names of headers become hyphens."""
        self.body()
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", str(len(body) if length is None else length))
        self.handler.end_headers()
        if self.method != "HEAD":
            self.handler.wfile.write(body)

    def json(self, value: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.reply(status, body, None, **{"Content_Type": "application/json", **headers})

    def reset(self) -> None:
        """Cut the connection so that the other side gets an error at once."""
        self.handler.wfile.flush()
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handler.close_connection = True
        connection.close()


class Scripted:
    """A server at `host`; `calls` has each request as (method, path, Authorization)."""

    def __init__(self, host: str, scheme: str) -> None:
        self.host, self.url = host, f"{scheme}://{host}"
        self.calls: list[tuple[str, str, str]] = []
        self.errors: list[Exception] = []
        self.repositories: list[RegistryRepository] = []
        self.script: Callable[[Call], None] = lambda call: call.reply(404)
        # Set at the end: what stalls ends then.
        self.over = threading.Event()

    def asked(self, method: str) -> list[str]:
        return [path for found, path, _ in self.calls if found == method]


@contextlib.contextmanager
def scripted(
    script: Callable[[Call], None] | None = None, certificate: tuple[Path, Path] | None = None
) -> Iterator[Scripted]:
    """Serve a script on the loopback, over TLS with a certificate and its key."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            call = Call(self)
            server.calls.append((call.method, call.path, call.header("Authorization")))
            try:
                server.script(call)
            except (OSError, ValueError):
                # The other side is gone, or this one has hung up.
                self.close_connection = True
            except Exception as error:
                server.errors.append(error)
                raise

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as listener:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            listener.socket = context.wrap_socket(
                listener.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if certificate else "http"
        server = Scripted(f"127.0.0.1:{listener.server_port}", scheme)
        if script is not None:
            server.script = script
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            for repository in server.repositories:
                repository.close()
            listener.shutdown()
            thread.join()
        # What a script itself got wrong.
        for error in server.errors:
            raise error


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = folder / "ca.crt", folder / "ca.key"
    command = (
        "openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 "
        "-subj /CN=lazyci -addext subjectAltName=IP:127.0.0.1 -out ca.crt -keyout ca.key"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return certificate, key


class FakeTime:
    """A clock whose waits are noted and take no time."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.at = 1_800_000_000.0
        self.clock = Clock(lambda: self.at, self.monotonic, lambda: 1.0, self.sleep)

    def monotonic(self) -> float:
        # Real seconds pass too, so that stalls are seen.
        return time.monotonic() + self.at

    def sleep(self, seconds: float, ended: Callable[[], bool]) -> None:
        del ended
        self.waited.append(seconds)
        self.at += seconds


def opened(
    server: Scripted,
    repository: str = "team/app",
    *,
    faked: FakeTime | None = None,
    login: dict[str, Any] | None = None,
    home: Path | None = None,
    certificates: Path | None = None,
    timeouts: Timeouts | None = None,
) -> RegistryRepository:
    """A repository on a server, with a login of its own and without this machine's."""
    environ = {"HOME": str(home or "/nonexistent"), "PATH": ""}
    if login is not None:
        assert home is not None
        (home / ".docker").mkdir(parents=True, exist_ok=True)
        (home / ".docker" / "config.json").write_text(json.dumps({"auths": {server.host: login}}))
    found = open_name(
        parse(f"{server.host}/{repository}"),
        hosts=Hosts(environ, [str(certificates)] if certificates else []),
        logins=Logins(environ),
        clock=(faked or FakeTime()).clock,
        timeouts=timeouts,
    )
    server.repositories.append(found)
    return found
