"""Images that run, of files of the agents' root, small and with layers in common."""

from __future__ import annotations

import io
import random
import re
import subprocess
import tarfile
from pathlib import Path

TOOLS = ("sh", "cat", "ls", "find", "stat", "sha256sum", "tar", "sleep", "env", "true", "touch")
_LIBRARY = re.compile(r"(/\S+)(?= \(0x)")
NEWEST = 1_700_000_000


def base(root: Path) -> bytes:
    """A layer with a shell, a few tools and their libraries."""
    found: set[str] = set()
    for name in TOOLS:
        path = f"/usr/bin/{name}"
        done = subprocess.run(
            ["chroot", str(root), "ldd", path], capture_output=True, text=True, check=True
        )
        found |= {path, *_LIBRARY.findall(done.stdout)}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in (
            "usr",
            "usr/bin",
            "usr/lib",
            "usr/lib64",
            "usr/lib/x86_64-linux-gnu",
            "etc",
            "tmp",
        ):
            _add(tar, folder, kind=tarfile.DIRTYPE, mode=0o1777 if folder == "tmp" else 0o755)
        for name in ("bin", "lib", "lib64"):
            _add(tar, name, kind=tarfile.SYMTYPE, link=f"usr/{name}")
        for path in sorted({_merged(path) for path in found}):
            _add(tar, path, (root / path).read_bytes(), mode=0o755)
        _add(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    return stream.getvalue()


def layer(seed: str, *, gone: tuple[str, ...] = ()) -> bytes:
    """A layer of files of all kinds, some of which other layers have under the same paths."""
    source = random.Random(seed)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "data", kind=tarfile.DIRTYPE, mode=source.choice([0o750, 0o755, 0o2775]))
        for number in range(source.randrange(20, 40)):
            uid = source.randrange(3)
            size = source.choice([0, 1, 4096, 70_000, 1_300_000 if number == 3 else 9])
            mode = source.choice([0o600, 0o644, 0o4755])
            _add(tar, f"data/f{number}", source.randbytes(size), mode=mode, uid=uid)
            if number == 1:
                _add(tar, "data/hard", kind=tarfile.LNKTYPE, link="data/f1", mode=mode, uid=uid)
        _add(tar, f"data/only-{seed}", seed.encode())
        _add(tar, "data/soft", kind=tarfile.SYMTYPE, link=f"only-{seed}")
        _add(tar, "data/pipe", kind=tarfile.FIFOTYPE)
        _add(tar, "data/null", kind=tarfile.CHRTYPE, device=(1, 3))
        for path in gone:
            folder, _, name = path.rpartition("/")
            _add(tar, f"{folder}/.wh.{name}")
    return stream.getvalue()


def _merged(path: str) -> str:
    """A path without the links of a merged /usr."""
    parts = path.lstrip("/").split("/")
    return "/".join(["usr", *parts] if parts[0] != "usr" else parts)


def _add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    uid: int = 0,
    link: str = "",
    device: tuple[int, int] = (0, 0),
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.uid, info.linkname = kind, uid, link
    info.mode = 0o777 if kind == tarfile.SYMTYPE else mode
    info.mtime, info.size = NEWEST, len(data)
    info.devmajor, info.devminor = device
    tar.addfile(info, io.BytesIO(data))
