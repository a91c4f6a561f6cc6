"""Entries of a layer's tar as inodes of a bootstrap."""

from __future__ import annotations

import os
import stat

from lazyci.errors import ImageError
from lazyci.image.rafs.reader import Node
from lazyci.image.tar.entry import Entry

__all__ = ["node_of", "path_of"]

_TYPES = {
    "reg": stat.S_IFREG,
    "hardlink": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "dir": stat.S_IFDIR,
    "fifo": stat.S_IFIFO,
}
# What RAFS has a prefix for; containerd, too, goes on where a file system knows no others.
_NAMESPACES = (b"user.", b"security.", b"trusted.")
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_MAX_NAME, _MAX_LINK, _MAX_KEY, _MAX_VALUE = 255, 4095, 255, 0xFFFF
_LAST_OWNER = 0xFFFFFFFE
# What Linux keeps of device numbers.
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xFFFFF


def node_of(entry: Entry, number: int) -> Node:
    """An entry as an inode of this number.

    Raises:
        ImageError: No engine unpacks it, or RAFS cannot hold it.
    """
    shown = f"{entry.name[:200]!r}"
    if not (0 <= entry.uid <= _LAST_OWNER and 0 <= entry.gid <= _LAST_OWNER):
        raise ImageError(f"{shown}: its owner {entry.uid}:{entry.gid} is none")
    kind = _TYPES[entry.type]
    # Linux knows no modes of symbolic links.
    mode = kind | (0o777 if kind == stat.S_IFLNK else entry.mode & 0o7777)
    node = Node(number, mode, entry.uid, entry.gid, entry.mtime, entry.size)
    node.mtime_ns = entry.mtime_ns
    if entry.mtime < 0:
        node.mtime = node.mtime_ns = 0
    if kind == stat.S_IFLNK:
        node.content = _bytes(entry.linkname)
        node.size = len(node.content)
        if not 0 < node.size <= _MAX_LINK:
            raise ImageError(f"{shown}: a symbolic link of {node.size} bytes")
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        major, minor = entry.devmajor, entry.devminor
        if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
            raise ImageError(f"{shown}: device {major}:{minor} is none")
        node.rdev = os.makedev(major, minor)
    if entry.xattrs:
        node.xattrs = _xattrs(entry, shown)
    return node


def path_of(name: str) -> bytes:
    """A path as the tree has it: no `/` at the ends, no `.`; that of the root is empty.

    Raises:
        ImageError: It leaves the layer, or has a name that no file has.
    """
    parts = [part for part in _bytes(name).split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ImageError(f"{name[:200]!r} leaves the layer's root")
    if any(len(part) > _MAX_NAME for part in parts):
        raise ImageError(f"{name[:200]!r}: a name of more than {_MAX_NAME} bytes")
    return b"/".join(parts)


def _xattrs(entry: Entry, shown: str) -> dict[bytes, bytes]:
    kept = {}
    # Sorted, so that one layer gives one bootstrap.
    for name, value in sorted(entry.xattrs.items()):
        key = _bytes(name)
        if key in _ACLS or len(value) > _MAX_VALUE or len(key) > _MAX_KEY:
            raise ImageError(
                f"{shown}: nydus cannot carry its attribute {key[:100]!r}",
                hint="use --format estargz",
            )
        if key.startswith(_NAMESPACES) and key not in _NAMESPACES:
            kept[key] = value
    return kept


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
