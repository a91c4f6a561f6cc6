"""Two trees compared, file by file and field by field."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lazyci.image.check.tree import FILE, Node, Tree

__all__ = [
    "NOTHING",
    "NO_LIBARCHIVE",
    "TOC_FILES",
    "WHOLE_SECONDS",
    "Difference",
    "Loss",
    "Value",
    "compare",
    "shown",
]

# The table of contents of eStargz and its landmarks, in the root of a layer.
TOC_FILES = frozenset({"stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"})
NOTHING = "nothing"
_LONGEST = 200
_SECOND = 10**9

# What is compared: texts, numbers, or nothing.
Value = str | int | bytes | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two things differ. All texts can be printed as they are.

    Attributes:
        path: The file inside the layer or image, `/` for the root; for a manifest or config the
            place in it.
        field: What differs: `entry`, `type`, `mode`, `uid`, `gid`, `mtime`, `xattr NAME`, `target`,
            `device`, `size`, `content`, `hard link` (`hard link of a KIND` where that is no regular
            file), `whiteout`, `opaque`, `described`, or what else a check looks at.
        expected: The original's value.
        found: The variant's.
        reason: Why the format cannot keep this; empty for a real difference.
    """

    path: str
    field: str
    expected: str
    found: str
    reason: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.field}: {self.expected} -> {self.found}"
        return f"{text} (not kept by the format: {self.reason})" if self.reason else text


@dataclass(frozen=True, slots=True)
class Loss:
    """A field that a format does not keep.

    Attributes:
        field: Name of the field; with `*` at its end all that begin so.
        reason: Why, in a few words.
        covers: Whether a difference between these raw values is no more than that loss.
    """

    field: str
    reason: str
    covers: Callable[[Value, Value], bool] = lambda expected, found: True

    def explains(self, field: str, expected: Value, found: Value) -> bool:
        """Whether this loss is all that a difference is."""
        named = (
            field.startswith(self.field[:-1]) if self.field.endswith("*") else field == self.field
        )
        return named and self.covers(expected, found)


def _same_second(expected: Value, found: Value) -> bool:
    """Cut off or rounded to a whole second, from a time that is none."""
    if not isinstance(expected, int) or not isinstance(found, int) or found % _SECOND:
        return False
    return expected % _SECOND != 0 and -_SECOND < expected - found < _SECOND


WHOLE_SECONDS = Loss("mtime", "times have whole seconds", _same_second)
# Engines read SCHILY.xattr only, so nothing that runs can see these.
NO_LIBARCHIVE = Loss("xattr LIBARCHIVE.*", "no engine reads LIBARCHIVE.xattr records")


def compare(
    expected: Tree,
    found: Tree,
    losses: Sequence[Loss] = (),
    *,
    layers: bool = True,
    ignore: frozenset[str] = frozenset(),
) -> list[Difference]:
    """Compare two file systems.

    Args:
        expected: That of the original.
        found: That of the variant.
        losses: What the variant's format cannot keep: such a difference says so.
        layers: The trees are layers: whiteouts count, and whether a directory is described. In
            merged trees the time of a directory that no layer describes is the engine's choice.
        ignore: Paths that are in neither file system, such as the table of contents.

    Returns:
        The differences by path. Of a path that only one tree has, or has as another type, that
        alone is said, not what follows from it.
    """
    return [
        _difference(path, field, old, new, losses)
        for path, field, old, new in _changes(expected, found, layers, ignore)
    ]


_Change = tuple[str, str, Value, Value]


def _changes(
    expected: Tree, found: Tree, layers: bool, ignore: frozenset[str]
) -> Iterator[_Change]:
    # The first path of a node stands for all its names, in both trees.
    firsts: dict[int, str] = {}
    stack: list[tuple[str, Node | None, Node | None]] = [("", expected.root, found.root)]
    while stack:
        path, old, new = stack.pop()
        if path in ignore and _is_plain(old) and _is_plain(new):
            continue
        if old is None or new is None:
            yield path, "entry", _summary(old), _summary(new)
            continue
        if old.kind != new.kind:
            yield path, "type", _summary(old), _summary(new)
            continue
        first, other = firsts.setdefault(id(old), path), firsts.setdefault(id(new), path)
        if not first == other != path:
            # Else it was said at the file's first name.
            yield from _fields(path, old, new, layers)
        if first != other:
            field = "hard link" if old.kind == FILE else f"hard link of a {old.kind}"
            yield path, field, _name_of(first, path), _name_of(other, path)
        stack += _children(path, old, new)


