"""Headers of tar entries in the one form that nydus-image reads rightly: GNU tar's.

It reads long names and large numbers as GNU tar writes them, and attributes from PAX records; of
owners and times in PAX records it knows nothing. A directory that no header describes gets
`IMPLICIT` attributes, so that the merge can tell it from one that is described.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, TypedDict

from lazyci.errors import ImageError
from lazyci.image.tar import entry as tar_entry
from lazyci.image.tar.numeral import number
from lazyci.image.tar.pax import encode_records

__all__ = [
    "BLOCK",
    "DIRECTORY",
    "FILE",
    "HARD_LINK",
    "IMPLICIT",
    "SYMLINK",
    "Entry",
    "convert",
    "encode",
    "is_read_alike",
]

BLOCK = tar_entry.BLOCK
FILE, HARD_LINK, SYMLINK, DIRECTORY = b"0", b"1", b"2", b"5"


class _Attributes(TypedDict):
    mode: int
    uid: int
    gid: int
    mtime: int


# A directory that only the paths below it name: an owner and a time that no file has.
IMPLICIT: Final[_Attributes] = {
    "mode": 0o755,
    "uid": 0o7777777,
    "gid": 0o7777777,
    "mtime": 0o77777777776,
}
_KINDS = {
    "reg": FILE,
    "hardlink": HARD_LINK,
    "symlink": SYMLINK,
    "char": b"3",
    "block": b"4",
    "dir": DIRECTORY,
    "fifo": b"6",
}
# What nydus-image stores; containerd, too, goes on where a file system knows no others.
_NAMESPACES = (b"user.", b"security.", b"trusted.")
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_MAX_NAME, _MAX_LINK, _MAX_ATTRIBUTE = 255, 4095, 0xFFFF
_LAST_OWNER = 0xFFFFFFFE
# nydus-image keeps 12 and 20 bits, as Linux does.
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xFFFFF


@dataclass(slots=True)
class Entry:
    """One entry. Paths have no `/` at the ends and no `.` or `..`; the root's is empty."""

    name: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    def linked(self, name: bytes) -> Entry:
        """A hard link to this entry.

        nydus-image turns both paths into a regular file where what they share is none: these get
        an entry each, and differ from what engines unpack in their number of links alone.
        """
        if self.kind != FILE:
            return replace(self, name=name)
        return replace(self, name=name, kind=HARD_LINK, link=self.name, size=0, xattrs={})


def convert(entry: tar_entry.Entry) -> Entry:
    """An entry as it was read, in the form that nydus-image takes.

    Raises:
        ImageError: No engine unpacks it, or nydus-image cannot carry it.
    """
    name = _path(entry.name)
    kind = _KINDS[entry.type]
    made = Entry(name, kind, entry.mode & 0o7777, entry.uid, entry.gid, max(entry.mtime, 0))
    if not (0 <= entry.uid <= _LAST_OWNER and 0 <= entry.gid <= _LAST_OWNER):
        raise ImageError(f"{entry.name[:200]!r}: its owner {entry.uid}:{entry.gid} is none")
    if kind == FILE:
        made.size = entry.size
    elif kind == HARD_LINK:
        made.link = _path(entry.linkname)
    elif kind == SYMLINK:
        made.link = _bytes(entry.linkname)
        if not 0 < len(made.link) <= _MAX_LINK:
            raise ImageError(f"{entry.name[:200]!r}: a symbolic link of {len(made.link)} bytes")
    elif kind in (b"3", b"4"):
        made.major, made.minor = entry.devmajor, entry.devminor
        if not (0 <= made.major <= _MAX_MAJOR and 0 <= made.minor <= _MAX_MINOR):
            raise ImageError(f"{entry.name[:200]!r}: device {made.major}:{made.minor} is none")
    for key, value in entry.xattrs.items():
        _add_xattr(made, _bytes(key), value)
    return made


def is_read_alike(entry: tar_entry.Entry) -> bool:
    """Whether nydus-image reads an entry's own header blocks as engines do."""
    if entry.type == "global" or entry.sparse:
        return False
    header = entry.raw[-BLOCK:]
    said = (number(header[108:116]), number(header[116:124]), number(header[136:148]))
    directory = header[156:157] != DIRECTORY and entry.type == "dir"
    return said == (entry.uid, entry.gid, entry.mtime) and said[2] >= 0 and not directory


def encode(entry: Entry) -> bytes:
    """An entry's header blocks."""
    name = entry.name + b"/" if entry.kind == DIRECTORY and entry.name else entry.name or b"./"
    parts = []
    if entry.xattrs:
        # Sorted, so that one layer gives one tar.
        records = {
            "SCHILY.xattr." + key.decode("utf-8", "surrogateescape"): value
            for key, value in sorted(entry.xattrs.items())
        }
        parts.append(_meta(b"x", encode_records(records)))
    if len(name) > 100:
        parts.append(_meta(b"L", name + b"\0"))
    if len(entry.link) > 100:
        parts.append(_meta(b"K", entry.link + b"\0"))
    parts.append(_block(entry, name))
    return b"".join(parts) if len(parts) > 1 else parts[0]


def _add_xattr(entry: Entry, key: bytes, value: bytes) -> None:
    # It cuts PAX records at line feeds, whatever length they say, and knows no ACLs.
    if key in _ACLS or b"\n" in value or b"\n" in key or len(value) > _MAX_ATTRIBUTE:
        raise ImageError(
            f"{entry.name[:200]!r}: nydus-image cannot carry its attribute {key[:100]!r}",
            hint="use --format estargz",
        )
    if key.startswith(_NAMESPACES) and key not in _NAMESPACES:
        entry.xattrs[key] = value


def _meta(kind: bytes, body: bytes) -> bytes:
    head = _block(Entry(b"", kind, size=len(body)), b"././@LongLink")
    return head + body + bytes(-len(body) % BLOCK)


def _block(entry: Entry, name: bytes) -> bytes:
    block = bytearray(BLOCK)
    name, link = name[:100], entry.link[:100]
    block[: len(name)] = name
    block[100:108] = b"%07o\0" % entry.mode
    block[108:116] = _octal(entry.uid, 8)
    block[116:124] = _octal(entry.gid, 8)
    block[124:136] = _octal(entry.size, 12)
    block[136:148] = _octal(entry.mtime, 12)
    block[148:156] = b"        "
    block[156:157] = entry.kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar  \0"
    block[329:337] = _octal(entry.major, 8)
    block[337:345] = _octal(entry.minor, 8)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _octal(value: int, width: int) -> bytes:
    if value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return b"\x80" + value.to_bytes(width - 1, "big")


def _path(name: str) -> bytes:
    parts = [part for part in _bytes(name).split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ImageError(f"{name[:200]!r} leaves the layer's root")
    if any(len(part) > _MAX_NAME for part in parts):
        raise ImageError(f"{name[:200]!r}: a name of more than {_MAX_NAME} bytes")
    return b"/".join(parts)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
