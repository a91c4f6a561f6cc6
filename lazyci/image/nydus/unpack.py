"""A nydus image read back: its tree as a tar stream, for whoever compares it with the original.

`nydus-image unpack` 2.2.0 reads one blob only, so it can unpack a layer but no merged image; this
reads any bootstrap with the blobs that it names.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from lazyci.errors import ImageError
from lazyci.image.inflate import inflater
from lazyci.image.manifest import Descriptor, compression
from lazyci.image.nydus.header import BLOCK, DIRECTORY, FILE, HARD_LINK, SYMLINK, Entry, encode
from lazyci.image.nydus.manifest import BOOTSTRAP_FILE
from lazyci.image.nydus.tool import NydusImage
from lazyci.image.rafs.reader import Chunk, Node, Rafs
from lazyci.image.store import Repository
from lazyci.image.tar import entry as tar_entry
from lazyci.image.tar.reader import TarReader

__all__ = ["check", "merged_bootstrap", "unpack"]

_ZSTD = 3
# Two million files need about 400 MB.
_MAX_BOOTSTRAP = 1 << 30
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFIFO: b"6",
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

    def entry(self, entry: tar_entry.Entry) -> None:
        self._wanted = entry.type == "reg" and entry.name == BOOTSTRAP_FILE and not entry.sparse

    def payload(self, data: memoryview) -> None:
        if self._wanted:
            self.data += data

    def padding(self, data: memoryview) -> None:
        """None is wanted."""


def unpack(
    bootstrap: bytes, read: Callable[[str, int, int], bytes], write: Callable[[bytes], object]
) -> None:
    """Write the tree of a bootstrap, of one layer or of a merged image, as a tar stream.

    Paths come in the order of a walk, names sorted; hard links after the path that has the data.

    Args:
        bootstrap: Its bytes.
        read: Gives bytes of a blob: the hexadecimal part of its digest, offset and length.
        write: Takes the tar.

    Raises:
        ImageError: The bootstrap or a blob is broken, or the bootstrap is one of `nydus-index`,
            whose data are the original layers.
    """
    rafs = Rafs(bootstrap)
    first: dict[int, bytes] = {}
    for path, node in rafs.walk():
        entry = _entry(path, node)
        if not node.is_directory and node.inode in first:
            entry.kind, entry.link, entry.size, entry.xattrs = HARD_LINK, first[node.inode], 0, {}
            write(encode(entry))
            continue
        first[node.inode] = path
        write(encode(entry))
        if entry.kind == FILE and node.size:
            for chunk in rafs.chunks(node):
                write(_data(rafs, chunk, read))
            write(bytes(-node.size % BLOCK))
    write(bytes(2 * BLOCK))


def _entry(path: bytes, node: Node) -> Entry:
    kind = _KINDS.get(stat.S_IFMT(node.mode))
    if kind is None:
        raise ImageError(f"the nydus bootstrap has {path!r} of an unknown kind")
    entry = Entry(path, kind, node.mode & 0o7777, node.uid, node.gid, node.mtime)
    entry.xattrs = node.xattrs
    if kind == FILE:
        entry.size = node.size
    elif kind == SYMLINK:
        entry.link = node.content
    elif kind in (b"3", b"4"):
        # As Linux packs a device's numbers into 32 bits (`new_encode_dev`).
        entry.major = node.rdev >> 8 & 0xFFF
        entry.minor = node.rdev & 0xFF | node.rdev >> 12 & 0xFFF00
    return entry


def _data(rafs: Rafs, chunk: Chunk, read: Callable[[str, int, int], bytes]) -> bytes:
    import zstandard

    blob = rafs.blobs[chunk.blob]
    if chunk.unpacked > rafs.chunk_size or chunk.size > 2 * rafs.chunk_size:
        raise ImageError("the nydus bootstrap has a chunk that is larger than its chunks are")
    data = read(blob.id, chunk.offset, chunk.size)
    if chunk.is_compressed and blob.compressor == _ZSTD:
        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=chunk.unpacked)
        except zstandard.ZstdError as error:
            raise ImageError(f"blob {blob.id} is broken: {error}") from error
    elif chunk.is_compressed:
        raise ImageError(f"blob {blob.id} is compressed in a way that cannot be read here")
    if len(data) != chunk.unpacked:
        raise ImageError(f"blob {blob.id} has a chunk of a wrong size")
    return data
