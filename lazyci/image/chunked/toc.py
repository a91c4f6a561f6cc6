"""The table of contents (TOC) of eStargz and zstd:chunked layers.

Format: containerd/stargz-snapshotter, docs/estargz.md and estargz/types.go (0.19.1). A reader
builds its tree from the TOC's names alone, so the TOC names each path once: with what an ordinary
tool would have left there after the whole archive.
"""

from __future__ import annotations

import posixpath
import time
from functools import lru_cache

import msgspec

from lazyci.image.tar.entry import Entry

__all__ = ["LANDMARKS", "NO_PREFETCH", "TOC_NAME", "Toc", "TocEntry", "clean_name"]

TOC_NAME = "stargz.index.json"
NO_PREFETCH = ".no.prefetch.landmark"
LANDMARKS = (".prefetch.landmark", NO_PREFETCH)

# The years that RFC 3339 has: 0001 to 9999.
_FIRST_SECOND, _LAST_SECOND = -62135596800, 253402300799


class TocEntry(msgspec.Struct, omit_defaults=True, rename="camel"):
    """An entry, or a later chunk of a file, as the TOC describes it.

    Offsets: `offset` counts in the layer as it is stored, `inner_offset` in what the member there
    unpacks to, `chunk_offset` in the file. `chunk_size` is 0 in a file's last chunk.
    """

    name: str
    type: str
    size: int = 0
    modtime: str = ""
    link_name: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user_name: str = ""
    group_name: str = ""
    offset: int = 0
    inner_offset: int = 0
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: dict[str, bytes] = {}
    digest: str = ""
    chunk_offset: int = 0
    chunk_size: int = 0
    chunk_digest: str = ""


