"""PAX records: `LENGTH KEY=VALUE` lines in extended tar headers (POSIX.1-2001, pax)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lazyci.errors import ImageError

if TYPE_CHECKING:
    from lazyci.image.tar.entry import Entry

__all__ = ["apply_records", "decimal", "encode_records", "parse_records"]

_XATTR = b"SCHILY.xattr."
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_TEXTS = {b"path": "name", b"linkpath": "linkname", b"uname": "uname", b"gname": "gname"}


def parse_records(data: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The records of a PAX header; and the sparse map of version 0.0, whose keys are repeated.

    Raises:
        ImageError: A record's length is wrong.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        equals = data.find(b"=", space, end)
        if not space < equals < end <= len(data) or data[end - 1] != 0x0A:
            raise ImageError("a PAX header of a tar entry is malformed")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        if not key or b"\0" in key or (key in _TEXTS and b"\0" in value):
            raise ImageError("a PAX header of a tar entry holds a zero byte or an empty key")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if key != (b"GNU.sparse.offset", b"GNU.sparse.numbytes")[len(sparse) % 2]:
                raise ImageError("the map of a sparse file is malformed")
            sparse.append(value)
        else:
            records[key] = value
        at = end
    return records, sparse


def apply_records(entry: Entry, records: dict[bytes, bytes]) -> None:
    """Let the records of its PAX header describe an entry; an empty value changes nothing."""
    for key, value in records.items():
        if key in _TEXTS:
            if value:
                setattr(entry, _TEXTS[key], value.decode("utf-8", "surrogateescape"))
        elif key == b"mtime":
            if value:
                entry.mtime, entry.mtime_ns = _time(value)
        elif key == b"uid":
            entry.uid = decimal(value) if value else entry.uid
        elif key == b"gid":
            entry.gid = decimal(value) if value else entry.gid
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :].decode("utf-8", "surrogateescape")] = value


def decimal(text: bytes) -> int:
    """A number of a PAX record, of 64 bits.

    Raises:
        ImageError: It is none.
    """
    digits = text[1:] if text[:1] == b"-" else text
    if digits.isdigit() and len(digits) < 20:
        number = int(text)
        if -(1 << 63) <= number < 1 << 63:
            return number
    raise ImageError(f"a number in a PAX header is malformed: {text[:40]!r}")


def encode_records(records: dict[str, bytes]) -> bytes:
    """The payload of a PAX header with these records."""
    lines = []
    for key, value in records.items():
        rest = b" " + key.encode("utf-8", "surrogateescape") + b"=" + value + b"\n"
        # The length counts its own digits.
        size = len(rest) + len(str(len(rest)))
        size = len(rest) + len(str(size))
        lines.append(b"%d%b" % (size, rest))
    return b"".join(lines)


def _time(text: bytes) -> tuple[int, int]:
    """Seconds, rounded down, and nanoseconds, of a decimal number; finer digits are cut off."""
    match = _TIME.fullmatch(text)
    if not match:
        raise ImageError(f"a time in a PAX header is malformed: {text[:40]!r}")
    sign, whole, fraction = match.groups()
    seconds = int(whole)
    nanoseconds = int((fraction or b"")[:9].ljust(9, b"0"))
    if sign:
        seconds = -seconds
        if nanoseconds:
            seconds, nanoseconds = seconds - 1, 10**9 - nanoseconds
    return seconds, nanoseconds
