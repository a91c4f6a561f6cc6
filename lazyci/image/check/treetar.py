"""A tar stream read into a tree, by Python's own `tarfile`, forwards only, nothing on disk.

The converters read tars by code of their own; the check must not share their mistakes. Where
`tarfile` is more lenient than Go's `archive/tar`, through which containerd reads, this is as
strict as Go: a broken header is no end, times keep their nanoseconds, global headers are ignored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import tarfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from lazyci.errors import ImageError
from lazyci.image.check.tree import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    Node,
    Tree,
)
from lazyci.image.check.treeblob import Pieces

__all__ = ["LIBARCHIVE", "Limits", "TarSum", "read_tar"]

# bsdtar writes extended attributes under this name too, and no engine reads them.
LIBARCHIVE = "LIBARCHIVE.xattr."
_SCHILY = "SCHILY.xattr."

_PIECE = 1 << 20
_KINDS = {
    tarfile.DIRTYPE: DIRECTORY,
    tarfile.SYMTYPE: SYMLINK,
    tarfile.LNKTYPE: LINK,
    tarfile.CHRTYPE: CHARACTER,
    tarfile.BLKTYPE: BLOCK,
    tarfile.FIFOTYPE: FIFO,
}
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_TIME = re.compile(r"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
# `tarfile` before 3.11.10 searches such runs in quadratic time.
_DIGITS = re.compile(rb"[0-9]{4096}")
_BROKEN = (
    tarfile.TarError,
    ArithmeticError,
    LookupError,
    RecursionError,
    TypeError,
    UnicodeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a layer may ask for.

    Attributes:
        entries: Entries of a tar; each takes about 500 bytes of memory.
        metadata: Bytes of all headers of one entry, PAX records and sparse maps included.
        unpacked: Bytes of the tar, and of its files with their holes.
    """

    entries: int = 2_000_000
    metadata: int = 1 << 20
    unpacked: int = 256 << 30


@dataclass(slots=True)
class TarSum:
    """What is known of a tar once it is read.

    Attributes:
        digest: `sha256:...` of the whole stream, which is a layer's diffID.
        size: Bytes of the whole stream.
        last: Path of the last entry as written, empty when there is none.
    """

    digest: str = ""
    size: int = 0
    last: str = ""


def read_tar(pieces: Pieces, limits: Limits | None = None) -> tuple[Tree, TarSum]:
    """Read a tar to the end of the stream.

    Args:
        pieces: The plain tar.
        limits: What it may ask for.

    Returns:
        The tree, whose hard links to files of lower layers are still open, and the stream's digest.

    Raises:
        ImageError: The tar is malformed, hostile, or exceeds a limit.
    """
    limits = limits or Limits()
    source = _Source(pieces, limits)
    tree = Tree()
    total = TarSum()
    try:
        for info, tar in _members(source):
            if tree.entries >= limits.entries:
                raise ImageError(f"a layer has more than {limits.entries} entries")
            node = _node(info)
            if info.isreg():
                _read_content(node, info, tar, source)
            total.last = info.name
            tree.add(info.name, node)
    except _BROKEN as error:
        raise ImageError(f"the tar is malformed: {error}") from None
    tree.finish()
    source.drain()
    total.digest, total.size = f"sha256:{source.hash.hexdigest()}", source.position
    return tree, total


class _Source:
    """A file that only goes forward, hashes what passes, and knows how much may be a header."""

    def __init__(self, pieces: Pieces, limits: Limits) -> None:
        self._pieces = pieces
        self._limits = limits
        self._piece = memoryview(b"")
        self._left = limits.metadata
        self._expanded = 0
        self.position = 0
        self.hash = hashlib.sha256()
        self.ended = False
        self.block = b""

    def read(self, size: int) -> bytes:
        """For `tarfile`: headers."""
        self._left -= size
        if self._left < 0 or size < 0:
            raise ImageError(f"the headers of an entry exceed {self._limits.metadata} bytes")
        self.block = data = b"".join(self.some(size))
        if size > 512 and _DIGITS.search(data):
            raise ImageError("a PAX header is malformed: a number has thousands of digits")
        return data

    def some(self, size: int) -> Iterator[memoryview]:
        """The next bytes as they come; fewer when the stream ends."""
        while size:
            if not self._piece:
                self._piece = memoryview(next(self._pieces, b""))
                self.hash.update(self._piece)
                if not self._piece:
                    return
            part, self._piece = self._piece[:size], self._piece[size:]
            size -= len(part)
            self.position += len(part)
            if self.position > self._limits.unpacked:
                raise ImageError(f"a layer unpacks to more than {self._limits.unpacked} bytes")
            yield part

    def seek(self, position: int) -> int:
        if position < self.position:
            raise ImageError("an entry of the tar has a negative size")
        for _ in self.some(position - self.position):
            pass
        return self.position

    def tell(self) -> int:
        return self.position

    def seekable(self) -> bool:
        return True

    def allow_headers(self) -> None:
        """The next entry begins."""
        self._left = self._limits.metadata

    def allow_content(self, size: int) -> None:
        """A file of this size is about to be read, with its holes."""
        self._expanded += size
        if self._expanded > self._limits.unpacked:
            raise ImageError(f"the files of a layer exceed {self._limits.unpacked} bytes")
        self._left = size + self._limits.metadata

    def drain(self) -> None:
        for _ in self.some(self._limits.unpacked + 1 - self.position):
            pass


