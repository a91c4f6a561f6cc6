"""zstd:chunked layers: frames, annotations and the place of the TOC (test_estargz has the rest)."""

from __future__ import annotations

import hashlib
import json

import pytest
import zstandard

from lazyci.image.chunked.zstdchunked import is_zstdchunked, zstdchunked
from lazyci.image.manifest import ZSTD_LAYER, Descriptor
from tests.archives import END, entry
from tests.lazylayers import build, unpack
from tests.repositories import MemoryRepository

DATA = entry("a", b"x" * 5000) + entry("b", bytes(5 << 20)) + END
PREFIX = "io.containers.zstd-chunked."


def test_annotations_lead_to_the_toc() -> None:
    lazy = build(zstdchunked, DATA)
    annotations = lazy.built.blob.annotations
    start, stored, size, kind = map(int, annotations[PREFIX + "manifest-position"].split(":"))
    toc = lazy.body[start : start + stored]
    assert annotations[PREFIX + "manifest-checksum"] == f"sha256:{hashlib.sha256(toc).hexdigest()}"
    plain = zstandard.ZstdDecompressor().decompress(toc)
    assert (len(plain), kind) == (size, 1)
    assert [row["name"] for row in json.loads(plain)["entries"]] == [
        ".no.prefetch.landmark",
        "a",
        "b",
        "b",
    ]
    assert lazy.built.blob.media_type == ZSTD_LAYER


def test_toc_and_footer_are_skipped() -> None:
    """What an ordinary tool unpacks ends with the archive."""
    lazy = build(zstdchunked, DATA)
    start = int(lazy.built.blob.annotations[PREFIX + "manifest-position"].split(":")[0])
    assert lazy.body[start - 8 : start - 4] == b"\x50\x2a\x4d\x18"
    assert lazy.body[-48:-44] == b"\x50\x2a\x4d\x18"
    assert unpack(lazy.body) == unpack(lazy.body[: start - 8])
    assert b"stargz.index.json" not in unpack(lazy.body)


@pytest.mark.parametrize("field", [0, 8, 16, 24, 32])
def test_wrong_footer(field: int) -> None:
    lazy = build(zstdchunked, DATA)
    repository = MemoryRepository()
    blob = lazy.built.blob
    at = len(lazy.body) - 40 + field
    for value in (0, 1, 7, 1 << 40, (1 << 64) - 1):
        damaged = lazy.body[:at] + value.to_bytes(8, "little") + lazy.body[at + 8 :]
        repository.blobs[blob.digest] = damaged
        found = Descriptor(blob.media_type, blob.digest, blob.size, annotations=blob.annotations)
        assert is_zstdchunked(repository, found) == (
            damaged == lazy.body or (field == 16 and value < 1 << 28)
        )
