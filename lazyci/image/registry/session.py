"""Requests to one registry: authorized, redirected with care, sent again when that may help."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urljoin, urlsplit

from lazyci.errors import AuthError, RegistryError
from lazyci.image.registry.answers import Answer, described
from lazyci.image.registry.auth import Auth
from lazyci.image.registry.clock import Backoff, BrokenError, Clock
from lazyci.image.registry.credentials import Credential
from lazyci.image.registry.exchange import Body, Receive, Request
from lazyci.image.registry.transport import Transport

__all__ = ["Login", "Session", "joined", "origin"]

# Finds the login; True asks for another one than before, which was refused.
Login = Callable[[bool], Credential | None]

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MAX_TOKEN = 1 << 20


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL: what a credential belongs to.

    Raises:
        RegistryError: It is no http or https URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        what = described("GET", url)
        raise RegistryError(f"{what}: this is no http or https URL") from None
    return parts.scheme, parts.hostname or "", port


def joined(url: str, told: str) -> str:
    """A URL that a registry has told, which may be relative to the one asked, without fragment.

    Raises:
        RegistryError: It is no http or https URL.
    """
    try:
        found = urljoin(url, told).partition("#")[0]
    except ValueError:
        raise RegistryError(f"{described('GET', url)}: it names a malformed URL") from None
    origin(found)
    return found


def _without(answer: Answer, authorization: str) -> Answer:
    """An answer in whose error text the credential is not repeated."""
    secret = authorization.partition(" ")[2].encode()
    if answer.good or not secret or secret not in answer.body:
        return answer
    return dataclasses.replace(answer, body=answer.body.replace(secret, b"***"))


class Session:
    """One registry, spoken to as one user.

    Args:
        base: The registry's URL, without a path.
        transport: What carries the requests; this session closes it.
        login: Finds the login.
        clock: The time.
        advice: What to say to a user whom the registry refuses.
    """

    def __init__(
        self,
        base: str,
        transport: Transport,
        login: Login,
        clock: Clock,
        advice: Callable[[], str] = lambda: "",
    ) -> None:
        self._clock = clock
        self._base = base
        self._origin = origin(base)
        self._transport = transport
        self._auth = Auth(base, login, self._fetch, clock)
        self._advice = advice
        # One blob at a time is read over several connections: each of them takes memory.
        self.ahead = threading.Semaphore(1)

    def send(
        self,
        method: str,
        target: str,
        *,
        scopes: tuple[str, ...],
        headers: Sequence[str] = (),
        body: bytes | Body | None = None,
        receive: Receive | None = None,
        limit: int = 8 << 20,
        patience: float = 0.0,
        tries: int = 6,
        stop: threading.Event | None = None,
        bulk: bool = False,
    ) -> Answer:
        """Send a request until there is an answer that is not a passing failure.

        Args:
            method: The HTTP method.
            target: A path on the registry, or a URL that it has named.
            scopes: Scopes of the token that it needs.
            headers: `Name: value`.
            body: The body; it is sent anew with each try.
            receive: Called with an answer of success when its body begins; returns what takes
                the body.
            limit: The most bytes that an answer may hold otherwise.
            patience: Seconds that the registry may take until it answers.
            tries: How often the request is sent at most.
            stop: Ends the request when it is set.
            bulk: Whether the answer is large.

        Raises:
            BrokenError: There was none, after all tries.
            AuthError: The registry demands a login that there is not.
            RegistryError: The registry cannot be spoken to.
        """
        url = urljoin(self._base, target)
        request = Request(method, url, headers, body, receive, limit, patience, stop, bulk)
        return self._repeated(lambda: self._authorized(request, scopes), method, tries)

    def backoff(self, stop: threading.Event | None = None, tries: int = 6) -> Backoff:
        """The tries of one task; `stop` and `close` end a wait."""

        def ended() -> bool:
            return self._transport.closed or (stop is not None and stop.is_set())

        return Backoff(self._clock, ended, tries)

    def close(self) -> None:
        """End all requests, those of other threads too."""
        self._transport.close()

    def _repeated(self, once: Callable[[], Answer], method: str, tries: int) -> Answer:
        backoff = self.backoff(tries=tries)
        while True:
            try:
                answer = once()
                if not answer.passing:
                    return answer
                error = answer.error(method)
                assert isinstance(error, BrokenError)
            except BrokenError as broken:
                error = broken
            backoff.wait(error)

    def _authorized(self, request: Request, scopes: tuple[str, ...]) -> Answer:
        used = self._auth.header(scopes)
        answer = self._redirected(request, used)
        if answer.status != 401 or origin(answer.url) != self._origin:
            return answer
        found = self._auth.answer(answer.all("www-authenticate"), scopes, used)
        if found:
            answer = self._redirected(request, found)
        if answer.status == 401:
            raise AuthError(answer.error(request.method).message, hint=self._advice())
        return answer

    def _redirected(self, request: Request, authorization: str) -> Answer:
        """Send a request and follow its redirects.

        The credential goes to the registry's own origin alone, and no redirect leads from https to
        http.
        """
        first = request
        for _ in range(_MAX_REDIRECTS + 1):
            own = origin(request.url) == self._origin
            headers = [f"Authorization: {authorization}"] if own and authorization else []
            answer = self._transport.exchange(
                dataclasses.replace(request, headers=[*first.headers, *headers])
            )
            if answer.status not in _REDIRECTS:
                return _without(answer, authorization)
            url = joined(request.url, answer.header("location"))
            what = described(request.method, first.url)
            if answer.status < 307 and request.method not in ("GET", "HEAD"):
                raise RegistryError(f"{what}: a redirect ({answer.status}) would lose the request")
            if origin(request.url)[0] == "https" and origin(url)[0] != "https":
                raise RegistryError(f"{what}: a redirect leads from https to http")
            request = dataclasses.replace(request, url=url)
        raise RegistryError(f"{described(first.method, first.url)}: too many redirects")

    def _fetch(self, method: str, url: str, authorization: str, form: bytes | None) -> Answer:
        """Send a request to a token server, which has no reason to redirect."""
        headers = ["Accept: application/json"]
        if authorization:
            headers.append(f"Authorization: {authorization}")
        if form is not None:
            headers.append("Content-Type: application/x-www-form-urlencoded")
        request = Request(method, url, headers, form, limit=_MAX_TOKEN)
        # When it fails, the request that the token is for is tried again.
        answer = self._transport.exchange(request)
        if answer.status in _REDIRECTS:
            raise RegistryError(f"{described(method, url)}: the token server redirects")
        return answer
