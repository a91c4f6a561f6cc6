"""One HTTP exchange on one libcurl handle.

The body of an answer is collected by `list.append`, without a line of Python per 16 KiB that
libcurl hands over, and passed on in pieces of about 1 MiB between two of libcurl's turns. Measured
on 2 cores: half the CPU time of a callback per 16 KiB.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

import pycurl

from lazyci.errors import ImageError, RegistryError
from lazyci.image.registry.answers import Answer, cleaned, described
from lazyci.image.registry.clock import BrokenError, Clock
from lazyci.image.store import Sink

__all__ = ["Body", "Exchange", "Lane", "Receive", "Request", "Timeouts"]

# Takes an answer without its body, and returns what takes the body.
Receive = Callable[[Answer], Sink]

_PIECE = 1 << 20
# Of an error's body, that much is read.
_MAX_ERROR = 64 << 10
# Milliseconds until a request to stop is seen.
_LONGEST_WAIT = 250

# Failures that another try cannot mend: wrong certificates and settings.
_FINAL = {
    pycurl.E_UNSUPPORTED_PROTOCOL,
    pycurl.E_URL_MALFORMAT,
    pycurl.E_PEER_FAILED_VERIFICATION,
    pycurl.E_SSL_CERTPROBLEM,
    pycurl.E_SSL_CACERT_BADFILE,
    pycurl.E_OUT_OF_MEMORY,
}
_TLS_HINT = (
    "A registry with certificates of its own needs them in /etc/docker/certs.d/HOST:PORT/ca.crt, "
    "or in the file that SSL_CERT_FILE names."
)


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body that is a file, sent from its start.

    Attributes:
        file: The open file; nobody else uses it meanwhile.
        size: Its size in bytes.
    """

    file: IO[bytes]
    size: int


@dataclass(frozen=True, slots=True)
class Request:
    """What to send, and where the answer's body goes.

    Attributes:
        method: GET, HEAD, POST, PATCH, PUT or DELETE.
        url: Where to.
        headers: `Name: value`, in order.
        body: Its body.
        receive: Called with an answer of success when its body begins; returns what takes the
            body. Without it the answer holds its body.
        limit: The most bytes that an answer may hold.
        patience: Seconds that the registry may take to answer when all has been sent; 0: as usual.
        stop: Ends the exchange when it is set.
        bulk: Whether the answer is large. Large bodies go over HTTP/1.1, which takes half the CPU
            time of HTTP/2 (measured over TLS: 0.67 against 1.4 s per GiB); nothing is lost, since
            each exchange has a connection of its own.
    """

    method: str
    url: str
    headers: Sequence[str] = ()
    body: bytes | Body | None = None
    receive: Receive | None = None
    limit: int = 8 << 20
    patience: float = 0.0
    stop: threading.Event | None = None
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Timeouts:
    """When to give an exchange up.

    Attributes:
        connect: Seconds for name, connection and TLS.
        stall: Seconds within which `least` bytes must move, in either direction.
        least: Bytes; a transfer that is slower counts as stalled.
        answer: Seconds until the answer begins when all has been sent.
    """

    connect: float = 15.0
    stall: float = 30.0
    least: int = 16 << 10
    answer: float = 60.0


@dataclass(eq=False, slots=True)
class Lane:
    """A libcurl handle and its connections; `origins` says where to."""

    multi: pycurl.CurlMulti = field(default_factory=pycurl.CurlMulti)
    easy: pycurl.Curl = field(default_factory=pycurl.Curl)
    origins: set[str] = field(default_factory=set)


