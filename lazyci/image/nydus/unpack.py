"""A nydus image read back: its tree as a tar stream, for whoever compares it with the original.

`nydus-image unpack` 2.2.0 reads one blob only, so it can unpack a layer but no merged image; this
reads any bootstrap with the blobs that it names.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable

import blake3
import zstandard

from lazyci.errors import ImageError
from lazyci.image.inflate import inflater
from lazyci.image.manifest import Descriptor, compression
from lazyci.image.nydus.manifest import BOOTSTRAP_FILE
from lazyci.image.nydus.tool import NydusImage
from lazyci.image.rafs.reader import Blob, Chunk, Node, Rafs
from lazyci.image.store import Repository
from lazyci.image.tar.entry import BLOCK, Entry, encode_header
from lazyci.image.tar.reader import TarReader

__all__ = ["check", "merged_bootstrap", "unpack"]

_ZSTD = 3
# BlobFeatures: the data is in another blob than its tables.
_SEPARATE = 0x10
# digest::Algorithm, nydus-utils 0.4.1.
_DIGESTERS: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: blake3.blake3(data).digest(),
    lambda data: hashlib.sha256(data).digest(),
)
# Two million files need about 400 MB.
_MAX_BOOTSTRAP = 1 << 30
_TYPES = {
    stat.S_IFREG: "reg",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


def check(tool: NydusImage, bootstrap: str) -> None:
    """Let nydus-image itself check the bootstrap in a file.

    Raises:
        ToolError: It finds it wrong.
    """
    tool.run("check", f"--bootstrap={bootstrap}", "--log-level=error")


def merged_bootstrap(repository: Repository, layer: Descriptor) -> bytes:
    """The bootstrap in a nydus manifest's last layer, which is a small tar.gz.

    Raises:
        ImageError: The layer has none, or a larger one than any image needs.
    """
    found = _BootstrapFile()
    reader = TarReader(found)
    stream = inflater(compression(layer.media_type), reader.feed, _MAX_BOOTSTRAP)
    repository.read_blob(layer, stream.feed)
    stream.finish()
    reader.finish()
    if not found.data:
        raise ImageError(f"layer {layer.digest} has no nydus bootstrap")
    return bytes(found.data)


class _BootstrapFile:
    """Keeps one file of a tar."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._wanted = False

    def entry(self, entry: Entry) -> None:
        self._wanted = entry.type == "reg" and entry.name == BOOTSTRAP_FILE and not entry.sparse

    def payload(self, data: memoryview) -> None:
        if self._wanted:
            self.data += data

    def padding(self, data: memoryview) -> None:
        """None is wanted."""


def unpack(
    bootstrap: bytes,
    read: Callable[[str, int, int], bytes],
    write: Callable[[bytes], object],
    indexed: Callable[[str, int, int], bytes] | None = None,
) -> None:
    """Write the tree of a bootstrap, of one layer or of a merged image, as a tar stream.

    Paths come in the order of a walk, names sorted; hard links after the path that has the data.

    Args:
        bootstrap: Its bytes.
        read: Gives bytes of a blob: the hexadecimal part of its digest, offset and length.
        write: Takes the tar.
        indexed: Gives a chunk whose data is in an original layer: the hexadecimal part of that
            layer's digest, the chunk's number, and its size.

    Raises:
        ImageError: The bootstrap or a blob is broken.
    """
    rafs = Rafs(bootstrap)
    first: dict[int, bytes] = {}
    for path, node in rafs.walk():
        entry = _entry(path, node)
        if not node.is_directory and node.inode in first:
            entry.type, entry.linkname = "hardlink", _text(first[node.inode])
            entry.size, entry.xattrs = 0, {}
            write(encode_header(entry))
            continue
        first[node.inode] = path
        write(encode_header(entry))
        if entry.type == "reg" and node.size:
            for chunk in rafs.chunks(node):
                write(_data(rafs, chunk, read, indexed))
            write(bytes(-node.size % BLOCK))
    write(bytes(2 * BLOCK))


def _entry(path: bytes, node: Node) -> Entry:
    kind = _TYPES.get(stat.S_IFMT(node.mode))
    if kind is None:
        raise ImageError(f"the nydus bootstrap has {path!r} of an unknown kind")
    entry = Entry(kind, _text(path) or "./", 0, node.mode & 0o7777)
    entry.uid, entry.gid = node.uid, node.gid
    entry.mtime, entry.mtime_ns = node.mtime, node.mtime_ns
    entry.xattrs = {_text(key): value for key, value in node.xattrs.items()}
    if kind == "reg":
        entry.size = node.size
    elif kind == "symlink":
        entry.linkname = _text(node.content)
    elif kind in ("char", "block"):
        # As Linux packs a device's numbers into 32 bits (`new_encode_dev`).
        entry.devmajor = node.rdev >> 8 & 0xFFF
        entry.devminor = node.rdev & 0xFF | node.rdev >> 12 & 0xFFF00
    return entry


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _data(
    rafs: Rafs,
    chunk: Chunk,
    read: Callable[[str, int, int], bytes],
    indexed: Callable[[str, int, int], bytes] | None,
) -> bytes:
    blob = rafs.blobs[chunk.blob]
    if chunk.unpacked > rafs.chunk_size or chunk.size > 2 * rafs.chunk_size:
        raise ImageError("the nydus bootstrap has a chunk that is larger than its chunks are")
    if blob.features & _SEPARATE:
        if indexed is None:
            raise ImageError(f"the data of blob {blob.id} is in an original layer")
        data = indexed(blob.id, chunk.index, chunk.unpacked)
    else:
        data = _stored(blob, chunk, read)
    if len(data) != chunk.unpacked:
        raise ImageError(f"blob {blob.id} has a chunk of a wrong size")
    # nydusd refuses to read such a chunk where it is told to check them.
    if blob.digester >= len(_DIGESTERS) or _DIGESTERS[blob.digester](data) != chunk.digest:
        raise ImageError(f"blob {blob.id} has a chunk of another digest than its own")
    return data


def _stored(blob: Blob, chunk: Chunk, read: Callable[[str, int, int], bytes]) -> bytes:
    data = read(blob.id, chunk.offset, chunk.size)
    if not chunk.is_compressed:
        return data
    if blob.compressor != _ZSTD:
        raise ImageError(f"blob {blob.id} is compressed in a way that cannot be read here")
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=chunk.unpacked)
    except zstandard.ZstdError as error:
        raise ImageError(f"blob {blob.id} is broken: {error}") from error
