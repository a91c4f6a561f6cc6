"""What all checks of a variant share: results, layers read into trees, JSON compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from lazyci.errors import ImageError
from lazyci.image.check.compare import NOTHING, Difference, Loss, shown
from lazyci.image.check.tree import Tree
from lazyci.image.check.treeblob import Pieces, blob_pieces, unpacked
from lazyci.image.check.treetar import TarSum, read_tar
from lazyci.image.manifest import ANNOTATION_ORIGINAL, Content, Descriptor, compression
from lazyci.image.store import Repository

__all__ = [
    "Check",
    "Sides",
    "ahead",
    "json_of",
    "kept_annotations",
    "raw_entries",
    "read_layer",
    "same",
    "same_json",
]

# Deeper values of a config are compared as a whole.
_DEPTH = 6

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared.

    Attributes:
        name: `index`, `image`, `layer 1` (the lowest), `table of contents 1`, `config`, `merged`.
        original: Digest of what was expected.
        found: Digest of what stands for it.
        entries: Files, directories and so on that were compared.
        findings: All differences, those the format cannot keep included.
        note: What else must be said, such as why something was not checked.
    """

    name: str
    original: str
    found: str
    entries: int = 0
    findings: tuple[Difference, ...] = ()
    note: str = ""

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The real differences."""
        return tuple(found for found in self.findings if not found.reason)

    @property
    def not_kept(self) -> tuple[Difference, ...]:
        """What the format cannot keep."""
        return tuple(found for found in self.findings if found.reason)

    @property
    def ok(self) -> bool:
        """Whether nothing differs but what the format cannot keep."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class Sides:
    """Where both sides of the comparison are, and what reads them.

    Attributes:
        source: Has the original.
        target: Has the variant.
        pool: Threads that read layers.
        workers: How many those are.
        losses: What the format cannot keep.
    """

    source: Repository
    target: Repository
    pool: Executor
    workers: int
    losses: tuple[Loss, ...]


def read_layer(
    repository: Repository, layer: Descriptor, tap: Callable[[bytes], object] | None = None
) -> tuple[Tree, TarSum]:
    """Read a layer from a repository into a tree.

    Args:
        repository: Where it is.
        layer: Its descriptor.
        tap: Gets the stored bytes, too, as they pass.

    Raises:
        ImageError: The layer is malformed, hostile or too large.
        RegistryError: It cannot be read.
    """

    def tapped(pieces: Pieces) -> Pieces:
        for piece in pieces:
            if tap is not None:
                tap(piece)
            yield piece

    with blob_pieces(repository, layer) as pieces:
        return read_tar(unpacked(tapped(pieces), compression(layer.media_type)))


def ahead(
    pool: Executor, workers: int, work: Callable[[_In], _Out], items: Sequence[_In]
) -> Iterator[_Out]:
    """Results in order, of at most so many items at a time, none kept longer than needed."""
    under_way: list[Future[_Out]] = []
    todo = iter(items)
    try:
        while True:
            for item in todo:
                under_way.append(pool.submit(work, item))
                if len(under_way) >= workers:
                    break
            if not under_way:
                return
            yield under_way.pop(0).result()
    finally:
        for future in under_way:
            future.cancel()


def json_of(body: bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ImageError: It is none.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"{what} is malformed: {error}") from None


def raw_entries(content: Content) -> dict[str, Any]:
    """The descriptors of an index as they are written, by digest."""
    if not content.is_index:
        return {}
    entries = json_of(content.body, "the index").get("manifests") or []
    return {entry["digest"]: entry for entry in entries}


def kept_annotations(original: Content, variant: Content) -> list[Difference]:
    """The original's annotations that the variant does not have so."""
    return [
        difference
        for name, value in original.notes.items()
        if name != ANNOTATION_ORIGINAL
        for difference in same("", f"annotation {name}", value, variant.notes.get(name))
    ]


def same(path: str, field: str, expected: Any, found: Any) -> list[Difference]:
    """The difference between two values, if they differ."""
    if expected == found:
        return []
    return [Difference(shown(path) or "/", shown(field), _text(expected), _text(found))]


def same_json(path: str, expected: Any, found: Any, depth: int = _DEPTH) -> list[Difference]:
    """The differences between two JSON values, each named by its keys from `path` on."""
    if depth and isinstance(expected, dict) and isinstance(found, dict):
        return [
            difference
            for key in sorted(expected.keys() | found.keys())
            for difference in same_json(
                f"{path}.{key}", expected.get(key), found.get(key), depth - 1
            )
        ]
    return same(path, "value", expected, found)


def _text(value: Any) -> str:
    if value is None:
        return NOTHING
    return shown(value if isinstance(value, str) else msgspec.json.encode(value).decode())
