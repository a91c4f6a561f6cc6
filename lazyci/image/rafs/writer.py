"""Writes the bootstrap of a tree, of one layer or of a whole image.

Format and order: RAFS v6 as `nydus-image merge` 2.2.0 writes it, to the byte: nydus-rafs 0.2.2
(`src/metadata/layout/v6.rs`) for the structures; nydus-rs 2.2.0 (`src/bin/nydus-image/`) for
where they are put: `core/bootstrap.rs`, `core/node.rs`, `core/context.rs`, and `merge.rs` for the
blobs. Two things differ: the order of a file's attributes, where it has several, for that tool
orders them by chance; and directories that would fill their blocks exactly (see `blocks_of`).
"""

from __future__ import annotations

import stat
import struct

from lazyci.errors import ImageError
from lazyci.image.rafs.reader import Node
from lazyci.image.rafs.space import BLOCK, SLOT, Space, blocks_of, is_inline, length_of, up
from lazyci.image.rafs.tree import Folder, Leaf, Tables

__all__ = ["write_bootstrap"]

# nydus-image merges into extended inodes only.
_INODE_SIZE = 64
_PLAIN, _INLINE, _CHUNKED = 0, 2, 4
_MAGIC = 0xE0F5E1E2
_COMPATIBLE, _INCOMPATIBLE = 0x40000000, 0x4 | 0x8
_BLOCK_BITS = 12
_SUPER_AT, _EXTENSION_AT, _DEVICES_AT = 1024, 1024 + 128, 1024 + 128 + 256
_SUPER = struct.Struct("<IIIBBHQQIIII32xIHHH38x")
_EXTENSION = struct.Struct("<QQIIQQQII200x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_ENTRY = struct.Struct("<QHBx")
_XATTR = struct.Struct("<BBH")
_XATTR_HEADER = bytes(12)
_PREFIXES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)
# nydus-image sets it whether there are any or not.
_HAS_XATTR = 0x20
# The chunk indexes' format; the lower five bits are the chunk's size.
_INDEXES = 0x20
_MAX_CHUNK_BITS = 31
# EROFS_FILE_TYPE.
_DIRECTORY = 2
_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
# RAFS_MAX_METADATA_SIZE.
_MAX_SIZE = 0x80000000
_UNSAID = Node(0, stat.S_IFDIR | 0o755, 0, 0, 0, 0)


def write_bootstrap(root: Folder, tables: Tables) -> bytes:
    """Write a bootstrap.

    Args:
        root: Its tree, in which what is the writer's was not set before.
        tables: The blobs and chunks of its files.

    Raises:
        ImageError: It would be too large, or has what the format cannot hold.
    """
    return _Writer(root, tables).write()


