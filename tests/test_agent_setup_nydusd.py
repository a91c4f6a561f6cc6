"""The real nydusd, started as the snapshotter starts it: a changed chunk is an error."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lazyci.agent.setup import Options, apply, make_plan
from lazyci.image.nydus.maker import NydusMaker
from lazyci.image.nydus.merge import Part, merge
from tests.clients.install import installed
from tests.test_agent_setup import host
from tests.test_nydus import POOL, F, build, packed, tar_of


@contextmanager
def registry(blobs: dict[str, bytes]) -> Iterator[str]:
    """Serves blobs by digest, in ranges, as a registry does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = blobs.get(self.path.rpartition(":")[2])
            if data is None:
                self.send_error(404)
                return
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(found[1]) if found else 0
            last = int(found[2]) + 1 if found and found[2] else len(data)
            self.send_response(206 if found else 200)
            self.send_header("Content-Length", str(len(data[first:last])))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[first:last])

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def dumped(folder: Path, place: str) -> str:
    """The configuration as nydus-snapshotter writes it for one image, from lazyci's."""
    config = json.loads((folder / "etc/lazyci/nydus/nydusd.json").read_text())
    backend = config["device"]["backend"]["config"]
    # The fields and their order: config/daemonconfig/daemonconfig.go and fuse.go in 0.16.1.
    device = {
        "id": "/1",
        "backend": {
            "type": "registry",
            "config": {"readahead": False, "host": place, "repo": "a", "scheme": "http"}
            | {"proxy": {"fallback": False}}
            | {key: backend[key] for key in ("timeout", "connect_timeout", "retry_limit")},
        },
        "cache": {
            "type": "blobcache",
            "config": {"work_dir": str(folder / "cache"), "disable_indexed_map": False},
        },
    }
    rest = {key: config[key] for key in ("mode", "digest_validate", "enable_xattr", "amplify_io")}
    prefetch = {"enable": False, "prefetch_all": False}
    return json.dumps({"device": device, **rest, "fs_prefetch": prefetch}, separators=(",", ":"))


@contextmanager
def mounted(root: Path, config: str, boot: bytes) -> Iterator[Path]:
    """A mount by nydusd, started by the program that the setup wrote."""
    mount = root / "mount"
    for folder in (mount, root / "cache"):
        folder.mkdir()
    (root / "config.json").write_text(config)
    (root / "boot").write_bytes(boot)
    command = [str(root / "etc/lazyci/nydus/nydusd"), "fuse", "--config", str(root / "config.json")]
    command += ["--bootstrap", str(root / "boot"), "--mountpoint", str(mount), "--thread-num", "16"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            until = time.monotonic() + 20
            while not os.path.ismount(mount) or not os.listdir(mount):
                assert daemon.poll() is None, "nydusd ended"
                assert time.monotonic() < until, "nydusd does not mount"
                time.sleep(0.02)
            yield mount
        finally:
            daemon.terminate()


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_changed_chunk_is_an_error(is_changed: bool, tmp_path: Path) -> None:
    nydusd = installed("nydusd")
    if nydusd is None or os.geteuid() or not os.access("/dev/fuse", os.W_OK):
        assert not os.environ.get("LAZYCI_REQUIRE_CLIENTS") or os.geteuid(), "nydusd is missing"
        pytest.skip("mounting needs nydusd, root and /dev/fuse")
    there = host(which=lambda name: str(nydusd) if name == "nydusd" else f"/usr/local/bin/{name}")
    apply(make_plan(Options(root=tmp_path), there))
    # What cannot be compressed is stored as it is: only its digest can tell that it was changed.
    content = os.urandom(3 << 20)
    store: dict[str, bytes] = {}
    built = build(NydusMaker(POOL), packed(tar_of([("b", F, {"data": content})]), "gzip"), store)
    ((name, blob),) = store.items()
    assert hashlib.sha256(blob).hexdigest() == name
    if is_changed:
        at = blob.index(content[1000:1100])
        store[name] = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
    boot = merge([Part(built.blob, built.bootstrap)])
    with registry(store) as place, mounted(tmp_path, dumped(tmp_path, place), boot) as mount:
        if not is_changed:
            assert (mount / "b").read_bytes() == content
            return
        with pytest.raises(OSError, match="Input/output error"):
            (mount / "b").read_bytes()
