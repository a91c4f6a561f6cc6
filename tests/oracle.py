"""What a stack of layers is when it is unpacked: an oracle with nothing of lazyci in it."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from typing import Any


class RefusedError(Exception):
    """containerd would follow a link outside the layer, or refuse: nydus cannot carry it."""


@dataclass(eq=False)
class Node:
    kind: str
    meta: tuple[int, int, int, int] = (0o755, 0, 0, 0)
    xattrs: dict[str, str] = field(default_factory=dict)
    data: Any = None


Tree = dict[str, Node]


def read(layer: bytes) -> list[tuple[str, tarfile.TarInfo, bytes]]:
    entries = []
    with tarfile.open(fileobj=io.BytesIO(layer), errors="surrogateescape") as tar:
        for info in tar:
            data = b""
            if info.isreg():
                file = tar.extractfile(info)
                assert file
                data = file.read()
            entries.append((path_of(info.name), info, data))
    return entries


def path_of(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def apply(layers: list[bytes]) -> Tree:
    tree: Tree = {"": Node("5")}
    for layer in layers:
        entries = read(layer)
        for path, _, _ in entries:
            whiteout(tree, path)
        seen: set[str] = set()
        for path, info, data in entries:
            if not path.rpartition("/")[2].startswith(".wh."):
                add(tree, seen, path, info, data)
            else:
                parents(tree, seen, path)
    return tree


def whiteout(tree: Tree, path: str) -> None:
    above, _, name = path.rpartition("/")
    if name == ".wh..wh..opq":
        remove(tree, above, itself=False)
    elif name.startswith(".wh."):
        remove(tree, f"{above}/{name[4:]}" if above else name[4:])


def remove(tree: Tree, path: str, itself: bool = True) -> None:
    below = f"{path}/" if path else ""
    for known in [known for known in tree if known.startswith(below) and known != path and known]:
        del tree[known]
    if itself:
        tree.pop(path, None)


def parents(tree: Tree, seen: set[str], path: str) -> None:
    above = path.rpartition("/")[0]
    if not above:
        return
    parents(tree, seen, above)
    if above not in tree:
        tree[above] = Node("5")
    elif tree[above].kind != "5":
        raise RefusedError(above)
    seen.add(above)


def add(tree: Tree, seen: set[str], path: str, info: tarfile.TarInfo, data: bytes) -> None:
    parents(tree, seen, path)
    if info.islnk():
        target = path_of(info.linkname)
        if target == path or target not in seen or target not in tree or tree[target].kind == "5":
            raise RefusedError(info.linkname)
        node = tree[target]
        said = node_of(info, b"")
        node.meta = (node.meta[0] if node.kind == "2" else said.meta[0], *said.meta[1:])
        node.xattrs = {**node.xattrs, **said.xattrs}
    else:
        node = node_of(info, data)
    if path in tree and not (node.kind == "5" and tree[path].kind == "5"):
        remove(tree, path)
    tree[path] = node
    seen.add(path)


def node_of(info: tarfile.TarInfo, data: bytes) -> Node:
    kind = "0" if info.isreg() else info.type.decode()
    xattrs = {
        key.removeprefix("SCHILY.xattr."): value
        for key, value in info.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    }
    content: Any = {"0": data, "2": info.linkname}.get(kind)
    if kind in "34":
        content = (info.devmajor, info.devminor)
    meta = (0o777 if kind == "2" else info.mode & 0o7777, info.uid, info.gid, int(info.mtime // 1))
    return Node(kind, meta, xattrs, content)


def shown(tree: Tree) -> dict[str, Any]:
    """A tree as it is compared: hard links of regular files by the paths that share an inode."""
    groups: dict[int, list[str]] = {}
    for path, node in tree.items():
        if node.kind == "0":
            groups.setdefault(id(node), []).append(path)
    return {
        path: (node.kind, node.meta, node.xattrs, node.data, sorted(groups.get(id(node), [])))
        for path, node in tree.items()
    }
