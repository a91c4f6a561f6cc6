"""Make the images that the benchmarks use, as OCI layouts, without a container engine.

python tests/images/make.py [NAME...]    make what is missing (default: small); print where it is

`small` is generated and needs nothing. `cpu` and `cuda` need Linux, root, debootstrap and the
network: Debian bookworm with Python, and PyTorch from Debian (the CPU build is not on PyPI) or from
PyPI with its CUDA libraries (torch.txt, science.txt). Each image has a twin, NAME-changed, with
another top layer of the same size. They are kept in LAZYCI_IMAGES or the user's cache.

Layers are gzip of level 6, as Docker makes them, by zlib-ng on all cores. Names, owners and times
in the tars do not depend on the run; what Debian's mirror serves does.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from zlib_ng import gzip_ng_threaded

HERE = Path(__file__).resolve().parent
# As a script this module finds its own folder, not the package.
sys.path.insert(0, str(HERE.parent.parent))

from tests.agents.root import PATH, AgentError, apt_install, debootstrap  # noqa: E402

SUITE = "bookworm"
PYTHON = "3.11"
# Bookworm's C library.
GLIBC = 36
# Not scipy: Debian's pulls in a compiler.
CPU_PACKAGES = ["python3-torch", "python3-pandas"]
SITE = "usr/local/lib/python3.11/dist-packages"
# No file is newer: what the build itself writes gets this time.
NEWEST = 1_750_000_000
LEVEL = 6
# A change to how layers are made is another cache.
RECIPE = 1
APP_SIZE, SMALL_APP_SIZE = 10_000_000, 400_000
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

Fill = Callable[[tarfile.TarFile], None]


def cache_folder() -> Path:
    """Where images are kept: LAZYCI_IMAGES, or the user's cache."""
    chosen = os.environ.get("LAZYCI_IMAGES")
    if chosen:
        return Path(chosen).expanduser().absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(user_cache) if os.path.isabs(user_cache) else Path.home() / ".cache"
    return base / "lazyci" / "images"


def make(name: str) -> Path:
    """Return the OCI layout of an image, made first if it is missing."""
    target = cache_folder() / f"{name}-{RECIPE}"
    if not (target / "index.json").is_file():
        base, _, changed = name.partition("-")
        with _locked():
            _write_layout(target, IMAGES[base](2 if changed else 1))
    return target


@contextmanager
def _locked() -> Iterator[None]:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_layout(target: Path, layers: list[Path]) -> None:
    """Write a layout whose layers are hard links into the cache of layers."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    blobs = scratch / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    descriptors, diff_ids = [], []
    for layer in layers:
        facts = json.loads((layer / "layer.json").read_text())
        os.link(layer / "layer.tar.gz", blobs / facts["digest"].removeprefix("sha256:"))
        descriptors.append({"mediaType": LAYER, "digest": facts["digest"], "size": facts["size"]})
        diff_ids.append(facts["diff_id"])
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2025-06-15T00:00:00Z",
        "config": {"Env": [f"PATH={PATH}"], "Cmd": ["python3", "/app/work.py"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": layer.name} for layer in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(blobs, config, CONFIG),
        "layers": descriptors,
    }
    tag = {"org.opencontainers.image.ref.name": "latest"}
    entry = {**_blob(blobs, manifest, MANIFEST), "annotations": tag}
    (scratch / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (scratch / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    scratch.chmod(0o755)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)


def _blob(blobs: Path, value: object, media_type: str) -> dict[str, Any]:
    body = json.dumps(value, separators=(",", ":")).encode()
    digest = hashlib.sha256(body).hexdigest()
    (blobs / digest).write_bytes(body)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(body)}


class _Hashed(io.RawIOBase):
    """A file that hashes and counts what is written to it, and passes it on."""

    def __init__(self, below: IO[bytes]) -> None:
        self.below, self.hash, self.size = below, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.size += len(data)
        self.below.write(data)
        return len(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self.hash.hexdigest()}"


def _layer(name: str, fill: Fill) -> Path:
    """Return the folder of a layer (layer.tar.gz, layer.json), made first if it is missing."""
    target = cache_folder() / "layers" / f"{name}-{RECIPE}"
    if target.is_dir():
        return target
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=target.parent) as made:
        scratch = Path(made) / "layer"
        scratch.mkdir()
        with (scratch / "layer.tar.gz").open("wb") as file:
            packed = _Hashed(file)
            # Two threads at least: with one it writes blocks of another size.
            threads = max(2, os.cpu_count() or 1)
            zipped: Any = gzip_ng_threaded.open(  # type: ignore[no-untyped-call]
                packed, "wb", compresslevel=LEVEL, threads=threads
            )
            with zipped as below:
                plain = _Hashed(below)
                with tarfile.open(fileobj=plain, mode="w|", bufsize=1 << 20) as tar:
                    fill(tar)
        facts = {"digest": packed.digest, "size": packed.size}
        facts |= {"diff_id": plain.digest, "unpacked": plain.size}
        (scratch / "layer.json").write_text(json.dumps(facts))
        scratch.rename(target)
    return target


def _add_tree(tar: tarfile.TarFile, root: Path, prefix: str = "") -> None:
    """Add what a folder holds, in the order of names; whiteouts of overlayfs become those of OCI."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        inside = os.path.relpath(folder, root)
        inside = prefix if inside == "." else os.path.join(prefix, inside)
        if inside:
            _add(tar, Path(folder), inside)
            if _is_opaque(folder):
                _add_file(tar, f"{inside}/.wh..wh..opq", b"")
        for name in sorted(files + links):
            path = Path(folder, name)
            facts = path.lstat()
            if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == 0:
                _add_file(tar, os.path.join(inside, f".wh.{name}"), b"")
            else:
                _add(tar, path, os.path.join(inside, name))


