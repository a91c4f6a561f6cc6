"""Layers for tests: what they hold, as tars, and as what an extractor of a few lines makes of them.

Nothing here uses lazyci: it is what lazyci's own reading is compared with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = os.geteuid() == 0
TYPES = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


@dataclass(frozen=True)
class Item:
    """One entry of a layer; `mtime` in nanoseconds."""

    path: str
    kind: str = "file"
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    target: str = ""
    device: tuple[int, int] = (0, 0)

    def but(self, **changes: Any) -> Item:
        return dataclasses.replace(self, **changes)


def tar_of(items: Iterable[Item], form: int = tarfile.PAX_FORMAT, prefix: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for item in items:
            info = tarfile.TarInfo(prefix + item.path)
            info.type = TYPES[item.kind]
            info.mode, info.uid, info.gid = item.mode, item.uid, item.gid
            info.size = len(item.content)
            info.linkname = item.target
            info.devmajor, info.devminor = item.device
            info.mtime = item.mtime // 10**9
            records = {
                f"SCHILY.xattr.{k}": v.decode("utf-8", "surrogateescape") for k, v in item.xattrs
            }
            if item.mtime % 10**9:
                sign, rest = ("-", -item.mtime) if item.mtime < 0 else ("", item.mtime)
                records["mtime"] = f"{sign}{rest // 10**9}.{rest % 10**9:09d}"
            info.pax_headers = records
            tar.addfile(info, io.BytesIO(item.content))
    return stream.getvalue()


class Unpacked:
    """A directory into which layers are unpacked, the lowest first, as OCI images are.

    Where the rules leave it open, or tools differ, it raises OSError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._times: dict[Path, int] = {}
        self._fresh: set[Path] = set()
        self._described: set[Path] = set()
        self._late: dict[Path, Item] = {}

    def apply(self, items: Sequence[Item]) -> None:
        self._fresh, self._described, self._late = set(), set(), {}
        for item in items:
            self._hide(item)
        for item in items:
            path = self.folder / item.path
            self._make_parents(path)
            if not path.name.startswith(".wh."):
                self._make(path, item)
        self._link_late()
        for path, time in self._times.items():
            os.utime(path, ns=(time, time))

    def _hide(self, item: Item) -> None:
        path = self.folder / item.path
        parents = [one for one in path.parents if one.is_relative_to(self.folder)]
        if not all(one.is_dir() and not one.is_symlink() for one in parents):
            return
        if path.name == ".wh..wh..opq":
            for child in path.parent.iterdir():
                self._remove(child)
        elif path.name.startswith(".wh."):
            self._remove(path.parent / path.name.removeprefix(".wh."))

    def _make_parents(self, path: Path) -> None:
        for parent in reversed(path.relative_to(self.folder).parents[:-1]):
            one = self.folder / parent
            if one.is_dir() and not one.is_symlink():
                continue
            if one in self._fresh:
                raise NotADirectoryError(str(one))
            self._remove(one)
            one.mkdir()
            if ROOT:
                # Else it is of the group of a parent with the set-group-id bit.
                os.chown(one, 0, 0)
            one.chmod(0o755)
            self._fresh.add(one)
            self._times[one] = 0

    def _make(self, path: Path, item: Item) -> None:
        merged = item.kind == "directory" and path.is_dir() and not path.is_symlink()
        if item.kind == "directory" and not merged and path in self._fresh:
            # A file of this layer hid a lower directory: on overlayfs it shows again.
            raise NotADirectoryError(str(path))
        if not merged:
            self._remove(path)
            self._create(path, item)
        elif path not in self._described:
            for name in os.listxattr(path):
                os.removexattr(path, name)
        self._fresh.add(path)
        if path not in self._late:
            self._set(path, item)
        if item.kind == "directory":
            self._described.add(path)
            self._times[path] = item.mtime

    def _create(self, path: Path, item: Item) -> None:
        if item.kind == "directory":
            path.mkdir()
        elif item.kind == "symbolic link":
            path.symlink_to(item.target)
        elif item.kind == "hard link":
            self._link(path, item)
        elif item.kind == "fifo":
            os.mkfifo(path)
        elif item.kind == "file":
            path.write_bytes(item.content)
        else:
            kind = stat.S_IFCHR if item.kind == "character device" else stat.S_IFBLK
            os.mknod(path, kind | item.mode, os.makedev(*item.device))

    def _link(self, path: Path, item: Item) -> None:
        target = self.folder / item.target
        there = target in self._fresh and target not in self._late and os.path.lexists(target)
        if there and (target.is_symlink() or not target.is_dir()):
            os.link(target, path, follow_symlinks=False)
            return
        # Its target comes later, or is in a lower layer.
        self._late[path] = item
        path.touch()

    def _link_late(self) -> None:
        while self._late:
            ready = [p for p, i in self._late.items() if self.folder / i.target not in self._late]
            if not ready:
                raise FileNotFoundError("hard links to one another")
            for path in ready:
                item = self._late.pop(path)
                path.unlink()
                os.link(self.folder / item.target, path, follow_symlinks=False)
                self._set(path, item)

    def _set(self, path: Path, item: Item) -> None:
        if ROOT:
            os.chown(path, item.uid, item.gid, follow_symlinks=False)
        status = path.lstat()
        if not path.is_symlink():
            path.chmod(item.mode)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            for name, value in item.xattrs:
                os.setxattr(path, name, value)
        os.utime(path, ns=(item.mtime, item.mtime), follow_symlinks=False)

    def _remove(self, path: Path) -> None:
        for known in (self._times, self._late):
            for gone in [one for one in known if one == path or path in one.parents]:
                del known[gone]
        for these in (self._fresh, self._described):
            these -= {one for one in these if one == path or path in one.parents}
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def seen(folder: Path) -> dict[str, dict[str, Any]]:
    """What is in a directory, in the words of `told`."""
    found: dict[str, dict[str, Any]] = {}
    names: dict[int, str] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
        status = path.lstat()
        name = str(path.relative_to(folder))
        plain = stat.S_ISREG(status.st_mode)
        device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        link = stat.S_ISLNK(status.st_mode)
        found[name] = {
            "type": stat.S_IFMT(status.st_mode),
            "mode": None if link else stat.S_IMODE(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
            "xattrs": {
                name: os.getxattr(path, name)
                for name in ([] if link else os.listxattr(path))
                if name.startswith("user.")
            },
            "target": os.readlink(path) if link else "",
            "device": (os.major(status.st_rdev), os.minor(status.st_rdev)) if device else None,
            "content": hashlib.sha256(path.read_bytes()).hexdigest() if plain else "",
            "same as": name
            if stat.S_ISDIR(status.st_mode)
            else names.setdefault(status.st_ino, name),
        }
    return found
