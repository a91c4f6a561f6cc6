"""Layers unpacked while they arrive, in pieces of any size, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import random
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lazyci.errors import ImageError
from lazyci.image.inflate import inflater
from tests.archives import pieces

RANDOM = random.Random(1)
PARTS = [RANDOM.randbytes(size) + b"a" * more for size, more in ((0, 0), (1, 5), (300, 0), (70_000, 9), (9, 2_000_000), (300_000, 0), (0, 1), (131_072, 262_144))]  # fmt: skip
WHOLE = b"".join(PARTS)
SKIPPABLE = b"\x5f\x2a\x4d\x18\x09\0\0\0" + b"123456789"
GZIP = b"".join(gzip.compress(part, mtime=0) for part in PARTS)


def frame(part: bytes, checksum: bool, size: bool, level: int = 3) -> bytes:
    return zstandard.ZstdCompressor(
        level=level, write_checksum=checksum, write_content_size=size
    ).compress(part)


ZSTD = b"".join(frame(part, bool(n & 1), bool(n & 2)) + SKIPPABLE for n, part in enumerate(PARTS))


def unpack(how: str, data: bytes, sizes: list[int], limit: int = 1 << 40) -> bytes:
    out: list[bytes] = []
    unpacker = inflater(how, out.append, limit)
    for piece in pieces(data, sizes):
        unpacker.feed(piece)
    unpacker.finish()
    assert unpacker.total == sum(map(len, out))
    assert all(0 < len(piece) <= 1 << 20 for piece in out)
    return b"".join(out)


@pytest.mark.parametrize(("how", "data"), [("gzip", GZIP), ("zstd", ZSTD), ("none", WHOLE)])
@given(sizes=st.lists(st.sampled_from([1, 7, 4096, 70_000, 1 << 20]), min_size=1, max_size=4))
def test_any_pieces(how: str, data: bytes, sizes: list[int]) -> None:
    if max(sizes) < 4096:
        sizes = [*sizes, 4096]
    assert unpack(how, data, sizes) == WHOLE


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_bytes_one_by_one(how: str) -> None:
    parts = [b"", b"x" * 100, RANDOM.randbytes(900)]
    data = b"".join(
        gzip.compress(p) if how == "gzip" else frame(p, True, False) + SKIPPABLE for p in parts
    )
    assert unpack(how, data, [1]) == b"".join(parts)


@pytest.mark.parametrize("flags", range(0, 32, 2))
def test_gzip_headers(flags: int) -> None:
    """Every mix of header fields, cut at every byte."""
    plain = gzip.compress(b"content", mtime=0)
    fields = {4: b"\x05\0extra", 8: b"name\0", 16: b"comment\0", 2: b"\0\0"}
    header = plain[:3] + bytes([flags]) + plain[4:10]
    header += b"".join(field for bit, field in fields.items() if flags & bit)
    if flags & 2:
        header = header[:-2] + (zlib.crc32(header[:-2]) & 0xFFFF).to_bytes(2, "little")
    member = header + plain[10:]
    for cut in range(1, len(member)):
        assert unpack("gzip", member * 2, [cut, len(member)]) == b"contentcontent"


def test_endless_gzip_header() -> None:
    with pytest.raises(ImageError, match="does not end"):
        unpack("gzip", b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 300_000, [1000])


def test_zeros_after_members() -> None:
    padded = gzip.compress(b"one") + bytes(700_000) + gzip.compress(b"two") + bytes(5)
    for sizes in ([1 << 20], [999], [65_536]):
        assert unpack("gzip", padded, sizes) == b"onetwo"


@pytest.mark.parametrize(("how", "data"), [("gzip", GZIP), ("zstd", ZSTD)])
def test_truncated(how: str, data: bytes) -> None:
    for cut in (0, 1, 5, 8, 12, len(data) // 2, len(data) - 1):
        with pytest.raises(ImageError, match="ends in the middle"):
            unpack(how, data[:cut], [5000])


@pytest.mark.parametrize(
    ("how", "data"),
    [
        ("gzip", b"no gzip at all" * 9),
        ("gzip", bytes(100) + GZIP[:100]),
        ("gzip", gzip.compress(b"x") + b"rubbish behind it"),
        ("gzip", gzip.compress(b"abc" * 99)[:-8] + bytes(8)),
        ("gzip", GZIP[:3000] + b"\xff" * 3000),
        ("zstd", b"no zstd at all" * 9),
        ("zstd", frame(b"x", True, True) + b"rubbish behind it"),
        ("zstd", frame(b"abc" * 99, True, True)[:-4] + bytes(4)),
        ("zstd", b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(40)),  # a window of 4 TiB
        ("zstd", b"\x28\xb5\x2f\xfd\x00\x58\x06\0\0" + bytes(40)),  # a reserved kind of block
        ("zstd", b"\x28\xb5\x2f\xfd\x00\x58\x03\xff\xff" + bytes(40)),  # a block of 2 MiB
    ],
)
def test_malformed(how: str, data: bytes) -> None:
    for sizes in ([1 << 20], [100], [1]):
        with pytest.raises(ImageError):
            unpack(how, data, sizes)


@given(st.sampled_from(["gzip", "zstd"]), st.integers(0, 1 << 30), st.integers(0, 7))
def test_damaged(how: str, place: int, bit: int) -> None:
    data = bytearray(
        gzip.compress(WHOLE[:9999]) if how == "gzip" else frame(WHOLE[:9999], True, True)
    )
    data[place % len(data)] ^= 1 << bit
    with contextlib.suppress(ImageError):
        assert unpack(how, bytes(data), [997]) == WHOLE[:9999]


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_bomb(how: str) -> None:
    """256 MiB of zeros in one small piece of input: memory stays small, and the limit counts."""
    zeros = bytes(256 << 20)
    data = gzip.compress(zeros, 1) if how == "gzip" else frame(zeros, False, True)
    del zeros
    unpacker = inflater(how, lambda piece: None, 1 << 40)
    tracemalloc.start()
    unpacker.feed(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    unpacker.finish()
    assert (unpacker.total, peak < 8 << 20) == (256 << 20, True)
    with pytest.raises(ImageError, match="more than 1000000 bytes"):
        unpack(how, data, [1 << 20], limit=1_000_000)


def test_many_tiny_members() -> None:
    """What a member leaves over is not copied again and again."""
    assert unpack("gzip", gzip.compress(b"x") * 50_000, [1 << 20]) == b"x" * 50_000
