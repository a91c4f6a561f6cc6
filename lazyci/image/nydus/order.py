"""The order in which nydus-image reads a layer rightly: each path once, a directory first."""

from __future__ import annotations

from dataclasses import dataclass

from lazyci.errors import ImageError
from lazyci.image.nydus.header import DIRECTORY, FILE, HARD_LINK, IMPLICIT, Entry

__all__ = ["FirstReading", "Plan", "SecondReading"]

_OPAQUE = b".wh..wh..opq"
_IMPLIED, _DESCRIBED = -1, -2
_OTHER_FORMAT = "nydus cannot carry it; use --format estargz"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a layer holds in the end.

    Attributes:
        names: By the number of the entry that brings data, all paths of that data.
        directories: By path, those that a header describes.
        whiteouts: Their paths.
    """

    names: dict[int, list[bytes]]
    directories: dict[bytes, Entry]
    whiteouts: list[bytes]


class FirstReading:
    """Writes entries as they come while that is right, and learns what the layer holds."""

    def __init__(self) -> None:
        self.in_order = True
        # By path, the number of the entry that brought its data, or what kind of directory it is.
        self._paths: dict[bytes, int] = {b"": _IMPLIED}
        self._directories: dict[bytes, Entry] = {}
        self._whiteouts: dict[bytes, None] = {}
        # By number, symbolic links, devices and the like.
        self._specials: dict[int, Entry] = {}

    def place(self, number: int, entry: Entry) -> list[Entry]:
        """What to write for an entry; its data follows if the last of that is a file."""
        write: list[Entry] = []
        base = entry.name.rpartition(b"/")[2]
        self._parents(entry.name, write)
        if base.startswith(b".wh."):
            self._whiteout(entry.name, base, write)
        elif entry.kind == DIRECTORY:
            self._directory(entry, write)
        else:
            self._other(number, entry, write)
        return write if self.in_order else []

    def after(self, _number: int, _entry: Entry) -> list[Entry]:
        """What to write after an entry's data."""
        return []

    def end(self) -> list[Entry]:
        """What to write at the end.

        The root comes last: nydus-image gives the entry after it the same inode number.
        """
        return [self._directories.get(b"") or Entry(b"", DIRECTORY, **IMPLICIT)]

    def plan(self) -> Plan:
        """What a second reading needs to know."""
        names: dict[int, list[bytes]] = {}
        for name, at in self._paths.items():
            if at >= 0:
                names.setdefault(at, []).append(name)
        return Plan(names, self._directories, list(self._whiteouts))

    def _parents(self, name: bytes, write: list[Entry]) -> None:
        folder = name.rpartition(b"/")[0]
        at = self._paths.get(folder)
        if at is None:
            self._parents(folder, write)
            self._paths[folder] = _IMPLIED
            write.append(Entry(folder, DIRECTORY, **IMPLICIT))
        elif at >= 0:
            raise ImageError(
                f"{name!r} lies below {folder!r}, which is no directory", hint=_OTHER_FORMAT
            )

    def _whiteout(self, name: bytes, base: bytes, write: list[Entry]) -> None:
        if base == b".wh.":
            raise ImageError(f"{name!r}: a whiteout of nothing")
        # Others of these are notes of aufs, which containerd ignores.
        if base.startswith(b".wh..wh.") and base != _OPAQUE:
            return
        if name not in self._whiteouts:
            self._whiteouts[name] = None
            write.append(Entry(name, FILE))

    def _directory(self, entry: Entry, write: list[Entry]) -> None:
        before = self._paths.get(entry.name)
        if before is None:
            write.append(entry)
        elif before >= 0:
            self._remove(entry.name)
        elif entry.name and (before == _IMPLIED or entry != self._directories[entry.name]):
            self.in_order = False
        self._paths[entry.name] = _DESCRIBED
        self._directories[entry.name] = entry

    def _other(self, number: int, entry: Entry, write: list[Entry]) -> None:
        if not entry.name:
            raise ImageError("the layer's root is no directory")
        at = number
        if entry.kind == HARD_LINK:
            at = self._paths.get(entry.link, _IMPLIED)
            if at < 0:
                raise ImageError(
                    f"{entry.name!r} is a hard link to {entry.link!r}, which is no earlier file"
                    " of the same layer",
                    hint=_OTHER_FORMAT,
                )
            if at in self._specials:
                entry = self._specials[at].linked(entry.name)
        elif entry.kind != FILE:
            self._specials[number] = entry
        if entry.name in self._paths:
            self._remove(entry.name)
        self._paths[entry.name] = at
        write.append(entry)

    def _remove(self, name: bytes) -> None:
        """Forget a path that is there again, and what lies below it."""
        self.in_order = False
        if self._paths.pop(name) >= 0:
            return
        self._directories.pop(name, None)
        below = name + b"/"
        for known in (self._paths, self._directories, self._whiteouts):
            for path in [path for path in known if path.startswith(below)]:
                known.pop(path, None)


class SecondReading:
    """Writes what the layer holds in the end, each path once."""

    in_order = True

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._written: set[bytes] = set()

    def place(self, number: int, entry: Entry) -> list[Entry]:
        """What to write for an entry; its data follows if the last of that is a file."""
        names = self._plan.names.get(number)
        if not names:
            return []
        write: list[Entry] = []
        self._parents(names[0], write)
        entry.name = names[0]
        write.append(entry)
        return write if entry.kind == FILE else [*write, *self.after(number, entry)]

    def after(self, number: int, entry: Entry) -> list[Entry]:
        """What to write after an entry's data: its hard links."""
        write: list[Entry] = []
        for name in self._plan.names[number][1:]:
            self._parents(name, write)
            write.append(entry.linked(name))
        return write

    def end(self) -> list[Entry]:
        """What to write at the end: directories that nothing lies in, whiteouts, the root."""
        write: list[Entry] = []
        for name in self._plan.directories:
            self._folder(name, write)
        for name in self._plan.whiteouts:
            self._parents(name, write)
            write.append(Entry(name, FILE))
        root = self._plan.directories.get(b"") or Entry(b"", DIRECTORY, **IMPLICIT)
        return [*write, root]

    def plan(self) -> Plan:
        return self._plan

    def _parents(self, name: bytes, write: list[Entry]) -> None:
        self._folder(name.rpartition(b"/")[0], write)

    def _folder(self, name: bytes, write: list[Entry]) -> None:
        if not name or name in self._written:
            return
        self._parents(name, write)
        self._written.add(name)
        write.append(self._plan.directories.get(name) or Entry(name, DIRECTORY, **IMPLICIT))
