"""Lists that come in pages: tags and referrers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from lazyci.errors import ImageError, RegistryError
from lazyci.image.manifest import Descriptor, check_digest
from lazyci.image.registry.answers import Answer, described
from lazyci.image.registry.session import Session, joined, origin

__all__ = ["descriptors", "referrers", "tags"]

_MAX_PAGE = 16 << 20
_MAX_PAGES = 1000
# What ECR and the distribution registry give at most; they refuse to be asked for more.
_PER_PAGE = 1000
_NEXT = re.compile(r'<([^<>]{1,4000})>[^,]*;\s*rel="?next"?', re.IGNORECASE)


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Index(msgspec.Struct):
    manifests: list[Descriptor]


def tags(session: Session, path: str, scopes: tuple[str, ...]) -> Iterator[str]:
    """All tags of the list at `path`."""
    for page in _pages(session, f"{path}?n={_PER_PAGE}", scopes):
        if not page.good:
            raise page.error("GET")
        try:
            yield from msgspec.json.decode(page.body, type=_Tags).tags or ()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            what = described("GET", page.url)
            raise RegistryError(f"{what}: the answer is no list of tags") from None


def referrers(session: Session, path: str, scopes: tuple[str, ...]) -> list[Descriptor] | None:
    """The index at `path`, all pages of it; None when the registry has no such API."""
    found: list[Descriptor] = []
    for page in _pages(session, path, scopes):
        # Without the API there is a 404 by the specification, and whatever else in practice.
        if not page.good or "json" not in page.header("content-type"):
            return None
        found += descriptors(page.body)
    return found


def descriptors(body: bytes) -> list[Descriptor]:
    """The descriptors of an index.

    Raises:
        ImageError: It is none.
    """
    try:
        found = msgspec.json.decode(body, type=_Index).manifests
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"the list of referrers is malformed: {error}") from None
    for one in found:
        check_digest(one.digest)
    return found


def _pages(session: Session, path: str, scopes: tuple[str, ...]) -> Iterator[Answer]:
    seen: set[str] = set()
    url = path
    while True:
        answer = session.send("GET", url, scopes=scopes, limit=_MAX_PAGE)
        yield answer
        link = _NEXT.search(answer.header("link"))
        if not answer.good or link is None:
            return
        seen.add(answer.url)
        url = joined(answer.url, link[1])
        what = described("GET", answer.url)
        if origin(url) != origin(answer.url):
            raise RegistryError(f"{what}: the next page is on another host")
        if url in seen or len(seen) >= _MAX_PAGES:
            raise RegistryError(f"{what}: the list has no end")
