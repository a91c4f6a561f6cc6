"""Reads the data of a layer through its nydus index, as nydusd does: gzip from the middle.

Format: nydus-storage 0.6.2, `src/meta/zran.rs` and `src/meta/chunk_info_v2.rs`. Each context says
where in the original layer a deflate block begins, to the bit, and what 32 KiB come before it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from lazyci.errors import ImageError
from lazyci.image.nydus.blob import META, META_HEADER, read_part

__all__ = ["ZranBlob"]

_INFO = struct.Struct("<QQQ")
_CONTEXT = struct.Struct("<QQQIIIBBxx")
_HEADER = struct.Struct("<IIIIQQQQQI")
# BlobFeatures: the table has contexts of this kind.
_ZRAN = 0x8
_CHUNK_IS_ZRAN = 2
_MAX_OUT = 64 << 20
_KEPT = 32

_Read = Callable[[int, int], bytes]


class ZranBlob:
    """The data behind one index.

    Args:
        read: Gives bytes of the index blob, from an offset on, of a length.
        size: Of the index blob.
        source: Gives bytes of the original layer.

    Raises:
        ImageError: The index is broken.
    """

    def __init__(self, read: _Read, size: int, source: _Read) -> None:
        self._source = source
        self._table = read_part(read, size, META)
        header = _HEADER.unpack_from(read_part(read, size, META_HEADER))
        self._chunks, self._at, self._count = header[3], header[7], header[9]
        self._dictionaries = self._at + self._count * _CONTEXT.size
        if not header[1] & _ZRAN or self._dictionaries > len(self._table):
            raise ImageError("the nydus index has no table to unpack its layer by")
        self._kept: dict[int, bytes] = {}

    def chunk(self, index: int, unpacked: int) -> bytes:
        """The bytes of a chunk.

        Args:
            index: Its number in the table.
            unpacked: How many bytes the bootstrap says that it has.

        Raises:
            ImageError: The index is broken, or does not fit the layer.
        """
        if index >= self._chunks:
            raise ImageError("the nydus index has no such chunk")
        info, _, place = _INFO.unpack_from(self._table, index * _INFO.size)
        if not info >> 56 & _CHUNK_IS_ZRAN:
            raise ImageError("the nydus index has a chunk of another kind")
        context, offset = place >> 32, place & 0xFFFFFFFF
        return self._context(context)[offset : offset + unpacked]

    def _context(self, number: int) -> bytes:
        data = self._kept.pop(number, None)
        if data is None:
            data = self._unpack(number)
        self._kept[number] = data
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return data

    def _unpack(self, number: int) -> bytes:
        if number >= self._count:
            raise ImageError("the nydus index has no such context")
        start, _, dictionary, size, unpacked, length, byte, bits = _CONTEXT.unpack_from(
            self._table, self._at + number * _CONTEXT.size
        )
        if unpacked > _MAX_OUT or size > _MAX_OUT:
            raise ImageError("the nydus index has a context that is too large")
        packed = self._source(start, size)
        bits &= 7
        if bits:
            packed = _filler(8 - bits, byte >> (8 - bits)) + packed
        begin = self._dictionaries + dictionary
        inflate = zlib.decompressobj(-15, zdict=self._table[begin : begin + length])
        try:
            data = inflate.decompress(packed, unpacked)
        except zlib.error as error:
            raise ImageError(f"the nydus index does not fit its layer: {error}") from None
        if len(data) != unpacked:
            raise ImageError("the nydus index does not fit its layer: bytes are missing")
        return data


def _filler(before: int, begin: int) -> bytes:
    """What stands for the byte in which a deflate block begins, and for all before it.

    Python's zlib cannot begin in the middle of a byte, and moving all bits would move stored
    blocks away from the bytes' bounds. So blocks that hold nothing fill the bits before it.

    Args:
        before: How many bits of the byte belong to what comes before, 1 to 7.
        begin: The others, which begin the block.
    """
    bits = ""
    if before % 2:
        bits = _EMPTY
    while len(bits) % 8 != before:
        bits += _EMPTY_FIXED
    bits += format(begin, f"0{8 - before}b")[::-1]
    return int(bits[::-1], 2).to_bytes(len(bits) // 8, "little")


# Blocks of RFC 1951 that unpack to nothing, in the order in which their bits are read: one with
# the fixed codes, 10 bits, and one with codes of its own, 95 bits. That names the lengths of 19
# codes (1 for "138 zeros", 2 for "0" and "1"), and with them that only the end has a code.
_EMPTY_FIXED = "0" + "10" + "0000000"
_LENGTHS = "".join({2: "100", 3: "010", 17: "010"}.get(place, "000") for place in range(19))
_EMPTY = (
    "0" + "01" + "00000" + "00000" + "1111" + _LENGTHS
    + "0" + "1111111" + "0" + "1101011" + "11" + "10" + "0"
)  # fmt: skip
