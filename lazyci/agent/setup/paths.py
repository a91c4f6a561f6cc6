"""Paths below a root that is this host's or that of an image being made."""

from __future__ import annotations

from pathlib import Path

from lazyci.errors import InputError

__all__ = ["decoded", "inside", "read"]


def inside(root: Path, path: str) -> Path:
    """A path below the root.

    Raises:
        InputError: A link there leads out of the root.
    """
    place = root / path.lstrip("/")
    if not place.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"a link leads out of {root}", path=str(place), hint="Nothing was written there."
        )
    return place


def read(root: Path, path: str) -> bytes | None:
    """A file's bytes; None where it is missing.

    Raises:
        InputError: It cannot be read.
    """
    place = inside(root, path)
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=str(place)) from None


def decoded(data: bytes, shown: str) -> str:
    """A file's text.

    Raises:
        InputError: It is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8", path=shown, line=line, column=1) from None
