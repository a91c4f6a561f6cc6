"""A variant found beside its original, and the two compared."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from lazyci.errors import ImageError, NotFoundError
from lazyci.image.check.compare import WHOLE_SECONDS, Loss, Value
from lazyci.image.check.verify import Report, verify
from lazyci.image.manifest import ANNOTATION_ORIGINAL, Content, Descriptor
from lazyci.image.nydus.manifest import ANNOTATION_REF
from lazyci.image.nydus.unpack import merged_bootstrap, unpack
from lazyci.image.nydus.zran import ZranBlob
from lazyci.image.original import parse_manifest
from lazyci.image.places import open_image
from lazyci.image.store import Repository, Sink
from lazyci.image.variant import ANNOTATION_FORMAT, variant_tag

__all__ = ["check", "unpack_nydus"]


# A window of a blob that is read at once, and how many are kept: chunks of small files lie side
# by side, and one request for each would take minutes.
_WINDOW = 4 << 20
_KEPT = 16


def _before_1970(expected: Value, found: Value) -> bool:
    return isinstance(expected, int) and expected < 0 and found == 0


# What the formats drop; the tests of the nydus rooms hold each.
_NYDUS = (Loss("mtime", "times begin in 1970", _before_1970),)
_LOSSES = {"nydus": _NYDUS, "nydus-index": (WHOLE_SECONDS, *_NYDUS)}


def check(reference: str, variant: str, suffix: str, platforms: Sequence[str]) -> Report:
    """Compare a variant with its original.

    Args:
        reference: The original; in place, what both are published under.
        variant: The variant's reference; empty: the original's with the suffix.
        suffix: The suffix of variants' tags.
        platforms: `os/architecture[/variant]`; all by default.

    Raises:
        NotFoundError: The original or the variant is not there.
    """
    with contextlib.ExitStack() as stack:
        source, name = open_image(reference)
        stack.callback(source.close)
        target = source
        if variant:
            target, tag = open_image(variant)
            stack.callback(target.close)
        else:
            tag = variant_tag(name, suffix)
        original = source.resolve(name)
        if ANNOTATION_FORMAT in original.notes and not variant:
            found = original
            original = source.resolve(found.notes[ANNOTATION_ORIGINAL])
        else:
            found = _variant(target, tag)
        losses = _LOSSES.get(found.notes.get(ANNOTATION_FORMAT, ""), ())
        return verify(
            source, target, original, found, unpack=unpack_nydus, losses=losses, platforms=platforms
        )


def _variant(target: Repository, tag: str) -> Content:
    try:
        return target.resolve(tag)
    except NotFoundError as error:
        raise NotFoundError(
            error.message, path=error.path, hint="lazyci convert makes the variant."
        ) from None


def unpack_nydus(target: Repository, content: Content, sink: Sink) -> None:
    """The tree of a nydus manifest as a tar stream."""
    _, layers = parse_manifest(content)
    windows = _Windows(target, {_hex(layer.digest): layer.size for layer in layers})
    indexes = {_hex(layer.annotations.get(ANNOTATION_REF, "")): layer for layer in layers}
    opened: dict[str, ZranBlob] = {}

    def indexed(source: str, number: int, size: int) -> bytes:
        found = opened.get(source)
        if found is None:
            index = indexes.get(source)
            if index is None:
                raise ImageError(f"the bootstrap names the layer {source[:64]}, the manifest none")
            windows.add(source)
            digest = _hex(index.digest)
            found = opened[source] = ZranBlob(
                partial(windows.read, digest), index.size, partial(windows.read, source)
            )
        return found.chunk(number, size)

    unpack(merged_bootstrap(target, layers[-1]), windows.read, sink, indexed)


def _hex(digest: str) -> str:
    return digest.partition(":")[2]


class _Windows:
    """Reads small pieces of blobs by windows, the last ones kept."""

    def __init__(self, target: Repository, sizes: dict[str, int]) -> None:
        self._target = target
        self._sizes = sizes
        self._kept: dict[tuple[str, int], bytes] = {}

    def add(self, blob: str) -> None:
        """Learn the size of one more blob.

        Raises:
            ImageError: It is not there.
        """
        size = self._target.blob_size(f"sha256:{blob}")
        if size is None:
            raise ImageError(f"the repository has no blob {blob[:64]}")
        self._sizes[blob] = size

    def read(self, blob: str, start: int, length: int) -> bytes:
        """Bytes of the blob whose digest has this hexadecimal part."""
        first, last = start // _WINDOW, (start + length - 1) // _WINDOW
        data = b"".join(self._window(blob, number) for number in range(first, last + 1))
        at = start - first * _WINDOW
        return data[at : at + length]

    def _window(self, blob: str, number: int) -> bytes:
        key = (blob, number)
        data = self._kept.pop(key, None)
        if data is None:
            size = self._sizes.get(blob)
            if size is None:
                raise ImageError(f"the bootstrap names the blob {blob[:64]}, the manifest does not")
            start = number * _WINDOW
            if start >= size:
                raise ImageError(f"the bootstrap names bytes outside of the blob {blob}")
            described = Descriptor("", f"sha256:{blob}", size)
            data = self._target.read_range(described, start, min(_WINDOW, size - start))
        self._kept[key] = data
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return data
