"""What a nydus index points at, read through it."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from typing import Any

import isal.isal_zlib
import pytest
from zlib_ng import zlib_ng

from lazyci.errors import ImageError
from lazyci.image.nydus.maker import NydusIndexMaker
from lazyci.image.nydus.merge import Part, merge
from lazyci.image.nydus.tool import NydusImage
from lazyci.image.nydus.unpack import unpack
from lazyci.image.nydus.zran import ZranBlob
from tests import oracle
from tests.test_nydus import Entry, F, build, tar_of
from tests.test_nydus import tool as tool


def text(seed: int, size: int) -> bytes:
    source = random.Random(seed)
    words = [source.randbytes(source.randrange(2, 9)).hex().encode() for _ in range(900)]
    return b" ".join(source.choices(words, k=size // 8))[:size]


def layer_of(seed: int) -> bytes:
    """Text, and what does not compress, so that there are stored blocks between others."""
    source = random.Random(seed)
    entries: list[Entry] = []
    for number in range(60):
        size = source.choice([0, 1, 900, 70_000, 2_500_000 if number % 9 == 0 else 5])
        parts = [
            text(number, size // 2) if source.random() < 0.6 else source.randbytes(size // 2)
            for _ in range(2)
        ]
        entries.append((f"f{number}", F, {"data": b"".join(parts)}))
    return tar_of(entries)


def _isal(data: bytes) -> bytes:
    made = isal.isal_zlib.compressobj(1, isal.isal_zlib.DEFLATED, 31)
    return made.compress(data) + made.flush()


def _flushed(data: bytes) -> bytes:
    """With empty stored blocks, which end at a byte's end."""
    made = zlib.compressobj(6, zlib.DEFLATED, 31)
    parts = []
    for start in range(0, len(data), 77_777):
        parts.append(made.compress(data[start : start + 77_777]))
        parts.append(made.flush(zlib.Z_SYNC_FLUSH))
    return b"".join([*parts, made.flush()])


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": lambda data: gzip.compress(data, 6),
    "isal": _isal,
    "zlib-ng": lambda data: zlib_ng.compress(data, 1, 31),
    "flushed": _flushed,
}


def opened(tool: NydusImage, packed: bytes) -> tuple[ZranBlob, Any]:
    store: dict[str, bytes] = {}
    built = build(NydusIndexMaker(tool), packed, store)
    (blob,) = store.values()
    index = ZranBlob(
        lambda at, size: blob[at : at + size], len(blob), lambda at, size: packed[at : at + size]
    )
    return index, built


@pytest.mark.parametrize("how", PACKERS)
def test_every_file_comes_back(tool: NydusImage, how: str) -> None:
    layer = layer_of(len(how))
    index, built = opened(tool, PACKERS[how](layer))
    out: list[bytes] = []
    merged = merge([Part(built.blob, built.bootstrap)])
    unpack(merged, lambda *_: b"", out.append, lambda _, number, size: index.chunk(number, size))
    assert oracle.shown(oracle.apply([b"".join(out)])) == oracle.shown(oracle.apply([layer]))


def test_members_are_refused(tool: NydusImage) -> None:
    """nydusd stops at a member's end, and gives an I/O error for what follows."""
    layer = layer_of(4)
    with pytest.raises(ImageError, match="misreads"):
        opened(tool, gzip.compress(layer[:900_000]) + gzip.compress(layer[900_000:]))


def test_other_bytes_are_noticed(tool: NydusImage) -> None:
    """Of the layer, as a registry may give them: the chunks' digests do not fit, or nothing does."""
    packed = bytearray(gzip.compress(layer_of(1), 6))
    index, built = opened(tool, bytes(packed))
    packed[len(packed) // 2] ^= 0x10
    index._source = lambda at, size: bytes(packed[at : at + size])
    merged = merge([Part(built.blob, built.bootstrap)])
    with pytest.raises(ImageError, match=r"another digest|does not fit|wrong size"):
        unpack(
            merged,
            lambda *_: b"",
            lambda _: None,
            lambda _, number, size: index.chunk(number, size),
        )


def test_a_broken_index(tool: NydusImage) -> None:
    index, _ = opened(tool, gzip.compress(layer_of(2), 6))
    with pytest.raises(ImageError, match="no such chunk"):
        index.chunk(1 << 30, 1)
    source = random.Random(3)
    whole = index._table
    for _ in range(300):
        table = bytearray(whole)
        for _ in range(3):
            table[source.randrange(min(len(table), 9000))] = source.randrange(256)
        index._table, index._kept = bytes(table), {}
        for number in range(index._chunks):
            try:
                index.chunk(number, 100)
            except ImageError:
                break