class Exchange:
    """A request that is being sent, once."""

    def __init__(
        self,
        lane: Lane,
        request: Request,
        clock: Clock,
        timeouts: Timeouts,
        closed: threading.Event,
    ) -> None:
        self._lane, self._request, self._clock, self._timeouts = lane, request, clock, timeouts
        self._closed = closed
        self._lines: list[bytes] = []
        self._pieces: list[bytes] = []
        self._held = 0
        self._received = 0
        self._whole: list[bytes] = []
        self._sink: Sink | None = None
        body = request.body
        self._to_send = body.size if isinstance(body, Body) else len(body or b"")
        # When, and after how many bytes, the transfer was last seen to move.
        self._moved_at, self._moved = clock.monotonic(), 0

    def run(self, wake: int) -> Answer:
        """Send it and read the answer; what is written to `wake` ends a wait."""
        multi, easy = self._lane.multi, self._lane.easy
        easy.setopt(pycurl.WRITEFUNCTION, self._pieces.append)
        easy.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        multi.add_handle(easy)
        try:
            running = 1
            while running:
                _, running = multi.perform()
                if not self._take(last=not running):
                    break
                if running:
                    self._watch()
                    _wait(multi, wake)
            _, _, failed = multi.info_read()
            status = int(easy.getinfo(pycurl.RESPONSE_CODE))
            for _, code, text in failed:
                raise self._failed(code, text)
        finally:
            multi.remove_handle(easy)
        answer = self._answer(status)
        if answer.good and self._request.receive is not None and self._sink is None:
            self._request.receive(answer)
        return answer

    def _answer(self, status: int) -> Answer:
        return Answer.parse(self._request.url, status, self._lines, b"".join(self._whole))

    def _take(self, *, last: bool) -> bool:
        """Pass on what libcurl has received; False: an error's body has said enough."""
        size = sum(map(len, self._pieces))
        if size < _PIECE and not (last and size):
            return True
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._received += size
        status = int(self._lane.easy.getinfo(pycurl.RESPONSE_CODE))
        good = 200 <= status < 300
        receive = self._request.receive
        if good and receive is not None:
            if self._sink is None:
                self._sink = receive(self._answer(status))
            # However long it takes: what came before it counts as movement after it.
            self._sink(data)
            return True
        self._held += size
        if good and self._held > self._request.limit:
            raise ImageError(
                f"{self._what()}: the answer is larger than {self._request.limit} bytes"
            )
        self._whole.append(data if good else data[:_MAX_ERROR])
        return good

    def _watch(self) -> None:
        stop = self._request.stop
        if self._closed.is_set() or (stop is not None and stop.is_set()):
            raise RegistryError(f"{self._what()}: ended from this side")
        sent = int(self._lane.easy.getinfo(pycurl.SIZE_UPLOAD_T))
        moved = self._received + sum(map(len, self._pieces)) + sent
        now = self._clock.monotonic()
        begun = int(self._lane.easy.getinfo(pycurl.RESPONSE_CODE)) >= 200
        if moved - self._moved >= self._timeouts.least:
            self._moved_at, self._moved = now, moved
        sending = sent < self._to_send
        longest = self._timeouts.stall if begun or sending else self._patience()
        if now - self._moved_at > longest:
            raise BrokenError(f"{self._what()}: the transfer stalled for {longest:.0f} s")

    def _patience(self) -> float:
        return max(self._request.patience, self._timeouts.answer)

    def _what(self) -> str:
        return described(self._request.method, self._request.url)

    def _failed(self, code: int, text: str) -> RegistryError:
        message = f"{self._what()}: {cleaned(text or f'libcurl error {code}')}"
        if code in _FINAL:
            tls = code == pycurl.E_PEER_FAILED_VERIFICATION
            return RegistryError(message, hint=_TLS_HINT if tls else "")
        return BrokenError(message)


def _wait(multi: pycurl.CurlMulti, wake: int) -> None:
    """Wait until libcurl has something to do, or the transport is closed."""
    milliseconds = multi.timeout()
    if milliseconds == 0:
        return
    reads, writes, _ = multi.fdset()
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    for descriptor in reads:
        poll.register(descriptor, select.POLLIN)
    for descriptor in writes:
        both = descriptor in reads
        poll.register(descriptor, select.POLLOUT | (select.POLLIN if both else 0))
    # Without a descriptor libcurl looks up a name in a thread of its own.
    longest = _LONGEST_WAIT if reads or writes else 50
    poll.poll(longest if milliseconds < 0 else min(milliseconds, longest))