class _Writer:
    def __init__(self, root: Folder, blobs: Tables) -> None:
        self._root = root
        self._blobs = blobs
        self._space = Space()
        self._chunk_bits = blobs.chunk_size.bit_length() - 1
        # In the order of their inodes; hard links once.
        self._folders: list[Folder] = []
        self._leaves: list[Leaf] = []
        self._count = 1

    def write(self) -> bytes:
        self._place()
        devices, table = self._blobs.devices(), self._blobs.table()
        table_at = up(_DEVICES_AT + len(devices))
        # Without blobs, the inodes' first block is that of the table.
        base = up(table_at + len(table)) if table else 0
        chunks_at = base + up(self._space.end)
        if chunks_at > _MAX_SIZE:
            raise ImageError("the merged nydus bootstrap would be too large")
        out = bytearray(chunks_at)
        for folder in self._folders:
            self._write_folder(out, base, folder)
        for leaf in self._leaves:
            self._write_leaf(out, base, leaf)
        chunks = self._blobs.chunks()
        out += chunks
        out += bytes(-len(out) % BLOCK)
        flags = self._blobs.flags | _HAS_XATTR
        _SUPER.pack_into(
            out, _SUPER_AT, _MAGIC, 0, _COMPATIBLE, _BLOCK_BITS, 0, self._root.offset // SLOT,
            self._count, 0, 0, self._blobs.blocks, base // BLOCK, 0, _INCOMPATIBLE, 0,
            self._blobs.count, _DEVICES_AT // 128,
        )  # fmt: skip
        _EXTENSION.pack_into(
            out, _EXTENSION_AT, flags, table_at, len(table), self._blobs.chunk_size, chunks_at,
            len(chunks), 0, 0, 0,
        )  # fmt: skip
        out[_DEVICES_AT : _DEVICES_AT + len(devices)] = devices
        out[table_at : table_at + len(table)] = table
        return bytes(out)

    def _place(self) -> None:
        """Give each inode its place and its number: a directory, what it holds, then the next."""
        space, number = self._space, 1
        self._root.parent = BLOCK
        pending = [self._root]
        while pending:
            folder = pending.pop()
            self._folders.append(folder)
            folder.xattrs = _pack_xattrs(folder.node)
            below = folder.below
            names = sorted([*below, b".", b".."])
            folder.blocks = blocks_of(names)
            folder.size = (len(folder.blocks) - 1) * BLOCK + length_of(folder.blocks[-1])
            folder.offset, folder.start = space.tailed(
                _INODE_SIZE + len(folder.xattrs), folder.size
            )
            space.align()
            if not folder.number:
                # Of the root, nydus-image keeps the number in the layer's own bootstrap.
                folder.number = folder.offset // SLOT
            inner: list[Folder] = []
            for name in names:
                child = below.get(name)
                if child is None:
                    continue
                number += 1
                if isinstance(child, Folder):
                    child.number, child.parent = number, folder.offset
                    inner.append(child)
                    continue
                child.links += 1
                if child.links == 1:
                    child.number = number
                    self._place_leaf(child)
                    space.align()
            inner.reverse()
            pending += inner
        self._count = number

    def _place_leaf(self, leaf: Leaf) -> None:
        node = leaf.node
        self._leaves.append(leaf)
        if node.xattrs:
            leaf.xattrs = _pack_xattrs(node)
        size = _INODE_SIZE + len(leaf.xattrs)
        if stat.S_ISREG(node.mode):
            leaf.offset = self._space.chunked(size, -(-node.size >> self._chunk_bits))
        elif stat.S_ISLNK(node.mode):
            leaf.offset, leaf.start = self._space.tailed(size, node.size)
        else:
            leaf.offset = self._space.plain(size)

    def _write_folder(self, out: bytearray, base: int, folder: Folder) -> None:
        node = folder.node or _UNSAID
        at = base + folder.offset
        end = at + _INODE_SIZE + len(folder.xattrs)
        inline = is_inline(_INODE_SIZE + len(folder.xattrs), folder.size)
        below = folder.below
        folders = 0
        last = len(folder.blocks) - 1
        pack = _ENTRY.pack_into
        for number, names in enumerate(folder.blocks):
            start = end if inline and number == last else base + folder.start + number * BLOCK
            offset = _ENTRY.size * len(names)
            head = start
            for name in names:
                child = below.get(name)
                if child is None:
                    place = folder.offset if name == b"." else folder.parent
                    kind = _DIRECTORY
                elif isinstance(child, Leaf):
                    place, kind = child.offset, _TYPES[child.node.mode & 0o170000]
                else:
                    place, kind = child.offset, _DIRECTORY
                    folders += 1
                pack(out, head, place // SLOT, offset, kind)
                head += _ENTRY.size
                offset += len(name)
            out[head : start + offset] = b"".join(names)
        _INODE.pack_into(
            out, at, 1 | (_INLINE if inline else _PLAIN) << 1, _slots(folder.xattrs), node.mode, 0,
            folder.size, (base + folder.start) // BLOCK, folder.number, node.uid, node.gid,
            node.mtime, node.mtime_ns, 2 + folders,
        )  # fmt: skip
        out[at + _INODE_SIZE : end] = folder.xattrs

    def _write_leaf(self, out: bytearray, base: int, leaf: Leaf) -> None:
        node = leaf.node
        at = base + leaf.offset
        size = _INODE_SIZE + len(leaf.xattrs)
        layout, union = _PLAIN, node.rdev
        if stat.S_ISREG(node.mode):
            addresses, is_continuous = self._blobs.addresses(leaf)
            bits = self._chunk_bits
            if is_continuous and node.size > self._blobs.chunk_size:
                bits = (node.size - 1).bit_length()
            if bits - _BLOCK_BITS > _MAX_CHUNK_BITS:
                raise ImageError("the nydus bootstrap has a file that is too large")
            layout, union = _CHUNKED, _INDEXES | (bits - _BLOCK_BITS)
            start = at + -(-size // 8) * 8
            out[start : start + len(addresses)] = addresses
        elif stat.S_ISLNK(node.mode):
            union = (base + leaf.start) // BLOCK
            inline = is_inline(size, node.size)
            layout = _INLINE if inline else _PLAIN
            start = at + size if inline else base + leaf.start
            out[start : start + node.size] = node.content
        _INODE.pack_into(
            out, at, 1 | layout << 1, _slots(leaf.xattrs), node.mode, 0, node.size, union,
            leaf.number, node.uid, node.gid, node.mtime, node.mtime_ns, leaf.links,
        )  # fmt: skip
        if leaf.xattrs:
            out[at + _INODE_SIZE : at + size] = leaf.xattrs


def _pack_xattrs(node: Node | None) -> bytes:
    if node is None or not node.xattrs:
        return b""
    parts = [_XATTR_HEADER]
    for name, value in node.xattrs.items():
        for prefix, index in _PREFIXES:
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                entry = _XATTR.pack(len(rest), index, len(value)) + rest + value
                parts.append(entry + bytes(-len(entry) % 4))
                break
        else:
            raise ImageError(f"the nydus bootstrap has an attribute {name[:100]!r}")
    packed = b"".join(parts)
    if _slots(packed) > 0xFFFF:
        raise ImageError("the nydus bootstrap has an inode with too many attributes")
    return packed


def _slots(xattrs: bytes) -> int:
    """How an inode says the size of its attributes."""
    return (len(xattrs) - len(_XATTR_HEADER)) // 4 + 1 if xattrs else 0
