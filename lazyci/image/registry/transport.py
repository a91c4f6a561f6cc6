"""Exchanges from any thread, on a pool of libcurl handles whose connections are kept."""

from __future__ import annotations

import os
import threading
from urllib.parse import urlsplit

import pycurl

from lazyci import __version__
from lazyci.errors import RegistryError
from lazyci.image.registry.answers import Answer
from lazyci.image.registry.clock import Clock
from lazyci.image.registry.exchange import Body, Exchange, Lane, Request, Timeouts
from lazyci.image.registry.hosts import Hosts

__all__ = ["Transport"]

# What libcurl reads from a socket at once; with more, its turns get long and pieces large.
_BUFFER = 128 << 10
_SEND_BUFFER = 512 << 10
# Bytes of a request's body that make it a large one.
_BULK = 1 << 20


class Transport:
    """A pool of lanes."""

    def __init__(
        self, hosts: Hosts, clock: Clock | None = None, timeouts: Timeouts | None = None
    ) -> None:
        self._hosts = hosts
        self._clock = clock or Clock()
        self._timeouts = timeouts or Timeouts()
        self._lock = threading.Lock()
        self._idle: list[Lane] = []
        self._wake = os.pipe()
        self._busy = 0
        self._closed = threading.Event()

    def exchange(self, request: Request) -> Answer:
        """Send a request, once, and read its answer; redirects are not followed.

        Raises:
            BrokenError: There was no whole answer; another try may get one.
            RegistryError: No other try will.
            ImageError: The answer is larger than the limit.
        """
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(request.url))
        lane = self._borrow(origin)
        try:
            self._set_up(lane.easy, request)
            return Exchange(lane, request, self._clock, self._timeouts, self._closed).run(
                self._wake[0]
            )
        finally:
            lane.easy.reset()
            self._give_back(lane)

    @property
    def closed(self) -> bool:
        """Whether all exchanges have ended for good."""
        return self._closed.is_set()

    def close(self) -> None:
        """End all exchanges, those of other threads too."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            os.write(self._wake[1], b"x")
            self._end_idle()

    def _borrow(self, origin: str) -> Lane:
        with self._lock:
            if self._closed.is_set():
                raise RegistryError("the connection to the registry is closed")
            self._busy += 1
            for lane in reversed(self._idle):
                if origin in lane.origins:
                    self._idle.remove(lane)
                    return lane
            lane = self._idle.pop() if self._idle else Lane()
            lane.origins.add(origin)
            return lane

    def _give_back(self, lane: Lane) -> None:
        with self._lock:
            self._busy -= 1
            self._idle.append(lane)
            if self._closed.is_set():
                self._end_idle()

    def _end_idle(self) -> None:
        for lane in self._idle:
            lane.easy.close()
            lane.multi.close()
        self._idle.clear()
        if not self._busy:
            for end in self._wake:
                os.close(end)

    def _set_up(self, easy: pycurl.Curl, request: Request) -> None:
        options = {
            pycurl.URL: request.url,
            pycurl.NOSIGNAL: 1,
            pycurl.NOPROGRESS: 1,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.HTTP_VERSION: _version(request),
            pycurl.USERAGENT: f"lazyci/{__version__}",
            pycurl.CONNECTTIMEOUT_MS: int(self._timeouts.connect * 1000),
            pycurl.TCP_KEEPALIVE: 1,
            pycurl.BUFFERSIZE: _BUFFER,
            pycurl.UPLOAD_BUFFERSIZE: _SEND_BUFFER,
            pycurl.PATH_AS_IS: 1,
            # No waiting for `100 Continue`, which registries do not send.
            pycurl.HTTPHEADER: [*request.headers, "Expect:"],
        }
        proxy = self._hosts.proxy(request.url)
        if proxy is not None:
            options[pycurl.PROXY] = proxy
        if request.url.startswith("https:"):
            options |= self._tls(urlsplit(request.url).netloc)
        for option, value in options.items():
            easy.setopt(option, value)
        _set_method(easy, request)

    def _tls(self, host: str) -> dict[int, object]:
        trust = self._hosts.trust(host)
        options: dict[int, object] = {pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2}
        if trust.extra:
            options[pycurl.CAINFO_BLOB] = trust.extra
        elif trust.bundle:
            options[pycurl.CAINFO] = trust.bundle
        if trust.folder:
            options[pycurl.CAPATH] = trust.folder
        if trust.certificate:
            options |= {pycurl.SSLCERT: trust.certificate, pycurl.SSLKEY: trust.key}
        return options


def _version(request: Request) -> int:
    """HTTP/2 where TLS offers it, but HTTP/1.1 for large bodies."""
    body = request.body
    size = body.size if isinstance(body, Body) else len(body or b"")
    large = request.bulk or size >= _BULK
    return pycurl.CURL_HTTP_VERSION_1_1 if large else pycurl.CURL_HTTP_VERSION_2TLS


def _set_method(easy: pycurl.Curl, request: Request) -> None:
    body = request.body
    if isinstance(body, Body):
        body.file.seek(0)
        easy.setopt(pycurl.UPLOAD, 1)
        easy.setopt(pycurl.INFILESIZE_LARGE, body.size)
        easy.setopt(pycurl.READFUNCTION, body.file.read)
        # libcurl goes back to the start when a kept connection turns out to be dead.
        easy.setopt(pycurl.SEEKFUNCTION, lambda to, origin: body.file.seek(to, origin) and 0)
    elif body is not None or request.method == "POST":
        easy.setopt(pycurl.POST, 1)
        # Sent from this memory, without a copy.
        easy.setopt(pycurl.POSTFIELDS, body or b"")
    elif request.method == "HEAD":
        easy.setopt(pycurl.NOBODY, 1)
    easy.setopt(pycurl.CUSTOMREQUEST, request.method)