class _Forgetful(dict[str, str]):
    """The global PAX records: Go's reader hands them over and applies none of them."""

    def __setitem__(self, key: str, value: str) -> None:
        pass


class _Info(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        info = super().frombuf(buf, encoding, errors)
        if buf[257:263] != b"ustar\0":
            # Only POSIX headers have a prefix; GNU tar has times at its place.
            info.name = bytes(buf[:100]).partition(b"\0")[0].decode(encoding, errors)
        return info

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Info:
        source = cast(_Source, tarfile_.fileobj)
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            # The end may also come after a PAX header, which then belongs to nothing.
            source.ended = source.ended or not source.block.strip(b"\0")
            if source.ended:
                raise
            raise ImageError(f"the tar is malformed: {error}") from None


def _members(source: _Source) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    try:
        tar = tarfile.TarFile(
            fileobj=cast(Any, source),
            tarinfo=_Info,
            encoding="utf-8",
            errors="surrogateescape",
            pax_headers=_Forgetful(),
        )
        # Python 3.10 would seek back at the second end of an empty tar.
        while not source.ended and (info := tar.next()) is not None:
            # It would keep all of them.
            cast(Any, tar).members = []
            yield info, tar
            source.allow_headers()
    except tarfile.ReadError:
        if not source.ended:
            raise


def _node(info: tarfile.TarInfo) -> Node:
    records = cast("dict[str, str]", info.pax_headers)
    kind = FILE if info.isreg() else _KINDS.get(info.type)
    if kind is None:
        raise ImageError(f"{info.name[:200]!a} is of the unknown type {info.type!a}")
    for name in ("uid", "gid", "size"):
        if name in records and not _NUMBER.fullmatch(records[name]):
            raise ImageError(f"{info.name[:200]!a} has the {name} {records[name][:50]!a}")
    if info.size < 0:
        raise ImageError(f"{info.name[:200]!a} has the size {info.size}")
    node = Node(
        kind,
        # Linux knows no modes of symbolic links.
        mode=0o777 if kind == SYMLINK else info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        mtime=_nanoseconds(records["mtime"]) if "mtime" in records else int(info.mtime) * 10**9,
        xattrs=_xattrs(records),
        target=info.linkname if kind in (SYMLINK, LINK) else "",
        device=(info.devmajor, info.devminor) if kind in (CHARACTER, BLOCK) else None,
    )
    if kind == DIRECTORY:
        node.children = {}
    return node


def _read_content(node: Node, info: tarfile.TarInfo, tar: tarfile.TarFile, source: _Source) -> None:
    source.allow_content(info.size)
    content = hashlib.sha256()
    size = 0
    for part in _content(info, tar, source):
        content.update(part)
        size += len(part)
    if size != info.size:
        raise ImageError(f"the tar ends in the middle of {info.name[:200]!a}")
    node.size, node.digest = size, content.digest()


def _content(
    info: tarfile.TarInfo, tar: tarfile.TarFile, source: _Source
) -> Iterator[bytes | memoryview]:
    if not info.issparse():
        yield from source.some(info.size)
        return
    file = tar.extractfile(info)
    assert file is not None
    while part := file.read(_PIECE):
        yield part


def _nanoseconds(text: str) -> int:
    found = _TIME.fullmatch(text)
    if not found:
        raise ImageError(f"a PAX header has the time {text[:50]!a}")
    # As Go: what is smaller than a nanosecond is cut off, towards 1970.
    value = int(found[2]) * 10**9 + int((found[3] or "")[:9].ljust(9, "0"))
    return -value if found[1] else value


def _xattrs(records: dict[str, str]) -> dict[str, bytes] | None:
    found: dict[str, bytes] = {}
    for key, value in records.items():
        if key.startswith(_SCHILY):
            found[key[len(_SCHILY) :]] = value.encode("utf-8", "surrogateescape")
    for key, value in records.items():
        if not key.startswith(LIBARCHIVE):
            continue
        name = urllib.parse.unquote(key[len(LIBARCHIVE) :], errors="surrogateescape")
        if name not in found:
            found[LIBARCHIVE + name] = _base64(value)
    return found or None


def _base64(text: str) -> bytes:
    try:
        # libarchive leaves the padding out.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return text.encode("utf-8", "surrogateescape")
