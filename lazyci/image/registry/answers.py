"""A registry's answer, and the error that it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from lazyci.errors import AuthError, LazyciError, NotFoundError, PublishError, RegistryError
from lazyci.image.registry.clock import BrokenError

__all__ = ["Answer", "cleaned", "described"]

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
_MAX_TEXT = 300
# Answers of a passing state (RFC 9110, RFC 6585).
_PASSING = {408, 429, 500, 502, 503, 504}


def cleaned(text: str) -> str:
    """Foreign text on one line, without control characters, not too long."""
    text = _UNPRINTABLE.sub(" ", text).strip()
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def described(method: str, url: str) -> str:
    """A request for people, without the query: in signed URLs it is a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{method} (a malformed URL)"
    return cleaned(f"{method} {parts.netloc.rpartition('@')[2]}{parts.path}")


class _Problem(msgspec.Struct):
    code: str = ""
    message: str | None = ""


class _Problems(msgspec.Struct):
    errors: list[_Problem] = []


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body.

    Attributes:
        url: Where it came from.
        status: The HTTP status.
        headers: Name in lower case and value, in order.
        body: Its bytes, when no sink took them.
    """

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @classmethod
    def parse(cls, url: str, status: int, lines: Iterable[bytes], body: bytes) -> Answer:
        """Put an answer together from header lines, those of `100 Continue` before it too."""
        headers: list[tuple[str, str]] = []
        for line in lines:
            if line.startswith(b"HTTP/"):
                headers.clear()
                continue
            name, colon, value = line.decode("latin-1").partition(":")
            if colon:
                headers.append((name.strip().lower(), value.strip()))
        return cls(url, status, tuple(headers), body)

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def passing(self) -> bool:
        return self.status in _PASSING

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for found, value in self.headers if found == name]

    def header(self, name: str) -> str:
        """A header's last value, or an empty text."""
        return next(iter(reversed(self.all(name))), "")

    @property
    def length(self) -> int | None:
        """Content-Length in bytes, where the answer tells it."""
        text = self.header("content-length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def problem(self) -> tuple[str, str]:
        """The registry's error code and message, cleaned."""
        try:
            found = msgspec.json.decode(self.body, type=_Problems).errors
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return "", ""
        first = found[0] if found else _Problem()
        return cleaned(first.code), cleaned(first.message or "")

    def error(self, method: str) -> LazyciError:
        """The error that this answer stands for."""
        code, text = self.problem()
        message = f"{described(method, self.url)}: {self.status}"
        message += "".join(f" {part}" for part in (code and f"{code}:", text) if part).rstrip(":")
        if self.passing:
            return BrokenError(message, after=self.header("retry-after"))
        if self.status in (401, 403):
            return AuthError(message)
        if self.status == 404:
            return NotFoundError(message)
        if "immutable" in text.lower():
            return PublishError(message, hint="The tag exists, and its repository keeps it.")
        return RegistryError(message)
