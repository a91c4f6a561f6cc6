"""A layer turned into a nydus blob while it is read: nothing of it lies on disk.

The blob is what `nydus-image create --type=tar-rafs --blob-inline-meta --features=blob-toc` makes
of a layer that it reads rightly: chunks, tables, bootstrap. It is not used because it works in one
thread, and misreads what engines take: paths that are there twice, directories after their
content, owners and times in PAX records, sparse files, hard links to what is no regular file.
"""

from __future__ import annotations

from concurrent.futures import Executor

from lazyci.errors import ImageError
from lazyci.image.inflate import LIMIT, inflater
from lazyci.image.nydus.blobend import blob_end
from lazyci.image.nydus.chunks import ChunkWriter
from lazyci.image.nydus.layertree import LayerTree
from lazyci.image.nydus.manifest import nydus_layer
from lazyci.image.store import BuiltLayer, Upload
from lazyci.image.tar.entry import Entry
from lazyci.image.tar.reader import TarReader

__all__ = ["MAX_ENTRIES", "MAX_FILES", "NydusBuilder"]

MAX_ENTRIES = 10_000_000
# With the holes of sparse files, which the limit on unpacked layers does not see.
MAX_FILES = 1 << 40
_PIECE = 1 << 20


class NydusBuilder:
    """One layer on its way into a nydus blob. Implements LayerBuilder.

    Args:
        upload: Takes the blob.
        compression: Of the layer that is fed: `none`, `gzip` or `zstd`.
        pool: Threads that compress; builders may share it.
        limit: More unpacked bytes than this are an error.
    """

    def __init__(
        self, upload: Upload, compression: str, pool: Executor, limit: int = LIMIT
    ) -> None:
        self._upload = upload
        self._tree = LayerTree()
        self._chunks = ChunkWriter(upload, pool)
        self._tar = TarReader(self)
        self._inflate = inflater(compression, self._tar.feed, limit)
        self._entries = 0
        self._files = 0
        self._keeps = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the layer.

        Raises:
            ImageError: The layer is malformed, or holds what nydus cannot carry.
        """
        self._inflate.feed(data)

    def finish(self) -> BuiltLayer:
        """End of the layer."""
        self._inflate.finish()
        self._tar.finish()
        self._chunks.finish()
        end, bootstrap = blob_end(self._tree.root, self._chunks)
        for start in range(0, len(end), _PIECE):
            self._upload.write(memoryview(end)[start : start + _PIECE])
        digest, size = self._upload.commit()
        return BuiltLayer(nydus_layer(digest, size), "", self._inflate.total, bootstrap)

    def abort(self) -> None:
        """Stop and drop everything."""
        self._chunks.abort()
        self._upload.abort()

    # What the reader finds.

    def entry(self, entry: Entry) -> None:
        """An entry begins."""
        self._keeps = False
        if entry.type == "global":
            # It describes nothing: engines ignore it too.
            return
        self._entries += 1
        self._files += entry.size
        if self._entries > MAX_ENTRIES or self._files > MAX_FILES:
            raise ImageError(f"the layer has over {MAX_ENTRIES} entries or {MAX_FILES} bytes")
        leaf = self._tree.add(entry, self._entries)
        if leaf is not None and entry.size:
            self._keeps = True
            self._chunks.begin(self._entries, entry.size)

    def payload(self, data: memoryview) -> None:
        """The next bytes of the file; a whiteout's are nobody's."""
        if self._keeps:
            self._chunks.write(data)

    def padding(self, data: memoryview) -> None:
        """Padding is no data."""
