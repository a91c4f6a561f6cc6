"""eStargz: gzip layers with a table of contents.

Format: containerd/stargz-snapshotter, docs/estargz.md and estargz/gzip.go (0.19.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor

import isal.isal_zlib
from zlib_ng import zlib_ng

from lazyci.errors import ImageError
from lazyci.image.chunked.builder import END_OF_ARCHIVE, ChunkedBuilder, Ending
from lazyci.image.chunked.toc import TOC_NAME
from lazyci.image.inflate import inflater
from lazyci.image.manifest import GZIP_LAYER, Descriptor, compression, digest_of
from lazyci.image.store import Repository, Upload
from lazyci.image.tar.entry import BLOCK, Entry, encode_header
from lazyci.image.tar.reader import TarReader

__all__ = ["TOC_DIGEST", "EstargzCodec", "estargz", "is_estargz"]

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"

_GZIP = 31  # zlib's code for "gzip header and trailer, largest window"
_FOOTER = 51
_MAX_TOC = 256 << 20

_FAST, _GOOD, _TOC_LEVEL = 2, 3, 6
# How much larger than at gzip's level 6 the two come out, by the ratio of a sample at the fast
# level; measured on Debian, Python and CUDA layers.
_EXPECTED = ((0.2, 1.29, 1.16), (0.36, 1.165, 1.075), (0.5, 1.125, 1.06), (0.62, 1.085, 1.04))
_INCOMPRESSIBLE = (1.008, 1.005)
_BUDGET = 1.085
_SAMPLE = 32 << 10
_SMALL = 1 << 20


def estargz(upload: Upload, compressed: str, pool: Executor) -> ChunkedBuilder:
    """A builder of eStargz layers.

    Args:
        upload: Takes the new layer.
        compressed: Of the layer that is fed: `none`, `gzip` or `zstd`.
        pool: Threads that compress.
    """
    return ChunkedBuilder(EstargzCodec(), upload, compressed, pool)


class EstargzCodec:
    """gzip members. Implements Codec.

    ISA-L's level 2 is three to five times as fast as zlib-ng's 3, and its output nearly as small
    where little can be gained (libraries), but not elsewhere (text). So the fast one is taken as
    long as the layer stays within a budget over gzip's level 6, by estimates from samples.
    """

    media_type = GZIP_LAYER

    def __init__(self) -> None:
        self._usual = 0.0  # bytes at gzip's level 6, by the estimates
        self._taken = 0.0
        self._ratio = 1.0  # of small members, of which one in a stretch is sampled
        self._unsampled = 0

    def choose(self, data: memoryview) -> Callable[[memoryview], bytes]:
        ratio = self._estimate(data)
        fast, good = _INCOMPRESSIBLE
        for bound, *factors in _EXPECTED:
            if ratio < bound:
                fast, good = factors
                break
        usual = ratio * len(data) / fast
        self._usual += usual
        if self._taken + usual * fast <= self._usual * _BUDGET:
            self._taken += usual * fast
            return _fast
        self._taken += usual * good
        return _good

    def _estimate(self, data: memoryview) -> float:
        """The ratio at the fast level: of three places, or as in the members just before."""
        self._unsampled -= len(data)
        if len(data) < _SMALL and self._unsampled > 0:
            return self._ratio
        sample: bytes | memoryview = data
        if len(data) > 3 * _SAMPLE:
            middle = len(data) // 2
            places = (data[:_SAMPLE], data[middle : middle + _SAMPLE], data[-_SAMPLE:])
            sample = b"".join(places)
        ratio = len(_fast(sample)) / len(sample)
        if len(data) < _SMALL:
            self._ratio, self._unsampled = ratio, _SMALL
        return ratio

    def end(self, toc: bytes, offset: int) -> Ending:
        if not toc:
            return Ending(_good(END_OF_ARCHIVE), END_OF_ARCHIVE, {})
        header = encode_header(Entry("reg", TOC_NAME, len(toc)))
        unpacked = b"".join((header, toc, bytes(-len(toc) % BLOCK), END_OF_ARCHIVE))
        stored = zlib_ng.compress(unpacked, _TOC_LEVEL, _GZIP) + footer(offset)
        return Ending(stored, unpacked, {TOC_DIGEST: digest_of(toc)})


def _fast(data: bytes | memoryview) -> bytes:
    # Not isal_zlib.compress(): in one thread of some hundred it makes other matches, all valid,
    # of the same data (seen with isal 1.9.1, in levels 1 and 2); this one never did.
    compressor = isal.isal_zlib.compressobj(_FAST, isal.isal_zlib.DEFLATED, _GZIP)
    return compressor.compress(data) + compressor.flush()


def _good(data: bytes | memoryview) -> bytes:
    return zlib_ng.compress(data, _GOOD, _GZIP)


def footer(offset: int) -> bytes:
    """An empty gzip member that says where the TOC is: `SG` in the header's extra field."""
    extra = b"%016xSTARGZ" % offset
    field = b"SG" + len(extra).to_bytes(2, "little") + extra
    header = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff"
    stored = b"\x01\x00\x00\xff\xff"
    return header + len(field).to_bytes(2, "little") + field + stored + bytes(8)


def is_estargz(repository: Repository, layer: Descriptor) -> bool:
    """Whether a layer is eStargz already, so that it can stay as it is.

    Its annotation must name the digest of the TOC that is found in the layer.

    Raises:
        RegistryError: The layer cannot be read.
    """
    expected = layer.annotations.get(TOC_DIGEST, "")
    if not expected or compression(layer.media_type) != "gzip" or layer.size <= _FOOTER:
        return False
    end = layer.size - _FOOTER
    found = repository.read_range(layer, end, _FOOTER)
    digits = found[16:32]
    try:
        offset = int(digits, 16)
    except ValueError:
        return False
    if found != footer(offset) or not 0 <= offset < end or end - offset > _MAX_TOC:
        return False
    return _toc_digest(repository.read_range(layer, offset, end - offset)) == expected


def _toc_digest(stored: bytes) -> str:
    """The digest of a TOC in the gzip member of its own; empty when there is none."""
    archive = _TocArchive()
    reader = TarReader(archive)
    unpack = inflater("gzip", reader.feed, _MAX_TOC)
    try:
        unpack.feed(stored)
        unpack.finish()
        reader.finish()
    except ImageError:
        return ""
    return f"sha256:{archive.hash.hexdigest()}" if archive.names == [TOC_NAME] else ""


class _TocArchive:
    """Takes an archive that must hold the TOC alone."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.hash = hashlib.sha256()

    def entry(self, entry: Entry) -> None:
        self.names.append(entry.name)

    def payload(self, data: memoryview) -> None:
        self.hash.update(data)

    def padding(self, data: memoryview) -> None:
        pass
