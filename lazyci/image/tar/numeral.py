"""Numbers in tar headers: octal digits, or GNU's base 256 for those that do not fit."""

from __future__ import annotations

from functools import lru_cache

from lazyci.errors import ImageError

__all__ = ["number"]


@lru_cache(maxsize=1 << 14)
def number(field: bytes) -> int:
    """The number in a field of a header; an empty field is 0.

    Raises:
        ImageError: The field holds none, or one of more than 64 bits.
    """
    if field[0] & 0x80:
        return _base256(field)
    text = field.strip(b" \0").partition(b"\0")[0]
    if not text:
        return 0
    # int() alone would take signs, blanks and underscores too.
    if text.isdigit() and b"8" not in text and b"9" not in text:
        return int(text, 8)
    raise ImageError(f"a number in a tar header is malformed: {field!r}")


def _base256(field: bytes) -> int:
    """Big-endian two's complement without its highest bit, which marks the form."""
    value = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
    if field[0] & 0x40:
        value -= 1 << (8 * len(field) - 1)
    if not -(1 << 63) <= value < 1 << 63:
        raise ImageError("a number in a tar header has more than 64 bits")
    return value
