"""The table of contents (TOC) of a lazy layer, read as a lazy reader finds it: from the end.

Formats: containerd/stargz-snapshotter 0.19.1, `docs/estargz.md` and `estargz/zstdchunked`. This
shares no code with the converters, whose work it checks.
"""

from __future__ import annotations

import calendar
import io
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

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
from lazyci.image.check.treeblob import unpacked
from lazyci.image.manifest import Descriptor, compression, digest_of
from lazyci.image.store import Repository

__all__ = ["TOC_ANNOTATION", "TOC_FILE", "Row", "StoredToc", "read_toc", "toc_tree"]

TOC_ANNOTATION = "containerd.io/snapshot/stargz/toc.digest"
TOC_FILE = "stargz.index.json"

_CHECKSUM = "io.containers.zstd-chunked.manifest-checksum"
_POSITION = "io.containers.zstd-chunked.manifest-position"
_GZIP_FOOTER = 51
_ZSTD_FOOTER = 40
_ZSTD_MAGIC = b"GnUlInUx"
# The header of the skippable frame in which zstd:chunked keeps its TOC.
_SKIPPABLE = 8
# As stored, and unpacked: 300 bytes of JSON for each entry or chunk.
_MAX_STORED = 128 << 20
_MAX_TOC = 512 << 20
_EMPTY = digest_of(b"")
_KINDS = {
    "dir": DIRECTORY,
    "reg": FILE,
    "symlink": SYMLINK,
    "hardlink": LINK,
    "char": CHARACTER,
    "block": BLOCK,
    "fifo": FIFO,
}
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9})[0-9]*)?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Row(msgspec.Struct, rename="camel"):
    """One entry of the TOC, or one more chunk of the file before it."""

    name: str
    type: str
    size: int = 0
    modtime: str = ""
    link_name: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    offset: int = 0
    inner_offset: int = 0
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: dict[str, bytes] | None = None
    digest: str = ""
    chunk_offset: int = 0
    chunk_size: int = 0
    chunk_digest: str = ""


class _Document(msgspec.Struct):
    version: int
    entries: list[Row]


@dataclass(frozen=True, slots=True)
class StoredToc:
    """A layer's TOC.

    Attributes:
        rows: What it says, in its order.
        digest: Of its JSON.
        end: Where in the stored layer the data ends and the TOC begins.
        compression: Of the layer: `gzip` or `zstd`.
    """

    rows: Sequence[Row]
    digest: str
    end: int
    compression: str


def read_toc(repository: Repository, layer: Descriptor) -> StoredToc | None:
    """Read a layer's TOC; None when the layer's annotations name none.

    Raises:
        ImageError: It is malformed, too large, or not what the annotations name.
    """
    expected = layer.annotations.get(TOC_ANNOTATION)
    if expected is None:
        return None
    kind = compression(layer.media_type)
    if kind == "gzip":
        end, document = _gzip_toc(repository, layer)
    elif kind == "zstd":
        end, document = _zstd_toc(repository, layer)
    else:
        raise ImageError(f"a layer of type {layer.media_type[:100]!a} can have no TOC")
    if digest_of(document) != expected:
        raise ImageError(f"the TOC's digest is {digest_of(document)}, annotated is {expected!a}")
    try:
        toc = msgspec.json.decode(document, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"the TOC is malformed: {error}") from None
    if toc.version != 1:
        raise ImageError(f"the TOC is of version {toc.version}")
    return StoredToc(toc.entries, expected, end, kind)


def _gzip_toc(repository: Repository, layer: Descriptor) -> tuple[int, bytes]:
    footer = _range(repository, layer, layer.size - _GZIP_FOOTER, _GZIP_FOOTER)
    # RFC 1952: ten bytes with the flag FEXTRA, then the length of what is extra.
    extra = footer[12:38]
    fits = footer[:4] == b"\x1f\x8b\x08\x04" and footer[10:12] == b"\x1a\0"
    if not fits or extra[:4] != b"SG\x16\0" or extra[20:] != b"STARGZ":
        raise ImageError("the layer does not end in an eStargz footer")
    if list(unpacked(iter([footer]), "gzip")):
        raise ImageError("the eStargz footer is not empty")
    try:
        offset = int(extra[4:20].decode("ascii"), 16)
    except ValueError:
        raise ImageError("the eStargz footer has no offset") from None
    stored = _range(repository, layer, offset, layer.size - _GZIP_FOOTER - offset)
    archive = _bounded(stored, "gzip")
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            info = tar.next()
            file = tar.extractfile(info) if info and info.name == TOC_FILE else None
            if file is None:
                raise ImageError(f"there is no {TOC_FILE} where the footer points")
            return offset, file.read()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ImageError(f"the TOC's archive is malformed: {error}") from None


