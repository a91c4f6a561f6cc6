"""An entry of a tar archive: what was read of it, and its header written anew."""

from __future__ import annotations

import struct

from lazyci.image.tar.pax import encode_records

__all__ = ["BLOCK", "Entry", "encode_header"]

BLOCK = 512
# POSIX ustar, in the order of its fields.
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_TYPES = {
    "reg": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
}


class Entry:
    """An entry as the archive describes it; nothing in it is safe to use as a path.

    Attributes:
        type: `reg`, `dir`, `symlink`, `hardlink`, `char`, `block`, `fifo`, or `global` for a
            global PAX header, which is no file.
        name: As in the archive, with UTF-8's invalid bytes as lone surrogates; so are `linkname`,
            `uname` and `gname`.
        size: Of a regular file, in bytes, holes included.
        stored: Bytes that the archive holds of it; less than `size` in sparse files only.
        mode: As in the header, which may include bits of the file's type.
        mtime: Seconds since 1970, rounded down; `mtime_ns` nanoseconds are to be added.
        xattrs: Extended attributes (PAX records `SCHILY.xattr.`, as engines read them).
        sparse: Whether the archive leaves out holes; `raw` then fits no ordinary payload.
        raw: All header blocks, those of long names and PAX records included.
    """

    __slots__ = (
        "devmajor",
        "devminor",
        "gid",
        "gname",
        "linkname",
        "mode",
        "mtime",
        "mtime_ns",
        "name",
        "raw",
        "size",
        "sparse",
        "stored",
        "type",
        "uid",
        "uname",
        "xattrs",
    )

    def __init__(self, kind: str, name: str, size: int = 0, mode: int = 0o444) -> None:
        self.type = kind
        self.name = name
        self.size = size
        self.stored = size
        self.mode = mode
        self.uid = 0
        self.gid = 0
        self.uname = ""
        self.gname = ""
        self.mtime = 0
        self.mtime_ns = 0
        self.linkname = ""
        self.devmajor = 0
        self.devminor = 0
        self.xattrs: dict[str, bytes] = {}
        self.sparse = False
        self.raw = b""


def encode_header(entry: Entry) -> bytes:
    """The header blocks of an entry, ustar with PAX records where ustar does not suffice."""
    records: dict[str, bytes] = {}
    values = {
        "path": entry.name,
        "linkpath": entry.linkname,
        "uname": entry.uname,
        "gname": entry.gname,
    }
    sizes = {"path": 100, "linkpath": 100, "uname": 31, "gname": 31}
    texts = {}
    for key, text in values.items():
        raw = text.encode("utf-8", "surrogateescape")
        if len(raw) > sizes[key] or not raw.isascii():
            records[key] = raw
        texts[key] = raw[: sizes[key]]
    numbers = {
        "uid": (entry.uid, 8),
        "gid": (entry.gid, 8),
        "size": (entry.size, 12),
        "mtime": (entry.mtime, 12),
    }
    fields = {}
    for key, (value, width) in numbers.items():
        fits = 0 <= value < 8 ** (width - 1)
        fields[key] = b"%0*o" % (width - 1, value if fits else 0)
        if not fits:
            records[key] = b"%d" % value
    if entry.mtime_ns:
        records["mtime"] = _decimal_time(entry.mtime, entry.mtime_ns)
    for name, content in entry.xattrs.items():
        records["SCHILY.xattr." + name] = content
    header = _block(
        _TYPES[entry.type],
        texts["path"],
        b"%07o" % (entry.mode & 0o7777777),
        (fields["uid"], fields["gid"], fields["size"], fields["mtime"]),
        (texts["linkpath"], texts["uname"], texts["gname"]),
        (b"%07o" % (entry.devmajor & 0o7777777), b"%07o" % (entry.devminor & 0o7777777)),
    )
    if not records:
        return header
    body = encode_records(records)
    octal = (b"%07o" % 0, b"%07o" % 0, b"%011o" % len(body), b"%011o" % 0)
    zero = b"%07o" % 0
    before = _block(b"x", b"PaxHeaders.0/file", b"%07o" % 0o644, octal, (b"",) * 3, (zero, zero))
    return before + body + bytes(-len(body) % BLOCK) + header


def _decimal_time(seconds: int, nanoseconds: int) -> bytes:
    if seconds < 0:
        # Rounded down before: -1.25 is -2 seconds and 750,000,000 nanoseconds.
        seconds, nanoseconds = -seconds - 1, 10**9 - nanoseconds
        return b"-%d.%09d" % (seconds, nanoseconds)
    return b"%d.%09d" % (seconds, nanoseconds)


def _block(
    kind: bytes,
    name: bytes,
    mode: bytes,
    numbers: tuple[bytes, bytes, bytes, bytes],
    texts: tuple[bytes, bytes, bytes],
    device: tuple[bytes, bytes],
) -> bytes:
    uid, gid, size, mtime = numbers
    link, uname, gname = texts
    before = (name, mode, uid, gid, size, mtime)
    after = (kind, link, b"ustar\00000", uname, gname, *device, b"")
    checksum = sum(_HEADER.pack(*before, b" " * 8, *after))
    return _HEADER.pack(*before, b"%06o\0 " % checksum, *after)
