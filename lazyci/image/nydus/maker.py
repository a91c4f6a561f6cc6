"""Layers turned into nydus blobs while they are read: `nydus-image create` between two pipes.

The layer's bytes are unpacked and put in order here (`nydus_tar`), go into nydus-image through
one pipe and come out of another, straight into the upload: nothing lies on disk. The blob holds
its bootstrap too (`--blob-inline-meta`, with a table of contents), as nydus-snapshotter's own
converter makes it.
"""

from __future__ import annotations

import contextlib

from lazyci.errors import ImageError, UploadLostError
from lazyci.image.inflate import inflater
from lazyci.image.manifest import Descriptor, compression
from lazyci.image.nydus.feed import OutOfOrderError, TarFeed
from lazyci.image.nydus.manifest import index_layer, nydus_layer
from lazyci.image.nydus.order import Plan
from lazyci.image.nydus.stage import CHUNK, Stage
from lazyci.image.nydus.tool import NydusImage
from lazyci.image.store import BuiltLayer, Upload

__all__ = ["CHUNK", "NydusIndexMaker", "NydusMaker"]

_AGAIN = "the layer is read a second time: its tar has a path twice or out of order"


class NydusMaker:
    """Makes builders of the format `nydus`: all data of the layer in a new blob.

    Args:
        tool: The program.
    """

    name = "nydus"
    _kind = "tar-rafs"

    def __init__(self, tool: NydusImage) -> None:
        self._tool = tool
        self._plans: dict[str, Plan] = {}

    @property
    def settings(self) -> str:
        """What the result depends on beside the layer."""
        return f"{self._kind} 1 {CHUNK} zstd blake3 {self._tool.version}"

    def builder(self, layer: Descriptor, upload: Upload) -> NydusBuilder:
        """Begin one layer.

        Raises:
            ToolError: nydus-image cannot be started.
            ImageError: The layer's media type is none of a layer.
        """
        kind = _compression(layer)
        stage = Stage(self._tool, upload, self._kind, "--compressor=zstd", "--digester=blake3")
        return NydusBuilder(stage, layer, kind, self._plans)


class NydusIndexMaker:
    """Makes builders of the format `nydus-index`: the original layer stays the data."""

    name = "nydus-index"
    _kind = "targz-ref"

    def __init__(self, tool: NydusImage) -> None:
        self._tool = tool

    @property
    def settings(self) -> str:
        """What the result depends on beside the layer."""
        return f"{self._kind} 1 {CHUNK} {self._tool.version}"

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


class NydusBuilder:
    """One layer on its way into a nydus blob."""

    def __init__(self, stage: Stage, layer: Descriptor, kind: str, plans: dict[str, Plan]) -> None:
        self._stage = stage
        self._layer = layer
        self._plans = plans
        self._tar = TarFeed(stage.write, plans.get(layer.digest))
        self._inflate = inflater(kind, self._tar.feed)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the layer.

        Raises:
            ImageError: The layer is malformed, or holds what nydus cannot carry.
            ToolError: nydus-image failed.
        """
        self._inflate.feed(data)

    def finish(self) -> BuiltLayer:
        """End of the layer.

        Raises:
            UploadLostError: It must be fed again, from its start, to a new builder of this maker.
        """
        self._inflate.finish()
        try:
            self._tar.finish()
        except OutOfOrderError:
            self._plans[self._layer.digest] = self._tar.plan()
            raise UploadLostError(_AGAIN) from None
        digest, size, bootstrap = self._stage.finish()
        self._plans.pop(self._layer.digest, None)
        return BuiltLayer(nydus_layer(digest, size), "", self._inflate.total, bootstrap)

    def abort(self) -> None:
        """Stop and drop everything."""
        self._stage.abort()


class NydusIndexBuilder:
    """One layer on its way into an index of it."""

    def __init__(self, stage: Stage, layer: Descriptor) -> None:
        self._stage = stage
        self._layer = layer
        self._tar = TarFeed(None)
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
        with contextlib.suppress(OutOfOrderError):
            self._tar.finish()
            if self._tar.verbatim:
                digest, size, bootstrap = self._stage.finish()
                blob = index_layer(digest, size, self._layer.digest, self._stage.toc)
                return BuiltLayer(blob, "", self._inflate.total, bootstrap)
        raise ImageError(
            f"nydus-image misreads layer {self._layer.digest} as it is", hint="use --format nydus"
        )

    def abort(self) -> None:
        """Stop and drop everything."""
        self._stage.abort()


def _compression(layer: Descriptor) -> str:
    kind = compression(layer.media_type)
    if not kind:
        raise ImageError(f"{layer.digest} is of media type {layer.media_type}, which is no layer")
    return kind