class Toc:
    """A TOC that is being made, entry by entry, in the order of the archive.

    Attributes:
        obstacle: Why readers would show another tree than ordinary tools unpack; empty when they
            would not.
    """

    def __init__(self) -> None:
        self.obstacle = ""
        self._rows: list[TocEntry | None] = []  # None: another entry took its place
        self._index: dict[str, int] = {"": -1}  # where in the rows a path's entry is
        self._parents: set[str] = {""}  # paths that are folders, as others lie in them
        self._origin: dict[str, str] = {}  # path of a hard link: path of the file
        self._links: dict[str, list[str]] = {}  # path of a file: paths of its hard links

    def add(self, entry: Entry) -> TocEntry:
        """Add an entry of the archive; where its bytes are comes later, in the row returned."""
        row = TocEntry(entry.name, entry.type)
        if entry.type == "reg":
            row.size = entry.size
        elif entry.type in ("symlink", "hardlink"):
            row.link_name = entry.linkname
        elif entry.type in ("char", "block"):
            row.dev_major, row.dev_minor = entry.devmajor, entry.devminor
        # Linux knows no modes of symbolic links.
        row.mode = 0o777 if entry.type == "symlink" else entry.mode
        row.uid, row.gid = entry.uid, entry.gid
        row.modtime = _modtime(entry.mtime, entry.mtime_ns)
        row.user_name, row.group_name = entry.uname, entry.gname
        if entry.xattrs:
            row.xattrs = entry.xattrs
        self._place(row, clean_name(entry.name))
        return row

    def add_chunk(self, row: TocEntry) -> TocEntry:
        """Add a later chunk of the file that was added last."""
        chunk = TocEntry(row.name, "chunk")
        self._rows.append(chunk)
        return chunk

    def encode(self) -> bytes:
        """The TOC as JSON, or nothing when there is an obstacle."""
        self._check_links()
        if self.obstacle:
            return b""
        rows = [row for row in self._rows if row is not None]
        _name_owners_once(rows)
        try:
            # No line break at the end: readers hash what the JSON parser has read.
            return msgspec.json.encode({"version": 1, "entries": rows})
        except UnicodeEncodeError:
            self.obstacle = "a name is not UTF-8, which a table of contents cannot say"
            return b""

    def _place(self, row: TocEntry, path: str) -> None:
        index, at = self._index, len(self._rows)
        folder = path.rpartition("/")[0]
        if folder not in self._parents:
            self._add_parents(folder)
        if path in index:
            self._replace(row, path)
        elif path in self._parents and row.type != "dir":
            self._object(f"{path!r} takes the place of a folder with files")
        index[path] = at
        self._rows.append(row)
        if row.type == "hardlink":
            self._link(path, clean_name(row.link_name))
            self._describe_anew(row)

    def _describe_anew(self, link: TocEntry) -> None:
        """Engines give the file of a hard link the attributes in the link's header."""
        target = self._target(link)
        if target is None:
            return
        if target.type != "symlink":
            target.mode = link.mode
        target.uid, target.gid, target.modtime = link.uid, link.gid, link.modtime
        target.user_name, target.group_name = link.user_name, link.group_name
        if link.xattrs:
            target.xattrs = {**(target.xattrs or {}), **link.xattrs}

    def _target(self, link: TocEntry) -> TocEntry | None:
        target: TocEntry | None = link
        seen = 0
        while target is not None and target.type == "hardlink" and seen < 16:
            at = self._index.get(clean_name(target.link_name), -1)
            target = self._rows[at] if at >= 0 else None
            seen += 1
        return None if target is None or target.type in ("hardlink", "dir") else target

    def _add_parents(self, folder: str) -> None:
        while folder not in self._parents:
            at = self._index.get(folder)
            if at is not None:
                row = self._rows[at]
                if row is None or row.type != "dir":
                    # Tools follow a link there, and refuse anything else.
                    self._object(f"{folder!r} is no folder, but entries lie in it")
            self._parents.add(folder)
            folder = folder.rpartition("/")[0]

    def _replace(self, row: TocEntry, path: str) -> None:
        """Take out the entry whose path is given again later in the archive."""
        at = self._index[path]
        if at < 0:
            return
        old = self._rows[at]
        assert old is not None
        if path in self._parents and row.type != "dir":
            self._object(f"{path!r} takes the place of a folder with files")
        if old.type == "hardlink":
            origin = self._origin.pop(path, "")
            if path in self._links.get(origin, ()):
                self._links[origin].remove(path)
        links = self._links.pop(path, [])
        if links:
            self._move(at, old, links)
            return
        end = at + 1
        while end < len(self._rows) and self._is_chunk(end):
            end += 1
        for place in range(at, end):
            self._rows[place] = None

    def _is_chunk(self, at: int) -> bool:
        row = self._rows[at]
        return row is not None and row.type == "chunk"

    def _move(self, at: int, old: TocEntry, links: list[str]) -> None:
        """Let the first hard link of a file that is replaced be the file."""
        first, *others = links
        self._rows[self._index[first]] = None
        self._index[first] = at
        self._origin.pop(first, None)
        old.name = first
        for place in range(at + 1, len(self._rows)):
            chunk = self._rows[place]
            if chunk is None or chunk.type != "chunk":
                break
            chunk.name = first
        for link in others:
            self._origin[link] = first
            row = self._rows[self._index[link]]
            assert row is not None
            row.link_name = first
        if others:
            self._links[first] = others

    def _link(self, path: str, target: str) -> None:
        origin = self._origin.get(target, target)
        at = self._index.get(origin, -1)
        # A link before its target: readers find it nevertheless.
        if at >= 0 and origin != path and self._rows[at] is not None:
            self._origin[path] = origin
            self._links.setdefault(origin, []).append(path)

    def _check_links(self) -> None:
        for row in self._rows:
            if row is None or row.type != "hardlink":
                continue
            if self._target(row) is None:
                self._object(f"{row.name!r} is a hard link to a file that the layer does not have")
                return

    def _object(self, obstacle: str) -> None:
        self.obstacle = self.obstacle or obstacle


def clean_name(name: str) -> str:
    """A path as the readers see it: relative to the root, without `.`, `..` and doubled slashes."""
    name = name.rstrip("/")
    if "/." in name or "//" in name or name[:1] in ("", ".", "/"):
        return posixpath.normpath("/" + name.lstrip("/"))[1:]
    return name


@lru_cache(maxsize=1 << 10)
def _second(seconds: int) -> str:
    year, month, day, hour, minute, second, *_ = time.gmtime(seconds)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"


def _modtime(seconds: int, nanoseconds: int) -> str:
    """RFC 3339 with as many digits as needed: readers take them, and tools compare times.

    The reference rounds to seconds, which makes Python's compiled files look stale.
    """
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        return ""
    text = _second(seconds)
    if nanoseconds:
        text += f".{nanoseconds:09d}".rstrip("0")
    return text + "Z"


def _name_owners_once(rows: list[TocEntry]) -> None:
    """Take out the names that readers know from an entry before."""
    users: dict[int, str] = {}
    groups: dict[int, str] = {}
    for row in rows:
        if row.user_name:
            name = _printable(row.user_name)
            row.user_name = "" if users.get(row.uid) == name else name
            users[row.uid] = name
        if row.group_name:
            name = _printable(row.group_name)
            row.group_name = "" if groups.get(row.gid) == name else name
            groups[row.gid] = name


def _printable(name: str) -> str:
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
