"""The trees of an image's layers, laid over each other by the rules of OCI layers.

Rules: OCI image specification, `layer.md`: whiteouts hide what lies below their layer only, and
are themselves never seen; what is no directory replaces what it covers; a directory over a
directory keeps what that holds. Bootstraps may come from anybody: what their inodes hold must
fit into them, so none makes more of itself than it is.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from lazyci.errors import ImageError
from lazyci.image.rafs.blobs import Blobs, Layer
from lazyci.image.rafs.reader import Node, Rafs
from lazyci.image.rafs.tree import IMPLIED, OPAQUE, WHITEOUT, Folder, Leaf
from lazyci.image.rafs.writer import write_bootstrap

__all__ = ["Layer", "lay_over", "merge_bootstraps"]

# Linux takes no longer path in one call (PATH_MAX), so no engine unpacks it.
_MAX_PATH = 4096
_MAX_NAME = 255
# nydus-rafs 0.2.2, `direct_v6.rs`, `get_symlink`.
_MAX_LINK = 4096
_DEFAULT = (0o755, 0, 0, 0)
_KINDS = {
    stat.S_IFREG,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
}


def merge_bootstraps(layers: Sequence[Layer]) -> bytes:
    """Merge the bootstraps of an image's layers into that of the image.

    Args:
        layers: The layers, the lowest first.

    Returns:
        The bootstrap: the tree by the rules of OCI layers, with all blobs that a layer names.

    Raises:
        ImageError: A bootstrap is malformed, the layers do not fit together, or they cannot be
            laid over each other the way engines do it.
    """
    if not layers:
        raise ImageError("an image of no layers has no nydus bootstrap")
    root = Folder(None)
    blobs = Blobs(layers)
    for number, layer in enumerate(layers):
        rafs = Rafs(layer.bootstrap)
        blobs.add(layer, rafs)
        lay_over(root, layer, rafs, number)
    return write_bootstrap(root, blobs)


def lay_over(root: Folder, layer: Layer, rafs: Rafs, number: int) -> None:
    """Lay a layer over the tree of those below it.

    Args:
        root: The tree; of no layers yet an empty folder.
        layer: The layer.
        rafs: Its bootstrap.
        number: Which of the image's layers it is; its leaves keep it.

    Raises:
        ImageError: The bootstrap is malformed, or the layer goes through what is no directory in
            the layers below.
    """
    pending = [(root, _read(layer, rafs, number), b"")]
    while pending:
        low, up, path = pending.pop()
        if up.node is not None:
            low.node = up.node
        if up.is_opaque:
            low.below.clear()
        for name in up.whiteouts:
            low.below.pop(name, None)
        for name, child in up.below.items():
            old = low.below.get(name)
            if isinstance(child, Leaf) or old is None:
                low.below[name] = child
            elif isinstance(old, Folder):
                pending.append((old, child, path + b"/" + name))
            elif child.node is not None:
                low.below[name] = child
            else:
                raise ImageError(
                    f"layer sha256:{layer.source} goes through {path[1:] + b'/' + name!r}, which is"
                    " no directory in the layers below it",
                    hint="nydus cannot carry it; use --format estargz",
                )


def _read(layer: Layer, rafs: Rafs, number: int) -> Folder:
    """A layer's own tree; its implied directories have no node."""
    implied = _DEFAULT if layer.is_index else IMPLIED
    folders: dict[bytes, Folder] = {}
    leaves: dict[int, Leaf] = {}
    room = len(layer.bootstrap)
    for path, node in rafs.walk():
        if node.inode not in leaves:
            room -= _held(node, rafs.chunk_size)
        if room < 0 or len(path) > _MAX_PATH:
            raise ImageError("the nydus bootstrap holds more than it has room for")
        if not path:
            folders[path] = _folder(node, implied)
            continue
        above, _, name = path.rpartition(b"/")
        if len(name) > _MAX_NAME or b"\0" in name:
            raise ImageError("the nydus bootstrap has a name that no file has")
        inside = folders.get(above)
        if inside is None:
            # It lies in a directory that is named like a whiteout.
            continue
        if name.startswith(WHITEOUT):
            inside.is_opaque |= name == OPAQUE
            inside.whiteouts.append(name[len(WHITEOUT) :])
        elif node.is_directory:
            inside.below[name] = folders[path] = _folder(node, implied)
        else:
            leaf = leaves.get(node.inode)
            if leaf is None:
                leaf = leaves[node.inode] = _leaf(node, number)
            inside.below[name] = leaf
    return folders[b""]


def _folder(node: Node, implied: tuple[int, int, int, int]) -> Folder:
    if not node.is_directory:
        raise ImageError("the nydus bootstrap has no directory for its root")
    said = (node.mode & 0o7777, node.uid, node.gid, node.mtime)
    return Folder(None if said == implied and not node.xattrs else node)


def _leaf(node: Node, number: int) -> Leaf:
    kind = stat.S_IFMT(node.mode)
    if kind not in _KINDS:
        raise ImageError(f"the nydus bootstrap has an inode of mode {node.mode:o}")
    if kind == stat.S_IFLNK and not 0 < len(node.content) <= _MAX_LINK:
        raise ImageError(f"the nydus bootstrap has a symbolic link of {node.size} bytes")
    return Leaf(node, number)


def _held(node: Node, chunk_size: int) -> int:
    """How many bytes of the bootstrap an inode needs, at least."""
    held = 32 + len(node.content)
    if stat.S_ISREG(node.mode):
        held += -(-node.size // chunk_size) * 8
    if node.xattrs:
        held += sum(map(len, node.xattrs.values()))
    return held