def _zstd_toc(repository: Repository, layer: Descriptor) -> tuple[int, bytes]:
    footer = _range(repository, layer, layer.size - _ZSTD_FOOTER, _ZSTD_FOOTER)
    start, size, plain, kind = (
        int.from_bytes(footer[at : at + 8], "little") for at in (0, 8, 16, 24)
    )
    if footer[32:] != _ZSTD_MAGIC or kind != 1:
        raise ImageError("the layer does not end in a zstd:chunked footer")
    stored = _range(repository, layer, start, size)
    document = _bounded(stored, "zstd")
    if len(document) != plain:
        raise ImageError(f"the TOC has {len(document)} bytes, the footer says {plain}")
    position = layer.annotations.get(_POSITION, f"{start}:{size}:{plain}:{kind}")
    if position != f"{start}:{size}:{plain}:{kind}":
        raise ImageError(f"the TOC's annotated position {position[:100]!a} is not the footer's")
    if layer.annotations.get(_CHECKSUM, digest_of(stored)) != digest_of(stored):
        raise ImageError("the TOC's annotated checksum is another one")
    return start - _SKIPPABLE, document


def _range(repository: Repository, layer: Descriptor, start: int, length: int) -> bytes:
    if start < 0 or length <= 0 or start + length > layer.size:
        raise ImageError(f"bytes {start} to {start + length} are outside the layer")
    if length > _MAX_STORED:
        raise ImageError(f"the TOC has {length} bytes; {_MAX_STORED} are allowed")
    data = repository.read_range(layer, start, length)
    if len(data) != length:
        raise ImageError(f"{len(data)} bytes of the layer came, asked were {length}")
    return data


def _bounded(stored: bytes, kind: str) -> bytes:
    plain = bytearray()
    for piece in unpacked(iter([stored]), kind):
        plain += piece
        if len(plain) > _MAX_TOC:
            raise ImageError(f"the TOC unpacks to more than {_MAX_TOC} bytes")
    return bytes(plain)


def toc_tree(rows: Sequence[Row]) -> Tree:
    """The file system that a TOC tells of.

    Raises:
        ImageError: It cannot be one: a type or time is unknown, a path lies below a file.
    """
    tree = Tree(literal=True)
    for row in rows:
        if row.type != "chunk":
            tree.add(row.name, _node(row))
    tree.finish()
    return tree


def _node(row: Row) -> Node:
    kind = _KINDS.get(row.type)
    if kind is None:
        raise ImageError(f"the TOC has {row.name[:200]!a} of the type {row.type[:50]!a}")
    node = Node(
        kind,
        mode=0o777 if kind == SYMLINK else row.mode & 0o7777,
        uid=row.uid,
        gid=row.gid,
        mtime=_nanoseconds(row.modtime),
        xattrs=row.xattrs or None,
        target=row.link_name,
        device=(row.dev_major, row.dev_minor) if kind in (CHARACTER, BLOCK) else None,
    )
    if kind == DIRECTORY:
        node.children = {}
    if kind == FILE:
        found = _DIGEST.fullmatch(row.digest if row.size or row.digest else _EMPTY)
        node.size, node.digest = row.size, bytes.fromhex(found[1]) if found else b""
    return node


def _nanoseconds(text: str) -> int:
    found = _TIME.fullmatch(text)
    if not found:
        raise ImageError(f"the TOC has the time {text[:50]!a}")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    try:
        seconds = calendar.timegm((year, month, day, hour, minute, second))
    except ValueError as error:
        raise ImageError(f"the TOC has the time {text[:50]!a}: {error}") from None
    if found[8]:
        ahead = int(found[9]) * 3600 + int(found[10]) * 60
        seconds += -ahead if found[8] == "+" else ahead
    return seconds * 10**9 + int((found[7] or "").ljust(9, "0"))