def _is_plain(node: Node | None) -> bool:
    return node is None or node.kind == FILE


def _summary(node: Node | None) -> Value:
    if node is None:
        return None
    if not node.children:
        return node.kind
    count = sum(1 for _ in Tree(root=node).walk()) - 1
    return f"{node.kind} with {count} entries"


def _name_of(first: str, path: str) -> Value:
    return "a file of its own" if first == path else f"the same file as {first}"


def _children(path: str, old: Node, new: Node) -> Iterator[tuple[str, Node | None, Node | None]]:
    ours, theirs = old.children or {}, new.children or {}
    prefix = f"{path}/" if path else ""
    for name in sorted(ours.keys() | theirs.keys(), reverse=True):
        yield prefix + name, ours.get(name), theirs.get(name)


def _fields(path: str, old: Node, new: Node, layers: bool) -> Iterator[_Change]:
    if layers and old.implied != new.implied:
        yield path, "described", _yes(not old.implied), _yes(not new.implied)
    elif not (layers and old.implied):
        yield from _attributes(path, old, new)
    if layers:
        for name in sorted((old.hidden or set()) ^ (new.hidden or set())):
            there = name in (old.hidden or ())
            inside = f"{path}/{name}" if path else name
            yield inside, "whiteout", _yes(there), _yes(not there)
        if old.opaque != new.opaque:
            yield path, "opaque", _yes(old.opaque), _yes(new.opaque)


def _attributes(path: str, old: Node, new: Node) -> Iterator[_Change]:
    if old.mode != new.mode:
        yield path, "mode", f"{old.mode:04o}", f"{new.mode:04o}"
    # Without a header the time is the engine's choice.
    fields = ("uid", "gid") if old.implied else ("uid", "gid", "mtime")
    for field in (*fields, "target", "size"):
        if getattr(old, field) != getattr(new, field):
            yield path, field, getattr(old, field), getattr(new, field)
    if old.device != new.device:
        yield path, "device", _device(old), _device(new)
    # Of files of other sizes that is said; that their bytes differ follows.
    if old.size == new.size and old.digest != new.digest:
        yield path, "content", f"sha256:{old.digest.hex()}", f"sha256:{new.digest.hex()}"
    ours, theirs = old.xattrs or {}, new.xattrs or {}
    if ours != theirs:
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                yield path, f"xattr {name}", ours.get(name), theirs.get(name)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _device(node: Node) -> Value:
    return "{}:{}".format(*node.device) if node.device else None


def _difference(
    path: str, field: str, old: Value, new: Value, losses: Sequence[Loss]
) -> Difference:
    reasons = [loss.reason for loss in losses if loss.explains(field, old, new)]
    return Difference(
        shown(path, len(path)) or "/",
        shown(field),
        _text(field, old),
        _text(field, new),
        reasons[0] if reasons else "",
    )


def _text(field: str, value: Value) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
        return f'"{shown(value)}"'
    if field == "mtime" and isinstance(value, int):
        return _time(value)
    return shown(str(value))


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, _SECOND)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return f"{seconds}.{rest:09d} s"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def shown(text: str, longest: int = _LONGEST) -> str:
    """A text that is safe to print: what is no printable character is escaped, what is long cut.

    Bytes that are no UTF-8 (lone surrogates, as `surrogateescape` makes them) become `\\xNN`.
    """
    cut = text[:longest]
    safe = "".join(char if char.isprintable() and char != "\\" else _escaped(char) for char in cut)
    if len(cut) == len(text):
        return safe
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{safe}... ({len(text)} characters, sha256 {mark})"


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
