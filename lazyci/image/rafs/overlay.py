"""The trees and blobs of an image's layers, laid over each other by the rules of OCI layers.

Rules: OCI image specification, `layer.md`: whiteouts hide what lies below their layer only, and
are themselves never seen; what is no directory replaces what it covers; a directory over a
directory keeps what that holds. Bootstraps may come from anybody: what their inodes hold must
fit into them, so none makes more of itself than it is.
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from lazyci.errors import ImageError
from lazyci.image.nydus.header import IMPLICIT
from lazyci.image.rafs.reader import Node, Rafs

__all__ = ["Blobs", "Folder", "Layer", "Leaf", "lay_over"]

_OPAQUE = b".wh..wh..opq"
_WHITEOUT = b".wh."
# Linux takes no longer path in one call (PATH_MAX), so no engine unpacks it.
_MAX_PATH = 4096
_MAX_NAME = 255
# nydus-rafs 0.2.2, `direct_v6.rs`, `get_symlink`.
_MAX_LINK = 4096
_DEFAULT = (0o755, 0, 0, 0)
_IMPLIED: Final = (IMPLICIT["mode"], IMPLICIT["uid"], IMPLICIT["gid"], IMPLICIT["mtime"])
# The blob index in an inode's chunk address has eight bits, of which 0 is the bootstrap itself.
_MAX_BLOBS = 254
# BLOB_MAX_SIZE_COMPRESSED.
_MAX_BLOB = 1 << 40
_DIGEST = re.compile("[0-9a-f]{64}")
_BLOCK = 4096
_MAX_CHUNK_SIZE = 1 << 24
_MAX_CHUNKS = 1 << 24
# nydus-rafs 0.2.2, `layout/v6.rs`: RafsV6SuperBlockExt, RafsV6Blob, RafsV6Device; and
# RafsV5ChunkInfo in `layout/v5.rs`, RafsV6InodeChunkAddr in `layout/v6.rs`.
_EXTENSION_AT = 1024 + 128
_EXTENSION = struct.Struct("<QQIIQQ")
_BLOB = struct.Struct("<64sIIIIIIQQIIQQQ32s32sQ48x")
_DEVICE = struct.Struct("<64sI60x")
_CHUNK = struct.Struct("<32sIIIIQQQII")
_ADDRESS = struct.Struct("<HBBI")
# RafsSuperFlags: how chunks are compressed and digested, and that owners are meant.
_KEPT_FLAGS = 0x1 | 0x2 | 0x40 | 0x80 | 0x4 | 0x8 | 0x10
_CHUNK_DIGESTS_INLINED = 0x100
# BlobFeatures, nydus-storage 0.6.2, `src/device.rs`. The merged bootstrap is in none of the blobs.
_KEPT_FEATURES = 0x1 | 0x4 | 0x8 | 0x10 | 0x20 | 0x70000000
_SEPARATE, _INLINED_DIGEST, _NO_CHUNKS = 0x10, 0x20, 0x80000000
# What nydus-image puts where a blob has no table of its chunks: LZ4.
_NO_TABLE = (1, 0, 0, 0)
_KINDS = {
    stat.S_IFREG,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer to merge.

    Attributes:
        bootstrap: Its own.
        source: The hexadecimal SHA-256 of the blob that holds the files' data.
        digest: That of the blob which nydus-image made of the layer: the same, or an index.
        size: Of this blob.
        toc: The hexadecimal SHA-256 of this blob's table of contents, if it is an index.
    """

    bootstrap: bytes = field(repr=False)
    source: str
    digest: str
    size: int
    toc: str = "0" * 64

    @property
    def is_index(self) -> bool:
        return self.source != self.digest


class Leaf:
    """What is no directory; hard links share it. What comes last is the writer's."""

    __slots__ = ("layer", "links", "node", "number", "offset", "start", "xattrs")

    def __init__(self, node: Node, layer: int) -> None:
        self.node = node
        self.layer = layer
        self.links = self.number = self.offset = self.start = 0
        self.xattrs = b""


class Folder:
    """A directory; `node` is None until a layer describes it. What comes last is the writer's."""

    __slots__ = (
        "below",
        "blocks",
        "is_opaque",
        "node",
        "number",
        "offset",
        "parent",
        "size",
        "start",
        "whiteouts",
        "xattrs",
    )

    def __init__(self, node: Node | None) -> None:
        self.node = node
        self.below: dict[bytes, Folder | Leaf] = {}
        self.whiteouts: list[bytes] = []
        self.is_opaque = False
        self.number = self.offset = self.parent = self.size = self.start = 0
        self.blocks: list[list[bytes]] = []
        self.xattrs = b""


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
    implied = _DEFAULT if layer.is_index else _IMPLIED
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
        if name.startswith(_WHITEOUT):
            inside.is_opaque |= name == _OPAQUE
            inside.whiteouts.append(name[len(_WHITEOUT) :])
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


