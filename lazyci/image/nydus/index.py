"""A layer indexed while it is read: `nydus-image create` makes a table that points into it.

nydus-image 2.2.0 reads the layer's own bytes here, and misreads what engines take: of a path that
is there twice it makes a hard link to the file after it; a directory's header after its content
does the same; it ignores owners and times in PAX records, refuses global PAX headers and sparse
files, and makes a regular file of a hard link to what is none. Of a layer of several gzip members,
as eStargz is one, it makes an index that nydusd cannot read by. So the layer is read here, too, and
refused when that would happen.
"""

from __future__ import annotations

from lazyci.errors import ImageError
from lazyci.image.inflate import inflater
from lazyci.image.manifest import Descriptor
from lazyci.image.nydus.builder import MAX_ENTRIES
from lazyci.image.nydus.layertree import LayerTree
from lazyci.image.nydus.manifest import index_layer
from lazyci.image.nydus.stage import Stage
from lazyci.image.store import BuiltLayer
from lazyci.image.tar.entry import BLOCK, Entry
from lazyci.image.tar.numeral import number
from lazyci.image.tar.reader import TarReader

__all__ = ["NydusIndexBuilder"]


class NydusIndexBuilder:
    """One layer on its way into an index of it. Implements LayerBuilder."""

    def __init__(self, stage: Stage, layer: Descriptor) -> None:
        self._stage = stage
        self._layer = layer
        self._looks = _Looks()
        self._tar = TarReader(self._looks)
        self._inflate = inflater("gzip", self._tar.feed)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the layer.

        Raises:
            ImageError: The layer is malformed, or holds what nydus cannot carry.
            ToolError: nydus-image failed.
        """
        self._stage.write(data)
        self._inflate.feed(data)

    def finish(self) -> BuiltLayer:
        """End of the layer."""
        self._inflate.finish()
        self._tar.finish()
        if not self._looks.alike or self._inflate.members > 1:
            raise ImageError(
                f"nydus-image misreads layer {self._layer.digest} as it is",
                hint="use --format nydus",
            )
        digest, size, bootstrap = self._stage.finish()
        blob = index_layer(digest, size, self._layer.digest, self._stage.toc)
        return BuiltLayer(blob, "", self._inflate.total, bootstrap)

    def abort(self) -> None:
        """Stop and drop everything."""
        self._stage.abort()


class _Looks:
    """Takes a tar archive and sees whether nydus-image reads it as engines do."""

    def __init__(self) -> None:
        self._alike = True
        self._tree = LayerTree()
        self._entries = 0

    @property
    def alike(self) -> bool:
        return self._alike and self._tree.is_plain

    def entry(self, entry: Entry) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise ImageError(f"the layer has over {MAX_ENTRIES} entries")
        if not _is_read_alike(entry):
            self._alike = False
        if entry.type != "global":
            self._tree.add(entry, self._entries)

    def payload(self, data: memoryview) -> None:
        pass

    def padding(self, data: memoryview) -> None:
        pass


def _is_read_alike(entry: Entry) -> bool:
    if entry.type == "global" or entry.sparse:
        return False
    header = entry.raw[-BLOCK:]
    said = (number(header[108:116]), number(header[116:124]), number(header[136:148]))
    if said != (entry.uid, entry.gid, entry.mtime) or said[2] < 0:
        return False
    if header[156:157] != b"5" and entry.type == "dir":
        return False
    # It cuts PAX records at line feeds, whatever length they say.
    return not any("\n" in key or b"\n" in value for key, value in entry.xattrs.items())
