"""The tree that one layer describes, by the rules with which containerd unpacks it."""

from __future__ import annotations

import stat

from lazyci.errors import ImageError
from lazyci.image.nydus.nodes import node_of, path_of
from lazyci.image.rafs.reader import Node
from lazyci.image.rafs.tree import IMPLIED, OPAQUE, WHITEOUT, Folder, Leaf
from lazyci.image.tar.entry import Entry

__all__ = ["LayerTree"]

_OTHER_FORMAT = "nydus cannot carry it; use --format estargz"
_META = b".wh..wh."


class LayerTree:
    """Takes a layer's entries, in order.

    Attributes:
        root: The tree; whiteouts are files in it, as in the layer.
        is_plain: Whether no path was there twice, no directory was described after its content,
            and hard links are of regular files only: nydus-image 2.2.0 misreads the rest.
    """

    def __init__(self) -> None:
        self.root = Folder(_implied())
        self.is_plain = True
        # The last directory: most entries lie beside the one before.
        self._last: tuple[bytes, Folder] = (b"", self.root)

    def add(self, entry: Entry, number: int) -> Leaf | None:
        """Add an entry as an inode of this number; return it if it is a file that brings data.

        Raises:
            ImageError: No engine unpacks it, or nydus cannot carry it.
        """
        path = path_of(entry.name)
        if path.startswith(_META) and path != OPAQUE:
            # Notes of aufs, which containerd ignores.
            return None
        above, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT):
            self._whiteout(path, above, name)
            return None
        node = node_of(entry, number)
        if node.is_directory:
            self._directory(path, above, name, node)
            return None
        if not name:
            raise ImageError("the layer's root is no directory")
        inside = self._folder(above)
        leaf = self._linked(entry, node) if entry.type == "hardlink" else Leaf(node, 0)
        if name in inside.below:
            self.is_plain = False
            self._last = (b"", self.root)
        inside.below[name] = leaf
        return leaf if entry.type == "reg" else None

    def _folder(self, path: bytes) -> Folder:
        """The directory of a path; what of it is not there yet is implied."""
        if self._last[0] == path:
            return self._last[1]
        folder = self.root
        if path:
            for name in path.split(b"/"):
                below = folder.below.get(name)
                if below is None:
                    if name.startswith(WHITEOUT):
                        raise ImageError(f"{path[:200]!r} is below a whiteout")
                    below = folder.below[name] = Folder(_implied())
                elif isinstance(below, Leaf):
                    raise ImageError(
                        f"{path[:200]!r} leads through {name!r}, which is no directory",
                        hint=_OTHER_FORMAT,
                    )
                folder = below
        self._last = (path, folder)
        return folder

    def _directory(self, path: bytes, above: bytes, name: bytes, node: Node) -> None:
        if not path:
            self.root.node = node
            return
        inside = self._folder(above)
        old = inside.below.get(name)
        if isinstance(old, Folder):
            before = old.node
            self.is_plain &= (
                before is not None and _said(before) == _said(node) and before.xattrs == node.xattrs
            )
            old.node = node
            return
        folder = inside.below[name] = Folder(node)
        if old is not None:
            # The file before it took away what lies below in the layers below.
            self.is_plain = False
            folder.below[OPAQUE] = Leaf(_mark(), 0)
        self._last = (path, folder)

    def _whiteout(self, path: bytes, above: bytes, name: bytes) -> None:
        if name == WHITEOUT:
            raise ImageError(f"{path[:200]!r}: a whiteout of nothing")
        inside = self._folder(above)
        # Others of these are notes of aufs, too.
        if not name.startswith(_META) or name == OPAQUE:
            self.is_plain &= name not in inside.below
            inside.below[name] = Leaf(_mark(), 0)

    def _linked(self, entry: Entry, said: Node) -> Leaf:
        """The file that a hard link is one more name of; the link's header describes it anew."""
        leaf = self._target(entry)
        if path_of(entry.name) == path_of(entry.linkname):
            raise ImageError(f"{entry.name[:200]!r} is a hard link to itself")
        node = leaf.node
        self.is_plain &= stat.S_ISREG(node.mode) and _said(node) == _said(said)
        if not stat.S_ISLNK(node.mode):
            node.mode = stat.S_IFMT(node.mode) | said.mode & 0o7777
        node.uid, node.gid, node.mtime, node.mtime_ns = (
            said.uid,
            said.gid,
            said.mtime,
            said.mtime_ns,
        )
        node.xattrs = {**node.xattrs, **said.xattrs}
        return leaf

    def _target(self, entry: Entry) -> Leaf:
        path = path_of(entry.linkname)
        above, _, name = path.rpartition(b"/")
        folder: Folder | Leaf | None = self.root
        for part in above.split(b"/") if above else []:
            folder = folder.below.get(part) if isinstance(folder, Folder) else None
        leaf = folder.below.get(name) if isinstance(folder, Folder) else None
        if not isinstance(leaf, Leaf) or name.startswith(WHITEOUT):
            raise ImageError(
                f"{entry.name[:200]!r} is a hard link to {entry.linkname[:200]!r}, which is no"
                " earlier file of the same layer",
                hint=_OTHER_FORMAT,
            )
        return leaf


def _implied() -> Node:
    mode, uid, gid, mtime = IMPLIED
    return Node(0, stat.S_IFDIR | mode, uid, gid, mtime, 0)


def _mark() -> Node:
    return Node(0, stat.S_IFREG | 0o644, 0, 0, 0, 0)


def _said(node: Node) -> tuple[object, ...]:
    return node.mode, node.uid, node.gid, node.mtime
