"""What makes builders of the two nydus formats."""

from __future__ import annotations

from concurrent.futures import Executor
from importlib.metadata import version

from lazyci.errors import ImageError
from lazyci.image.manifest import Descriptor, compression
from lazyci.image.nydus.builder import NydusBuilder
from lazyci.image.nydus.chunks import CHUNK_SIZE, LEVEL
from lazyci.image.nydus.index import NydusIndexBuilder
from lazyci.image.nydus.stage import Stage
from lazyci.image.nydus.tool import NydusImage
from lazyci.image.store import Upload

__all__ = ["NydusIndexMaker", "NydusMaker"]


class NydusMaker:
    """Makes builders of the format `nydus`: all data of the layer in a new blob.

    Args:
        pool: Threads that compress.
    """

    name = "nydus"

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    @property
    def settings(self) -> str:
        """What the result depends on beside the layer."""
        return f"rafs6 3 {CHUNK_SIZE} zstd-{LEVEL} blake3 zstandard-{version('zstandard')}"

    def builder(self, layer: Descriptor, upload: Upload) -> NydusBuilder:
        """Begin one layer.

        Raises:
            ImageError: The layer's media type is none of a layer.
        """
        return NydusBuilder(upload, _compression(layer), self._pool)


class NydusIndexMaker:
    """Makes builders of the format `nydus-index`: the original layer stays the data.

    Args:
        tool: The program that indexes.
    """

    name = "nydus-index"
    _kind = "targz-ref"

    def __init__(self, tool: NydusImage) -> None:
        self._tool = tool

    @property
    def settings(self) -> str:
        """What the result depends on beside the layer."""
        return f"{self._kind} 1 {CHUNK_SIZE} {self._tool.version}"

    def builder(self, layer: Descriptor, upload: Upload) -> NydusIndexBuilder:
        """Begin one layer.

        Raises:
            ToolError: nydus-image cannot be started.
            ImageError: The layer is not compressed with gzip.
        """
        if _compression(layer) != "gzip":
            raise ImageError(
                f"layer {layer.digest} is no gzip: nydus-index cannot point into it",
                hint="use --format nydus",
            )
        return NydusIndexBuilder(Stage(self._tool, upload, self._kind), layer)


def _compression(layer: Descriptor) -> str:
    kind = compression(layer.media_type)
    if not kind:
        raise ImageError(f"{layer.digest} is of media type {layer.media_type}, which is no layer")
    return kind
