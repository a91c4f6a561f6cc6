"""The file system that a layer, or layers one over the other, describe.

A layer is entries in order; a later one of the same path replaces an earlier one, as when the
layer is unpacked. Rules: OCI image specification 1.1, `layer.md` (whiteouts, opaque whiteouts,
hard links), and where it is silent what containerd 1.7's `archive` does on overlayfs: paths below
a symbolic link of the same layer are followed inside the image, a header of a hard link sets the
attributes of the file, a directory no header describes is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lazyci.errors import ImageError

__all__ = [
    "BLOCK",
    "CHARACTER",
    "DIRECTORY",
    "FIFO",
    "FILE",
    "LINK",
    "SYMLINK",
    "Node",
    "Tree",
    "components",
    "merge",
]

FILE = "file"
DIRECTORY = "directory"
SYMLINK = "symbolic link"
CHARACTER = "character device"
BLOCK = "block device"
FIFO = "fifo"
# A hard link whose target is in no entry of its own layer, so that it must be in a lower one.
LINK = "hard link"

# Linux takes no longer path (PATH_MAX, with its end), so nothing that unpacks can make one.
_MAX_PATH = 4095
# As in containerd's `fs.RootPath`.
_MAX_HOPS = 255
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
# What a directory gets that no header describes.
_IMPLIED_MODE = 0o755


@dataclass(slots=True, eq=False)
class Node:
    """One file of any type; hard links are several names of the same node.

    Attributes:
        kind: One of the constants of this module.
        mode: Permission bits, set-user-id, set-group-id and sticky bit.
        mtime: Nanoseconds since 1970.
        target: Where a symbolic link points, as written; of `LINK` the path of the other name.
        device: Major and minor number of a device.
        size: Of a file, in bytes, with holes.
        digest: SHA-256 of a file's content; the raw 32 bytes.
        implied: A directory that no header describes: its attributes are those of a lower layer.
        children: What a directory holds, by name.
        hidden: Names in this directory that hide what lower layers have there (whiteouts).
        opaque: The directory hides all that lower layers have in it.
    """

    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: dict[str, bytes] | None = None
    target: str = ""
    device: tuple[int, int] | None = None
    size: int = 0
    digest: bytes = b""
    implied: bool = False
    children: dict[str, Node] | None = None
    hidden: set[str] | None = None
    opaque: bool = False

    def take_attributes(self, other: Node) -> None:
        """Take owner, mode, time and extended attributes over; earlier attributes stay."""
        self.uid, self.gid = other.uid, other.gid
        if self.kind != SYMLINK:
            self.mode = other.mode
        self.mtime = other.mtime
        if other.xattrs:
            self.xattrs = {**(self.xattrs or {}), **other.xattrs}


def _directory() -> Node:
    return Node(DIRECTORY, mode=_IMPLIED_MODE, implied=True, children={})


def components(path: str) -> tuple[str, ...]:
    """The names that a path is made of: `./a//b/` and `/a/b` are `a`, `b`; the root has none.

    Raises:
        ImageError: The path leaves its place by `..`, holds a NUL, or is longer than Linux takes.
    """
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    if ".." in names:
        raise ImageError(f"the path {path[:200]!a} has a `..`")
    if "\0" in path:
        raise ImageError(f"the path {path[:200]!a} has a NUL")
    if len(path.encode("utf-8", "surrogateescape")) > _MAX_PATH:
        raise ImageError(f"the path {path[:100]!a}... has more than {_MAX_PATH} bytes")
    return names


@dataclass(slots=True, eq=False)
class Tree:
    """The files of a layer, or of layers merged.

    Attributes:
        root: The root directory.
        literal: Refuse a path below a symbolic link, which a table of contents cannot mean.
        entries: Entries added so far, whiteouts included.
        pending: Hard links whose targets are not there yet: directory, name and header.
    """

    root: Node = field(default_factory=_directory)
    literal: bool = False
    entries: int = 0
    pending: list[tuple[Node, str, Node]] = field(default_factory=list)

    def add(self, path: str, node: Node) -> None:
        """Add the next entry.

        Args:
            path: As written in the layer.
            node: The entry. Of kind `LINK` it is a header that makes a hard link; a directory's
                children are added by their own entries.

        Raises:
            ImageError: The path is hostile, or lies below something that is no directory.
        """
        self.entries += 1
        names = components(path)
        if not names:
            if node.kind == DIRECTORY:
                _describe(self.root, node)
            # containerd ignores anything else that is called like the root.
            return
        parent, name = self._parent(names), names[-1]
        assert parent is not None
        if name.startswith(_WHITEOUT):
            self._hide(parent, name, path)
            return
        assert parent.children is not None
        there = parent.children.get(name)
        if node.kind == DIRECTORY:
            if there is None or there.kind != DIRECTORY:
                parent.children[name] = there = _directory()
            _describe(there, node)
        elif node.kind == LINK:
            self._link(parent, name, node)
        else:
            parent.children[name] = node

    def find(self, path: str) -> Node | None:
        """The node of this very path, no link followed."""
        node: Node | None = self.root
        for name in components(path):
            node = (node.children or {}).get(name) if node else None
        return node

    def finish(self) -> None:
        """The layer is complete: links that came before their targets find them now."""
        if self.pending:
            # Not those whose directory was replaced meanwhile.
            there = {id(node) for _, node in self.walk() if node.kind == LINK}
            self.pending = [link for link in self.pending if id(link[2]) in there]
        # A link may lead to a link; each round finds one more of a chain.
        for _ in range(_MAX_HOPS):
            left = [link for link in self.pending if not self._settle(link, self)]
            if len(left) == len(self.pending):
                return
            self.pending = left

    def resolve_links(self, lower: Tree) -> None:
        """Find the targets of links that this layer does not hold in the layers below.

        Raises:
            ImageError: One is in none of them, or is a directory.
        """
        self.pending = [link for link in self.pending if not self._settle(link, lower)]
        self.finish()
        for _, name, header in self.pending:
            raise ImageError(f"{name!a} is a hard link to {header.target!a}, which is no file")

    def walk(self) -> Iterator[tuple[str, Node]]:
        """All paths with their nodes, the root (an empty path) first, each directory by name."""
        stack = [("", self.root)]
        while stack:
            path, node = stack.pop()
            yield path, node
            if node.children:
                prefix = f"{path}/" if path else ""
                stack += [
                    (prefix + name, child)
                    for name, child in sorted(node.children.items(), reverse=True)
                ]

    def _settle(self, link: tuple[Node, str, Node], where: Tree) -> bool:
        """Let a link be its target; False when the target is not there."""
        parent, name, header = link
        assert parent.children is not None
        if parent.children.get(name) is not header:
            return True
        target = where._target(components(header.target))
        if target is None:
            return False
        parent.children[name] = target
        if not self.literal:
            target.take_attributes(header)
        return True

    def _link(self, parent: Node, name: str, header: Node) -> None:
        assert parent.children is not None
        names = components(header.target)
        if not names:
            raise ImageError(f"{name!a} is a hard link to the root")
        header.target = "/".join(names)
        parent.children[name] = header
        link = (parent, name, header)
        if not self._settle(link, self):
            self.pending.append(link)

    def _target(self, names: tuple[str, ...]) -> Node | None:
        """The file of a hard link, if it is there by now."""
        parent = self._parent(names, make=False)
        node = (parent.children or {}).get(names[-1]) if parent else None
        return None if node is None or node.kind in (DIRECTORY, LINK) else node

    def _hide(self, parent: Node, name: str, path: str) -> None:
        if name == _OPAQUE:
            parent.opaque = True
            return
        hidden = name[len(_WHITEOUT) :]
        if hidden in ("", ".", ".."):
            raise ImageError(f"the whiteout {path[:200]!a} names no file")
        if parent.hidden is None:
            parent.hidden = set()
        parent.hidden.add(hidden)

    def _parent(self, names: tuple[str, ...], *, make: bool = True) -> Node | None:
        """The directory that holds the last of these names; None: missing and not to be made."""
        trail = [self.root]
        ahead = list(reversed(names[:-1]))
        hops = 0
        while ahead:
            name = ahead.pop()
            if name == "..":
                # Only out of a link's target; the root is its own parent.
                if len(trail) > 1:
                    trail.pop()
                continue
            children = trail[-1].children
            assert children is not None
            node = children.get(name)
            if node is None:
                if not make:
                    return None
                node = children[name] = _directory()
            if node.kind == DIRECTORY:
                trail.append(node)
                continue
            hops += 1
            if node.kind != SYMLINK or self.literal or hops > _MAX_HOPS:
                if not make:
                    return None
                raise ImageError(
                    f"{'/'.join(names)[:200]!a} lies below {name[:200]!a}, which is no directory"
                )
            if node.target.startswith("/"):
                del trail[1:]
            ahead += [part for part in reversed(node.target.split("/")) if part not in ("", ".")]
        return trail[-1]


def merge(lower: Tree, upper: Tree) -> Tree:
    """Put a layer over what lies below it. Both trees are used up; the result is the lower one.

    The result has no whiteouts: what they hide is gone.

    Raises:
        ImageError: A hard link has no target.
    """
    upper.resolve_links(lower)
    stack = [(lower.root, upper.root)]
    while stack:
        below, above = stack.pop()
        if not above.implied:
            below.mode, below.uid, below.gid = above.mode, above.uid, above.gid
            below.mtime, below.xattrs, below.implied = above.mtime, above.xattrs, False
        assert below.children is not None
        if above.opaque:
            below.children = {}
        for name in above.hidden or ():
            below.children.pop(name, None)
        for name, child in (above.children or {}).items():
            there = below.children.get(name)
            if child.kind != DIRECTORY:
                below.children[name] = child
                continue
            if there is None or there.kind != DIRECTORY:
                there = below.children[name] = _directory()
            stack.append((there, child))
    lower.entries += upper.entries
    return lower


def _describe(directory: Node, header: Node) -> None:
    directory.take_attributes(header)
    directory.implied = False