def _is_opaque(folder: str) -> bool:
    return any(
        "overlay.opaque" in name and os.getxattr(folder, name) == b"y"
        for name in os.listxattr(folder)
    )


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    entry = tar.gettarinfo(str(path), name)
    if entry is None:  # a socket
        return
    entry.mtime = min(int(entry.mtime), NEWEST)
    if entry.isreg():
        with path.open("rb") as file:
            tar.addfile(entry, file)
    else:
        tar.addfile(entry)


def _add_file(tar: tarfile.TarFile, name: str, body: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode, entry.type = len(body), NEWEST, 0o644, kind
    if kind == tarfile.DIRTYPE:
        entry.mode = 0o755
    tar.addfile(entry, io.BytesIO(body))


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise AgentError(f"{' '.join(command[:8])} failed:\n{done.stderr.decode()[-2000:]}")


def _tidy(root: Path) -> None:
    """Remove what Debian's own images do not ship, and what differs from run to run."""
    for pattern in (
        "var/cache/apt/*",
        "var/cache/ldconfig/aux-cache",
        "var/lib/apt/lists/*",
        "var/log/**/*.log",
        "etc/machine-id",
        "etc/resolv.conf",
    ):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _debian() -> Path:
    """Return the base layer: Debian and Python. The unpacked tree stays beside it for `cpu`."""

    def fill(tar: tarfile.TarFile) -> None:
        tree = cache_folder() / "layers" / "debian-tree"
        shutil.rmtree(tree, ignore_errors=True)
        # A mirror that does not answer must not leave half a tree that looks whole.
        half = tree.with_name("debian-half")
        shutil.rmtree(half, ignore_errors=True)
        debootstrap(SUITE, half, "--include=ca-certificates,python3")
        half.rename(tree)
        with tempfile.TemporaryDirectory(prefix="lazyci-debian-", dir=tree.parent) as copied:
            clean = Path(copied) / "tree"
            _run("cp", "-a", str(tree), str(clean))
            _tidy(clean)
            shutil.rmtree(clean / "dev")
            (clean / "dev").mkdir()
            _add_tree(tar, clean)

    return _layer("debian", fill)


def _cpu(tar: tarfile.TarFile) -> None:
    """PyTorch and friends from Debian: what apt writes into an overlay of the base."""
    base = cache_folder() / "layers" / "debian-tree"
    with tempfile.TemporaryDirectory(prefix="lazyci-cpu-", dir=base.parent) as made:
        upper, work, root = (Path(made) / name for name in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir()
        options = f"lowerdir={base},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "-o", options, "overlay", str(root))
        try:
            apt_install(root, CPU_PACKAGES)
        finally:
            _run("umount", str(root))
        _tidy(upper)
        _add_tree(tar, upper)


def _wheels(requirements: str) -> Fill:
    """PyPI's packages, unpacked where Debian's Python finds them; no code of theirs runs."""

    def fill(tar: tarfile.TarFile) -> None:
        wheels = cache_folder() / "wheels"
        platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
        platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
        target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
        target += [f"--platform={platform}" for platform in platforms]
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-cache-dir"]
        wanted = ["--no-deps", "--require-hashes", "-r", str(HERE / requirements)]
        _run(*pip, "download", *target, *wanted, "-d", str(wheels))
        with tempfile.TemporaryDirectory(prefix="lazyci-wheels-", dir=wheels.parent) as site:
            into = ["--no-index", f"--find-links={wheels}", "--no-compile", f"--target={site}"]
            _run(*pip, "install", *target, *wanted, *into)
            for record in Path(site).glob("*.dist-info/RECORD"):
                record.unlink()
            Path(site).chmod(0o755)
            _add_tree(tar, Path(site), SITE)

    return fill


_WORK = """import time
started = time.perf_counter()
import torch
a = torch.ones(512, 512)
print("ready", float((a @ a).sum()), round(time.perf_counter() - started, 2), flush=True)
"""


def _app(seed: int, size: int) -> Path:
    """Return the top layer: the application, whose bytes depend on the seed."""

    def fill(tar: tarfile.TarFile) -> None:
        _add_file(tar, "app", b"", tarfile.DIRTYPE)
        _add_file(tar, "app/work.py", _WORK.encode())
        _add_generated(tar, "app/module", seed, size)

    return _layer(f"app-{size}-{seed}", fill)


def _add_generated(tar: tarfile.TarFile, name: str, seed: int, size: int) -> None:
    """Add files of many sizes that compress about as programs do, together `size` bytes."""
    dice = random.Random(seed)
    words = [dice.randbytes(dice.randint(3, 9)) for _ in range(4000)]
    left, number = size, 0
    while left > 0:
        length = min(left, int(dice.lognormvariate(9.5, 1.8)) + 1)
        body = bytearray()
        while len(body) < length:
            body += dice.choice(words) if dice.random() < 0.8 else dice.randbytes(16)
        _add_file(tar, f"{name}{number:05}.bin", bytes(body[:length]))
        left -= length
        number += 1


def _small_layer(seed: int, size: int) -> Path:
    """Return a generated layer that holds every kind of entry."""

    def fill(tar: tarfile.TarFile) -> None:
        top = f"data{seed}"
        _add_file(tar, top, b"", tarfile.DIRTYPE)
        _add_generated(tar, f"{top}/file", seed, size)
        for name, kind, link in (
            ("symlink", tarfile.SYMTYPE, "file00000.bin"),
            ("hardlink", tarfile.LNKTYPE, f"{top}/file00001.bin"),
        ):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.type, entry.linkname, entry.mtime = kind, link, NEWEST
            tar.addfile(entry)
        if seed > 1:
            _add_file(tar, f"data{seed - 1}/.wh.file00002.bin", b"")

    return _layer(f"small-{size}-{seed}", fill)


def _small_image(version: int) -> list[Path]:
    layers = [_small_layer(seed, size) for seed, size in ((1, 6_000_000), (2, 3_000_000))]
    return [*layers, _app(version, SMALL_APP_SIZE)]


def _cpu_image(version: int) -> list[Path]:
    return [_debian(), _layer("cpu", _cpu), _app(version, APP_SIZE)]


def _cuda_image(version: int) -> list[Path]:
    torch = _layer("torch", _wheels("torch.txt"))
    return [_debian(), torch, _layer("science", _wheels("science.txt")), _app(version, APP_SIZE)]


IMAGES: dict[str, Callable[[int], list[Path]]] = {
    "small": _small_image,
    "cpu": _cpu_image,
    "cuda": _cuda_image,
}
NAMES = [name + twin for name in IMAGES for twin in ("", "-changed")]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make the images that the benchmarks use.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"one of {', '.join(NAMES)}")
    options = parser.parse_args()
    # argparse's own choices refuse an empty list.
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown image {unknown[0]}; known: {', '.join(NAMES)}")
    try:
        for name in options.names or ["small"]:
            print(make(name), flush=True)
    except AgentError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
