"""Authorization: challenges, and the tokens and logins that answer them.

Challenges: RFC 9110, section 11. Tokens: the distribution project's token specification, with
`GET` for a password and `POST` for an identity token.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

import msgspec

from lazyci.errors import AuthError
from lazyci.image.registry.answers import Answer, described
from lazyci.image.registry.clock import Clock
from lazyci.image.registry.credentials import Credential
from lazyci.image.registry.name import is_loopback, split_host

__all__ = ["Auth", "Challenge", "parse_challenges", "scope"]

# By the token specification, when the server does not tell how long a token lives.
_LIFETIME = 60
# A token is not used in the last quarter of its life, nor in its last 5 minutes.
_MARGIN, _LONGEST_MARGIN = 0.25, 300.0
_MAX_SCOPES = 20

_BLANK = re.compile(r"[\s,]*")
_SCHEME = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?=[\s,]|$)[ \t]*")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")
_PARAMETER = re.compile(
    r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|((?!=)[^\s,"]*))"""
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in: `Bearer realm="…",service="…"`; names are in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges of all headers `WWW-Authenticate`; what is malformed is left out."""
    found: list[Challenge] = []
    for value in values:
        at = 0
        while match := _SCHEME.match(value, _skip(value, at)):
            at = match.end()
            parameters: dict[str, str] = {}
            token = _TOKEN68.match(value, at)
            if token:
                at = token.end()
            while parameter := _PARAMETER.match(value, _skip(value, at)):
                at = parameter.end()
                quoted = re.sub(r"\\(.)", r"\1", parameter[2] or "")
                parameters.setdefault(parameter[1].lower(), quoted or parameter[3] or "")
            found.append(Challenge(match[1].lower(), parameters))
    return found


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def scope(repository: str, actions: str) -> str:
    """The scope of a token: `repository:team/app:pull,push`."""
    return f"repository:{repository}:{actions}"


class _TokenAnswer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


@dataclass(slots=True)
class _Token:
    header: str = field(repr=False)
    until: float


# Sends (method, url, authorization, form) and returns the answer.
Fetch = Callable[[str, str, str, bytes | None], Answer]


class Auth:
    """The authorization of one registry.

    Args:
        base: The registry's URL.
        login: Finds the login; asked each time that one is needed, so that it may expire. True
            asks for another than before, which was refused.
        fetch: Sends a request to a token server.
        clock: The time.
    """

    def __init__(
        self, base: str, login: Callable[[bool], Credential | None], fetch: Fetch, clock: Clock
    ) -> None:
        self._base = urlsplit(base)
        self._login = login
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        # What the registry itself demanded besides, by the scopes that were asked for.
        self._demanded: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._tokens: dict[tuple[str, ...], _Token] = {}

    def header(self, scopes: tuple[str, ...]) -> str:
        """The value of `Authorization` for a request; empty as long as none was demanded.

        Raises:
            AuthError: There is none, or the token server refuses.
        """
        with self._lock:
            if self._challenge is None:
                return ""
            return self._header(scopes, renew=False)

    def answer(self, values: Iterable[str], scopes: tuple[str, ...], used: str) -> str:
        """The value of `Authorization` after a 401; empty: there is no other than the one used.

        Raises:
            AuthError: There is none, or the token server refuses.
        """
        challenges = parse_challenges(values)
        with self._lock:
            by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
            chosen = by_scheme.get("bearer") or by_scheme.get("basic")
            if chosen is None:
                return ""
            self._challenge = chosen
            if chosen.scheme == "bearer":
                asked = chosen.parameters.get("scope", "").split()[:_MAX_SCOPES]
                self._demanded[scopes] = tuple(asked)
            held = self._tokens.get(scopes)
            # Another thread may have renewed it meanwhile.
            if held is not None and held.header != used and self._clock.monotonic() < held.until:
                return held.header
            found = self._header(scopes, renew=bool(used))
            return "" if found == used else found

    def _header(self, scopes: tuple[str, ...], *, renew: bool) -> str:
        challenge = self._challenge
        if challenge is None or challenge.scheme == "basic":
            credential = self._login(renew)
            return credential.basic if credential else ""
        held = self._tokens.get(scopes)
        if held is None or renew or self._clock.monotonic() >= held.until:
            held = self._tokens[scopes] = self._token(challenge, scopes, renew=renew)
        return held.header

    def _token(self, challenge: Challenge, scopes: tuple[str, ...], *, renew: bool) -> _Token:
        credential = self._login(False)
        if credential and credential.registry_token:
            return _Token(f"Bearer {credential.registry_token}", float("inf"))
        realm = self._realm(challenge)
        wanted = list(dict.fromkeys([*scopes, *self._demanded.get(scopes, ())]))
        began = self._clock.monotonic()
        answer = self._ask(realm, challenge.parameters.get("service", ""), wanted, credential)
        if answer.status in (400, 401, 403) and renew:
            # The login itself may have expired since.
            credential = self._login(True)
            answer = self._ask(realm, challenge.parameters.get("service", ""), wanted, credential)
        if not answer.good:
            error = answer.error("POST" if credential and credential.identity_token else "GET")
            if answer.passing:
                raise error
            raise AuthError(
                f"the token server refuses: {error.message}",
                hint="" if credential else "There is no login for this registry.",
            )
        return self._parse(answer, began)

    def _ask(
        self, realm: str, service: str, scopes: list[str], credential: Credential | None
    ) -> Answer:
        fields = [("service", service)] if service else []
        if credential and credential.identity_token:
            fields += [("client_id", "lazyci"), ("scope", " ".join(scopes))]
            fields += [("grant_type", "refresh_token")]
            fields += [("refresh_token", credential.identity_token)]
            return self._fetch("POST", realm, "", urlencode(fields).encode())
        fields += [("scope", one) for one in scopes]
        basic = credential.basic if credential else ""
        if basic and credential:
            fields.append(("account", credential.username))
        mark = "&" if "?" in realm else "?"
        return self._fetch("GET", f"{realm}{mark}{urlencode(fields)}", basic, None)

    def _parse(self, answer: Answer, began: float) -> _Token:
        try:
            found = msgspec.json.decode(answer.body, type=_TokenAnswer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = _TokenAnswer()
        token = found.token or found.access_token or ""
        # A line break in it would be a header of its own.
        if not token or not token.isascii() or not token.isprintable():
            raise AuthError(f"{described('GET', answer.url)}: the token server sent no token")
        # No server means less than the specification's 60 seconds.
        lifetime = max(found.expires_in or 0.0, _LIFETIME)
        margin = min(lifetime * _MARGIN, _LONGEST_MARGIN)
        return _Token(f"Bearer {token}", began + lifetime - margin)

    def _realm(self, challenge: Challenge) -> str:
        """The token server's URL. A registry names it, so it must not lead into the open."""
        realm = challenge.parameters.get("realm", "")
        try:
            parts = urlsplit(realm)
            host = parts.netloc
        except ValueError:
            parts, host = urlsplit(""), ""
        plain_here = self._base.scheme == "http"
        same = split_host(host)[0] == split_host(self._base.netloc)[0] or is_loopback(host)
        good = parts.scheme == "https" or (parts.scheme == "http" and plain_here and same)
        if not good or not host or "@" in host or parts.fragment:
            raise AuthError(
                f"{self._base.netloc} names a token server that is not to be trusted: "
                f"{described('GET', realm) if host else 'no URL'}",
                hint="A token server must be spoken to over https.",
            )
        return realm
