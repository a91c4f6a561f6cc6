"""The formats of lazy variants, each with what it needs: builders, checks, and its manifests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from importlib.metadata import version
from typing import Protocol

import msgspec

from lazyci.errors import ImageError
from lazyci.image.manifest import (
    GZIP_LAYER,
    OCI_MANIFEST,
    ZSTD_LAYER,
    Content,
    Descriptor,
    compression,
)
from lazyci.image.original import Image, Original
from lazyci.image.rafs.blobs import MAX_BLOBS
from lazyci.image.store import BuiltLayer, LayerBuilder, Repository, Upload
from lazyci.image.transfer import put_bytes
from lazyci.image.variant import Part, exchanged, index_of, isolated

__all__ = ["Form", "forms"]

# Raised when the same layer comes out otherwise.
_CHUNKED = 2
_CODECS = ("isal", "zlib-ng", "zstandard")
_OCI_TYPES = {"gzip": GZIP_LAYER, "zstd": ZSTD_LAYER}

Built = Mapping[str, BuiltLayer]


class Form(Protocol):
    """One format.

    Attributes:
        name: Its name, as on the command line.
        settings: What the converted bytes depend on beside the layer: versions, sizes, levels.
        shares_layers: Whether a variant names the original's own layers, too.
    """

    name: str
    settings: str
    shares_layers: bool

    def builder(self, layer: Descriptor, upload: Upload) -> LayerBuilder:
        """Begin to convert a layer."""

    def check(self, image: Image) -> None:
        """See whether an image can have the format, before the work for it is done.

        Raises:
            ImageError: It cannot.
        """

    def kept(self, source: Repository, layer: Descriptor, diff_id: str) -> BuiltLayer | None:
        """The layer itself, if it has the format already."""

    def restored(self, target: Repository, layer: Descriptor, built: BuiltLayer) -> BuiltLayer:
        """A layer that was converted before, checked by what the stored blob holds.

        Raises:
            ImageError: The blob is not what the format makes.
        """

    def assemble(
        self, target: Repository, original: Original, built: Built, notes: Mapping[str, str]
    ) -> Content:
        """Store all that a variant needs but its topmost manifest, and return that."""


def forms(names: Sequence[str], workers: Executor) -> list[Form]:
    """The formats of these names.

    Args:
        names: As on the command line.
        workers: Threads that compress.

    Raises:
        ToolError: A format needs nydus-image, and it is missing or of a wrong version.
    """
    return [_form(name, workers) for name in names]


def _form(name: str, workers: Executor) -> Form:
    if name.startswith("nydus"):
        return _Nydus(name, workers)
    return _Chunked(name, workers)


class _Nydus:
    shares_layers = True

    def __init__(self, name: str, workers: Executor) -> None:
        from lazyci.image.nydus.maker import NydusIndexMaker, NydusMaker
        from lazyci.image.nydus.tool import find_nydus_image

        self.name = name
        self._maker: NydusMaker | NydusIndexMaker
        if name == "nydus":
            self._maker = NydusMaker(workers)
        else:
            self._maker = NydusIndexMaker(find_nydus_image(os.environ))
        self.settings = self._maker.settings

    def builder(self, layer: Descriptor, upload: Upload) -> LayerBuilder:
        return self._maker.builder(layer, upload)

    def check(self, image: Image) -> None:
        count = len({layer.digest for layer in image.layers})
        if not 0 < count <= MAX_BLOBS:
            raise ImageError(
                f"the image has {count} different layers, and nydus holds 1 to {MAX_BLOBS}",
                hint="use --format estargz",
            )

    def kept(self, source: Repository, layer: Descriptor, diff_id: str) -> BuiltLayer | None:
        del source, layer, diff_id
        return None

    def restored(self, target: Repository, layer: Descriptor, built: BuiltLayer) -> BuiltLayer:
        from lazyci.image.nydus.blob import read_bootstrap

        blob = built.blob
        bootstrap = read_bootstrap(
            lambda start, length: target.read_range(blob, start, length), blob.size
        )
        return BuiltLayer(blob, built.diff_id, built.unpacked, bootstrap)

    def assemble(
        self, target: Repository, original: Original, built: Built, notes: Mapping[str, str]
    ) -> Content:
        entries: list[Descriptor] = []
        for image in original.images:
            entries.append(_stored(target, isolated(image, self.name, notes)))
            entries.append(self._nydus(target, image, built))
        return index_of(original, entries, notes)

    def _nydus(self, target: Repository, image: Image, built: Built) -> Descriptor:
        from lazyci.image.nydus.manifest import bootstrap_layer, nydus_manifest
        from lazyci.image.nydus.merge import Part as Layer
        from lazyci.image.nydus.merge import merge

        layers = [built[layer.digest] for layer in image.layers]
        merged = merge([Layer(layer.blob, layer.bootstrap) for layer in layers])
        bootstrap = bootstrap_layer(merged)
        manifest = nydus_manifest(image.config, [layer.blob for layer in layers], bootstrap)
        put_bytes(target, bootstrap.body)
        put_bytes(target, manifest.config)
        target.push_manifest(manifest.body, OCI_MANIFEST)
        return msgspec.structs.replace(manifest.descriptor, platform=image.platform)


class _Chunked:
    shares_layers = False

    def __init__(self, name: str, workers: Executor) -> None:
        from lazyci.image.chunked import estargz, zstdchunked

        self.name = name
        self._workers = workers
        if name == "estargz":
            self._begin, self._is = estargz.estargz, estargz.is_estargz
        else:
            self._begin, self._is = zstdchunked.zstdchunked, zstdchunked.is_zstdchunked
        libraries = " ".join(f"{each}-{version(each)}" for each in _CODECS)
        self.settings = f"{_CHUNKED} {libraries}"

    def builder(self, layer: Descriptor, upload: Upload) -> LayerBuilder:
        return self._begin(upload, compression(layer.media_type), self._workers)

    def check(self, image: Image) -> None:
        """Any image can have it."""

    def kept(self, source: Repository, layer: Descriptor, diff_id: str) -> BuiltLayer | None:
        if not self._is(source, layer):
            return None
        blob = msgspec.structs.replace(layer, media_type=_OCI_TYPES[compression(layer.media_type)])
        return BuiltLayer(blob, diff_id, 0)

    def restored(self, target: Repository, layer: Descriptor, built: BuiltLayer) -> BuiltLayer:
        del layer
        # A layer that could not get a table of contents has no annotations either.
        if built.blob.annotations and not self._is(target, built.blob):
            raise ImageError(f"blob {built.blob.digest} has no valid table of contents")
        return built

    def assemble(
        self, target: Repository, original: Original, built: Built, notes: Mapping[str, str]
    ) -> Content:
        entries: list[Descriptor] = []
        for image in original.images:
            part = exchanged(image, [built[layer.digest] for layer in image.layers], notes)
            entry = _stored(target, part)
            if not original.content.is_index:
                return part.content
            entries.append(entry)
        return index_of(original, entries, notes)


def _stored(target: Repository, part: Part) -> Descriptor:
    """Store a manifest after its small blobs; its descriptor for the index."""
    for blob in part.blobs:
        put_bytes(target, blob)
    target.push_manifest(part.content.body, part.content.media_type)
    return part.entry
