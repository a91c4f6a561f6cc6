"""All layers' bootstraps merged into one, by the rules of OCI layers.

`nydus-image merge` 2.2.0 keeps the whiteouts of the first layer as files, and gives a directory
that an upper layer only passes through that layer's made-up attributes. So an empty layer goes in
front, and one behind that describes those directories again, as the layers below have them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lazyci.errors import ImageError, InternalError
from lazyci.image.manifest import Descriptor
from lazyci.image.nydus_header import DIRECTORY, IMPLICIT, Entry, encode
from lazyci.image.nydus_image import ANNOTATION_REF, ANNOTATION_TOC
from lazyci.image.nydus_tool import NydusImage
from lazyci.image.rafs import Node, Rafs

__all__ = ["Part", "merge"]

# The blob index in an inode's chunk address has eight bits, of which 0 is the bootstrap itself.
MAX_BLOBS = 254
_OPAQUE = b".wh..wh..opq"
_DEFAULT = (0o755, 0, 0, 0)
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Part:
    """One layer to merge: its blob, and its bootstrap."""

    blob: Descriptor
    bootstrap: bytes

    @property
    def source(self) -> str:
        """The digest of the blob that holds the data."""
        return self.blob.annotations.get(ANNOTATION_REF, self.blob.digest)

    @property
    def toc(self) -> str:
        return self.blob.annotations.get(ANNOTATION_TOC, _NO_DIGEST)

    @property
    def is_index(self) -> bool:
        return self.source != self.blob.digest


def merge(tool: NydusImage, parts: Sequence[Part]) -> bytes:
    """Merge the layers of an image, lowest first; return the bootstrap of the whole.

    Raises:
        ToolError: nydus-image failed.
        ImageError: The layers cannot be laid over each other the way engines do it.
    """
    if len({part.blob.digest for part in parts}) > MAX_BLOBS:
        raise ImageError(f"the image has more than {MAX_BLOBS} layers")
    trees = [list(Rafs(part.bootstrap).walk()) for part in parts]
    folders = _folders(parts, trees)
    with tempfile.TemporaryDirectory(prefix="lazyci-nydus-") as scratch:
        folder = Path(scratch)
        # Only where it matters: nydus-image reads the first layer much faster than it adds others.
        first = trees and any(_is_whiteout(path) for path, _ in trees[0])
        files = [_describe(tool, folder / "first", [])] if first else []
        last = _describe(tool, folder / "last", folders)
        for part in parts:
            # nydus-image takes the name of the file for the blob's.
            file = folder / part.source.partition(":")[2]
            file.write_bytes(part.bootstrap)
            files.append(file)
        files.append(last)
        merged = folder / "merged"
        options = [f"--bootstrap={merged}", "--log-level=error", "--prefetch-policy=none"]
        if any(part.is_index for part in parts):
            options += _index_options(parts, bool(first))
        tool.run("merge", *options, *map(str, files))
        bootstrap = merged.read_bytes()
    _check(bootstrap, parts)
    return bootstrap


def _index_options(parts: Sequence[Part], first: bool) -> list[str]:
    digests = [part.blob.digest.partition(":")[2] for part in parts]
    digests = [*[_NO_DIGEST] * first, *digests, _NO_DIGEST]
    sizes = [*["0"] * first, *(str(part.blob.size) for part in parts), "0"]
    tocs = [*[_NO_DIGEST] * first, *(part.toc for part in parts), _NO_DIGEST]
    return [
        f"--blob-digests={','.join(digests)}",
        f"--blob-sizes={','.join(sizes)}",
        f"--blob-toc-digests={','.join(tocs)}",
    ]


def _describe(tool: NydusImage, file: Path, entries: list[Entry]) -> Path:
    """A bootstrap of directories only."""
    tar = file.with_suffix(".tar")
    tar.write_bytes(b"".join(map(encode, entries)) + bytes(1024))
    tool.run(
        "create",
        "--type=tar-rafs",
        "--log-level=error",
        "--fs-version=6",
        "--features=blob-toc",
        "--chunk-size=0x100000",
        f"--blob={file.with_suffix('.blob')}",
        f"--bootstrap={file}",
        str(tar),
    )
    return file


class _Folder:
    """A directory of the merged tree; `node` is None until a layer describes it."""

    __slots__ = ("below", "node")

    def __init__(self, node: Node | None) -> None:
        self.node = node
        # None stands for what is no directory.
        self.below: dict[bytes, _Folder | None] = {}


_Tree = list[tuple[bytes, Node]]


def _is_whiteout(path: bytes) -> bool:
    return path.rpartition(b"/")[2].startswith(b".wh.")


def _folders(parts: Sequence[Part], trees: Sequence[_Tree]) -> list[Entry]:
    """The directories to describe again, each below those above it; the root last."""
    root = _Folder(None)
    passed: dict[bytes, None] = {}
    for part, tree in zip(parts, trees, strict=True):
        _lay_over(root, part, tree, passed)
    wanted: dict[bytes, Entry] = {}
    for path in passed:
        folder, at = root, b""
        for name in path.split(b"/"):
            below = folder.below.get(name)
            if below is None:
                break
            folder, at = below, at + b"/" + name if at else name
            wanted.setdefault(at, _entry(at, folder.node))
    return [*(wanted[path] for path in sorted(wanted)), _entry(b"", root.node)]


def _lay_over(root: _Folder, part: Part, nodes: _Tree, passed: dict[bytes, None]) -> None:
    """Lay a layer over the tree; note the directories that it only passes through."""
    for path, _ in nodes:
        _remove(root, path)
    implied = _DEFAULT if part.is_index else tuple(IMPLICIT.values())
    here: dict[bytes, _Folder] = {}
    for path, node in nodes:
        above, _, name = path.rpartition(b"/")
        if name.startswith(b".wh."):
            continue
        if not node.is_directory:
            here[above].below[name] = None
            continue
        said = (node.mode & 0o7777, node.uid, node.gid, node.mtime)
        is_implied = said == implied and not node.xattrs
        folder = here[above].below.get(name) if path else root
        if folder is None:
            if is_implied and name in here[above].below:
                raise ImageError(
                    f"layer {part.source} goes through {path!r}, which is no directory in the"
                    " layers below it",
                    hint="nydus cannot carry it; use --format estargz",
                )
            folder = here[above].below[name] = _Folder(None)
        here[path] = folder
        if is_implied:
            passed[path] = None
        else:
            folder.node = node


def _remove(root: _Folder, path: bytes) -> None:
    """Take away what a whiteout names."""
    above, _, name = path.rpartition(b"/")
    if not name.startswith(b".wh."):
        return
    folder: _Folder | None = root
    for step in above.split(b"/") if above else ():
        folder = folder.below.get(step) if folder else None
    if folder is None:
        return
    if name == _OPAQUE:
        folder.below.clear()
    else:
        folder.below.pop(name[4:], None)


def _entry(path: bytes, node: Node | None) -> Entry:
    if node is None:
        return Entry(path, DIRECTORY, mode=_DEFAULT[0])
    return Entry(
        path, DIRECTORY, node.mode & 0o7777, node.uid, node.gid, node.mtime, xattrs=node.xattrs
    )


def _check(bootstrap: bytes, parts: Sequence[Part]) -> None:
    named = {blob.id for blob in Rafs(bootstrap).blobs}
    strange = named - {part.source.partition(":")[2] for part in parts}
    if strange:
        raise InternalError(f"the merged bootstrap names blobs of no layer: {sorted(strange)}")