class Blobs:
    """The blobs of the merged bootstrap, and those of their chunks that its files use.

    Args:
        layers: All layers that there will be.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            digests = (layer.source, layer.digest, layer.toc)
            # They may be what annotations say.
            if not all(map(_DIGEST.fullmatch, digests)) or not 0 <= layer.size < _MAX_BLOB:
                raise ImageError(
                    f"layer {layer.source[:100]!r} has a digest or a size that is none"
                )
        self._has_index = any(layer.is_index for layer in layers)
        self._ids: dict[str, int] = {}
        self._records: list[tuple[int | bytes, ...]] = []
        self._sources: list[dict[bytes, tuple[bytes, bytes, int]]] = []
        self._data: list[bytes] = []
        self._used: set[bytes] = set()
        self.chunk_size = 0
        self._flags = 0

    @property
    def count(self) -> int:
        return len(self._records)

    @property
    def flags(self) -> int:
        """The flags of the extended superblock."""
        inlined = all(int(record[6]) & _INLINED_DIGEST for record in self._records)
        return self._flags | (_CHUNK_DIGESTS_INLINED if inlined else 0)

    @property
    def blocks(self) -> int:
        """How many blocks the data has, unpacked."""
        return sum(int(record[8]) // _BLOCK for record in self._records)

    def table(self) -> bytes:
        return b"".join(_BLOB.pack(*record) for record in self._records)

    def devices(self) -> bytes:
        return b"".join(
            _DEVICE.pack(record[0], int(record[8]) // _BLOCK) for record in self._records
        )

    def chunks(self) -> bytes:
        """The table of the chunks whose addresses were asked for: by digest, then by blob."""
        return b"".join(sorted(self._used))

    def addresses(self, leaf: Leaf) -> tuple[bytes, bool]:
        """Where the chunks of a file are, and whether they follow one another unpacked."""
        node, table = leaf.node, self._sources[leaf.layer]
        size = -(-node.size // self.chunk_size) * 8
        found = self._data[leaf.layer][node.data : node.data + size]
        if len(found) != size or (size and not node.data):
            raise ImageError("the nydus bootstrap has a file with chunks out of itself")
        addresses = []
        is_continuous, expected = True, -1
        for at in range(0, size, 8):
            chunk = table.get(found[at : at + 8])
            if chunk is None:
                raise ImageError("the nydus bootstrap has a file with a chunk of no blob")
            address, record, offset = chunk
            addresses.append(address)
            self._used.add(record)
            is_continuous &= expected in (-1, offset)
            expected = offset + self.chunk_size
        return b"".join(addresses), is_continuous

    def add(self, layer: Layer, rafs: Rafs) -> None:
        """Take the blob of a layer's bootstrap, if it has one, and its chunks.

        Raises:
            ImageError: It does not fit to those of the layers below, or is malformed.
        """
        data = layer.bootstrap
        flags, blobs_at, _, size, chunks_at, length = _EXTENSION.unpack_from(data, _EXTENSION_AT)
        if size & (size - 1) or not _BLOCK <= size <= _MAX_CHUNK_SIZE:
            raise ImageError(f"the nydus bootstrap has chunks of {size} bytes")
        if self._sources and (size, flags & 0x10) != (self.chunk_size, self._flags & 0x10):
            raise ImageError("the layers' nydus bootstraps have chunks or owners of two kinds")
        if len(rafs.blobs) > 1:
            raise ImageError("the nydus bootstrap of a layer has several blobs")
        self.chunk_size = size
        self._flags = flags & _KEPT_FLAGS
        number = self._add_blob(layer, blobs_at) if rafs.blobs else 0
        self._data.append(data)
        if chunks_at + length > len(data) or (length and not rafs.blobs):
            raise ImageError("the nydus bootstrap points out of itself")
        end = chunks_at + length // _CHUNK.size * _CHUNK.size
        self._sources.append(_read_chunks(data[chunks_at:end], number))

    def _add_blob(self, layer: Layer, at: int) -> int:
        known = self._ids.get(layer.source)
        if at + _BLOB.size > len(layer.bootstrap):
            raise ImageError("the nydus bootstrap points out of itself")
        values = _BLOB.unpack_from(layer.bootstrap, at)
        (_, _, size, chunks, compressor, digester, features, packed, unpacked) = values[:9]
        (toc_size, *table, toc, meta, meta_size) = values[9:]
        if bool(features & _SEPARATE) != layer.is_index or size != self.chunk_size:
            raise ImageError("the nydus bootstrap's blob is of another kind than its layer")
        if known is not None:
            return known
        number = self._ids[layer.source] = len(self._ids)
        if number >= _MAX_BLOBS:
            raise ImageError(f"the image has more than {_MAX_BLOBS} layers")
        features = features & _KEPT_FEATURES | (0 if chunks else _NO_CHUNKS)
        if self._has_index:
            toc = bytes.fromhex(layer.toc)
            if layer.is_index:
                meta, meta_size = bytes.fromhex(layer.digest), layer.size
            else:
                packed = layer.size
        if not (table[2] and table[3]):
            table = list(_NO_TABLE)
        self._records.append(
            (
                layer.source.encode(), number, size, chunks, compressor, digester, features,
                packed, unpacked, toc_size, *table, toc, meta, meta_size,
            )
        )  # fmt: skip
        if self.blocks >> 32:
            raise ImageError("the nydus bootstrap's blobs are too large")
        return number


def _read_chunks(table: bytes, number: int) -> dict[bytes, tuple[bytes, bytes, int]]:
    """By their addresses in the layer: the chunks' new addresses, their records, and where."""
    found = {}
    for digest, blob, flags, packed, unpacked, at, offset, inside, index, _ in _CHUNK.iter_unpack(
        table
    ):
        if blob or index >= _MAX_CHUNKS or offset // _BLOCK >> 32:
            raise ImageError("the nydus bootstrap has a chunk of no blob")
        low, high, block = index & 0xFFFF, index >> 16, offset // _BLOCK
        found[_ADDRESS.pack(low, 1, high, block)] = (
            _ADDRESS.pack(low, number + 1, high, block),
            _CHUNK.pack(digest, number, flags, packed, unpacked, at, offset, inside, index, 0),
            offset,
        )
    return found
