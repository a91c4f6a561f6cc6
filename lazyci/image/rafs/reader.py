"""Reads a nydus bootstrap: the tree, and where each file's chunks are.

Format: RAFS v6, which is EROFS with nydus' own tables (nydus-rafs 0.2.2,
`src/metadata/layout/v6.rs`; Linux `fs/erofs/erofs_fs.h`). All numbers are little-endian. What is
read may come from anybody: each offset is checked, each path is visited once.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lazyci.errors import ImageError

__all__ = ["Blob", "Chunk", "Node", "Rafs"]

_BLOCK = 4096
_MAGIC = 0xE0F5E1E2
_SUPER = struct.Struct("<III2xHQQIIII32xIHHH")
_EXTENSION = struct.Struct("<QQIIQQ")
_COMPACT = struct.Struct("<HHHHI4xIIHH4x")
_EXTENDED = struct.Struct("<HHH2xQIIIIQII16x")
_ENTRY = struct.Struct("<QHBx")
_XATTR = struct.Struct("<BBH")
_ADDRESS = struct.Struct("<HHI")
_CHUNK = struct.Struct("<32sIIIIQQQI4x")
_BLOB = struct.Struct("<64sIIIIIIQQ")
_BLOB_SIZE = 256
_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_PLAIN, _INLINE, _CHUNKED = 0, 2, 4
_MAX_DEPTH = 2048
_MAX_NODES = 10_000_000


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that the tree's chunks lie in; `id` is its digest's hexadecimal part."""

    id: str
    chunk_size: int
    chunks: int
    compressor: int
    digester: int
    features: int
    compressed: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file: where it is in its blob. The digest is that of its unpacked bytes."""

    digest: bytes
    blob: int
    index: int
    offset: int
    size: int
    unpacked: int
    is_compressed: bool


@dataclass(slots=True)
class Node:
    """One inode; hard links share it, so `inode` tells them."""

    inode: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    rdev: int = 0
    content: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    data: int = 0
    mtime_ns: int = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Rafs:
    """A bootstrap.

    Args:
        data: Its bytes.

    Raises:
        ImageError: They are none.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._chunks: dict[tuple[int, int], Chunk] | None = None
        (magic, _, _, root, _, _, _, _, meta, _, _, _, _, _) = self._unpack(_SUPER, 1024)
        if magic != _MAGIC:
            raise ImageError("the nydus bootstrap is none of RAFS v6")
        self._root = root
        self._meta = meta * _BLOCK
        (self.flags, self._blobs_at, blobs, self.chunk_size, self._chunks_at, chunks) = (
            self._unpack(_EXTENSION, 1024 + 128)
        )
        self._chunk_count = chunks // _CHUNK.size
        if not self.chunk_size:
            raise ImageError("the nydus bootstrap has chunks of no size")
        self.blobs = [self._blob(at) for at in range(blobs // _BLOB_SIZE)]

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """All paths with their inodes, a directory before what it holds; the root is empty."""
        nodes: dict[int, Node] = {}
        pending = [(b"", self._root, 0)]
        count = 0
        while pending:
            path, number, depth = pending.pop()
            node = nodes.get(number)
            if node is None:
                node = nodes[number] = self._node(number)
            elif node.is_directory:
                raise ImageError(f"the nydus bootstrap has directory {path[:100]!r} twice")
            count += 1
            if depth > _MAX_DEPTH or count > _MAX_NODES:
                raise ImageError("the nydus bootstrap is too deep or too large")
            yield path, node
            if node.is_directory:
                below = path + b"/" if path else b""
                entries = [(below + name, child, depth + 1) for name, child in self._list(node)]
                pending += reversed(entries)

    def chunks(self, node: Node) -> list[Chunk]:
        """The chunks of a file, in order."""
        table = self._table()
        chunks = []
        for at in range(-(-node.size // self.chunk_size)):
            _, high, block = self._unpack(_ADDRESS, node.data + 8 * at)
            found = table.get(((high & 0xFF) - 1, block * _BLOCK))
            if found is None:
                raise ImageError("the nydus bootstrap has a file with a chunk of no blob")
            chunks.append(found)
        return chunks

    def _table(self) -> dict[tuple[int, int], Chunk]:
        if self._chunks is None:
            self._chunks = {}
            for number in range(self._chunk_count):
                digest, blob, flags, packed, unpacked, at, offset, _, index = self._unpack(
                    _CHUNK, self._chunks_at + number * _CHUNK.size
                )
                chunk = Chunk(digest, blob, index, at, packed, unpacked, bool(flags & 1))
                self._chunks[blob, offset] = chunk
        return self._chunks

    def _unpack(self, form: struct.Struct, at: int) -> tuple[Any, ...]:
        try:
            return form.unpack_from(self._data, at)
        except struct.error:
            raise ImageError("the nydus bootstrap points out of itself") from None

    def _blob(self, number: int) -> Blob:
        values = self._unpack(_BLOB, self._blobs_at + number * _BLOB_SIZE)
        name, _, chunk_size, chunks, compressor, digester, features, compressed, _ = values
        return Blob(
            name.rstrip(b"\0").decode(errors="replace"),
            chunk_size,
            chunks,
            compressor,
            digester,
            features,
            compressed,
        )

    def _node(self, number: int) -> Node:
        at = self._meta + number * 32
        if at < 0 or at + 32 > len(self._data):
            raise ImageError("the nydus bootstrap points out of itself")
        if self._data[at] & 1:
            (form, xattrs, mode, size, union, _, uid, gid, mtime, fraction, _) = self._unpack(
                _EXTENDED, at
            )
            end = at + _EXTENDED.size
        else:
            form, xattrs, mode, _, size, union, _, uid, gid = self._unpack(_COMPACT, at)
            mtime = fraction = 0
            end = at + _COMPACT.size
        node = Node(number, mode, uid, gid, mtime, size, mtime_ns=fraction)
        if xattrs:
            length = 12 + (xattrs - 1) * 4
            node.xattrs = self._xattrs(end + 12, end + length)
            end += length
        layout = form >> 1 & 7
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode):
            node.rdev = union
        elif layout == _CHUNKED:
            node.data = -(-end // 8) * 8
        elif layout == _INLINE:
            whole = size // _BLOCK * _BLOCK
            content = self._bytes(union * _BLOCK, whole) + self._bytes(end, size - whole)
            node.content = content
        elif layout == _PLAIN and (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            node.content = self._bytes(union * _BLOCK, size)
        return node

    def _bytes(self, at: int, size: int) -> bytes:
        if at < 0 or at + size > len(self._data):
            raise ImageError("the nydus bootstrap points out of itself")
        return self._data[at : at + size]

    def _xattrs(self, at: int, end: int) -> dict[bytes, bytes]:
        found = {}
        while at + 4 <= end:
            length, prefix, size = self._unpack(_XATTR, at)
            if not length and not prefix and not size:
                break
            name = _PREFIXES.get(prefix, b"?") + self._bytes(at + 4, length)
            found[name] = self._bytes(at + 4 + length, size)
            at += -(-(4 + length + size) // 4) * 4
        return found

    def _list(self, node: Node) -> Iterator[tuple[bytes, int]]:
        for start in range(0, node.size, _BLOCK):
            block = node.content[start : start + _BLOCK]
            if len(block) < _ENTRY.size:
                raise ImageError("the nydus bootstrap has a broken directory")
            first = _ENTRY.unpack_from(block)[1]
            if first % _ENTRY.size or not _ENTRY.size <= first <= len(block):
                raise ImageError("the nydus bootstrap has a broken directory")
            entries = list(_ENTRY.iter_unpack(block[:first]))
            ends = [*(entry[1] for entry in entries[1:]), len(block)]
            for (number, begin, _), end in zip(entries, ends, strict=True):
                name = block[begin:end].rstrip(b"\0")
                if name in (b".", b".."):
                    continue
                if not name or b"/" in name or begin > end:
                    raise ImageError("the nydus bootstrap has a broken directory")
                yield name, number
