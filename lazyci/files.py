"""Files written whole or not at all, and the root of the repository they are in."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lazyci.errors import InputError

__all__ = ["read_bytes", "repository_root", "write_whole"]


def read_bytes(path: str) -> bytes:
    """A file's bytes.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from None


def write_whole(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a file beside the old one, then put it in its place.

    A link stays a link: what it points to is replaced.

    Args:
        path: The file; its folder is made when it is missing.
        data: Its new content.
        mode: Permissions of a new file; an old one keeps its own.

    Raises:
        InputError: It cannot be written.
    """
    target = path.resolve()
    scratch: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        permissions = target.stat().st_mode & 0o7777 if target.exists() else mode or 0o644
        descriptor, scratch = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), permissions)
            if os.geteuid() == 0 and target.exists():
                # Root writes for others, too; the file stays theirs.
                owner = target.stat()
                os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(stream.fileno())
        os.replace(scratch, target)
    except OSError as error:
        if scratch is not None and os.path.exists(scratch):
            os.unlink(scratch)
        raise InputError(f"cannot be written: {error.strerror}", path=str(path)) from None


def repository_root(start: Path) -> Path | None:
    """The nearest folder, from a file or folder upwards, that holds `.git`."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / ".git").exists():
            return folder
    return None
