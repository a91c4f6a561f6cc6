"""The real registry: what the scripts of the other tests only play."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazyci.errors import AuthError, ImageError, NotFoundError
from lazyci.image.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    TAR_LAYER,
    Descriptor,
    digest_of,
)
from lazyci.image.registry import open_repository
from lazyci.image.registry.ahead import Pace
from lazyci.image.registry.clock import Clock
from lazyci.image.registry.exchange import Timeouts
from lazyci.image.registry.name import parse
from lazyci.image.registry.opening import open_name
from lazyci.image.registry.repository import RegistryRepository
from tests.servers import PASSWORD, USER, Proxy, registry, toxiproxy

MIB = 1 << 20


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def chunked(address: str, name: str = "team/app") -> RegistryRepository:
    clock = Clock(sleep=lambda seconds, ended: None)
    repository = open_name(parse(f"{address}/{name}"), clock=clock, timeouts=Timeouts(stall=5.0))
    repository._target.chunk = MIB
    return repository


def push(repository: RegistryRepository, data: bytes, media_type: str = TAR_LAYER) -> Descriptor:
    upload = repository.upload()
    try:
        for at in range(0, len(data), 300_000):
            upload.write(data[at : at + 300_000])
        digest, size = upload.commit()
    finally:
        upload.abort()
    return Descriptor(media_type, digest, size)


def manifest(config: Descriptor, *layers: Descriptor, **more: object) -> bytes:
    def entry(blob: Descriptor) -> dict[str, object]:
        return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}

    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(config),
        "layers": [entry(layer) for layer in layers],
        **more,
    }
    return json.dumps(value).encode()


def whole(repository: RegistryRepository, blob: Descriptor) -> bytes:
    pieces: list[bytes] = []
    repository.read_blob(blob, pieces.append)
    return b"".join(pieces)


def test_an_image_there_and_back(host: str) -> None:
    repository = chunked(host)
    data = os.urandom(5 * MIB + 17)
    config, layer = push(repository, b"{}", OCI_CONFIG), push(repository, data)
    assert layer == Descriptor(TAR_LAYER, digest_of(data), len(data))
    body = manifest(config, layer)
    digest = repository.push_manifest(body, OCI_MANIFEST, "1")
    assert repository.push_manifest(body, OCI_MANIFEST) == digest
    found = repository.resolve("1")
    assert (found.body, found.media_type, found.digest) == (body, OCI_MANIFEST, digest)
    assert repository.resolve(digest) == found
    assert repository.blob_size(layer.digest) == len(data)
    assert repository.blob_size(digest_of(b"missing")) is None
    assert whole(repository, layer) == data
    assert repository.read_range(layer, MIB, 100) == data[MIB : MIB + 100]
    assert push(repository, data) == layer
    with pytest.raises(NotFoundError, match="MANIFEST_UNKNOWN"):
        repository.resolve("2")
    with pytest.raises(NotFoundError, match="BLOB_UNKNOWN"):
        whole(repository, Descriptor(TAR_LAYER, digest_of(b"missing"), 7))
    with pytest.raises(ImageError, match="the registry has"):
        whole(repository, Descriptor(TAR_LAYER, layer.digest, 7))
    repository.close()


def test_tags_come_and_go(host: str) -> None:
    repository = chunked(host, "team/tags")
    body = manifest(push(repository, b"{}", OCI_CONFIG))
    names = [f"t{number}" for number in range(5)]
    for name in names:
        digest = repository.push_manifest(body, OCI_MANIFEST, name)
    assert sorted(repository.tags()) == names
    repository.delete_manifest("t0")
    repository.delete_manifest("t0")
    assert sorted(repository.tags()) == names[1:]
    assert repository.resolve("t1").digest == digest
    repository.delete_manifest(digest)
    with pytest.raises(NotFoundError):
        repository.resolve("t1")
    with pytest.raises(NotFoundError):
        list(chunked(host, "team/never").tags())


def test_referrers_by_their_tag(host: str) -> None:
    # This registry has no API for them.
    repository = chunked(host, "team/referrers")
    config = push(repository, b"{}", OCI_CONFIG)
    body = manifest(config)
    digest = repository.push_manifest(body, OCI_MANIFEST, "1")
    assert repository.referrers(digest) == []
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(body)}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    repository.push_manifest(json.dumps(index).encode(), OCI_INDEX, digest.replace(":", "-"))
    assert repository.referrers(digest) == [Descriptor(OCI_MANIFEST, digest, len(body))]


def test_mounting(host: str) -> None:
    layer = push(chunked(host, "team/from"), os.urandom(1000))
    repository = chunked(host, "team/to")
    assert repository.blob_size(layer.digest) is None
    assert not repository.mount(layer.digest, "team/nowhere")
    assert repository.mount(layer.digest, "team/from")
    assert repository.blob_size(layer.digest) == layer.size


def test_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # HOME stays: the registry itself is in there.
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    with registry(tmp_path / "registry", auth=True) as address:
        with pytest.raises(AuthError, match="no login"):
            push(chunked(address), b"x")
        logins = {"auths": {address: {"username": USER, "password": PASSWORD}}}
        (tmp_path / "config.json").write_text(json.dumps(logins))
        repository, _ = open_repository(f"{address}/team/app")
        layer = push(repository, b"x")
        assert whole(repository, layer) == b"x"
        repository.close()


def test_many_threads_at_once(host: str) -> None:
    repository = chunked(host, "team/threads")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(3):
                data = os.urandom(2 * MIB + 5)
                assert whole(repository, push(repository, data)) == data
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    repository.close()


def test_a_bad_way_to_the_registry(host: str, tmp_path: Path) -> None:
    """Connections that end after some bytes, in both directions."""
    data = os.urandom(24 * MIB)
    with toxiproxy(tmp_path) as proxies:
        proxy = proxies.add(host)
        proxy.toxic("limit_data", "upstream", bytes=3 * MIB)
        repository = chunked(proxy.address, "team/bad")
        layer = push(repository, data)
        assert layer.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        repository.close()
        proxies.reset()
        proxy.toxic("limit_data", "downstream", bytes=5 * MIB)
        repository = chunked(proxy.address, "team/bad")
        assert whole(repository, layer) == data
        repository.close()


def test_an_upload_that_is_dropped_leaves_nothing(tmp_path: Path) -> None:
    with registry(tmp_path) as address:
        repository = chunked(address)
        upload = repository.upload()
        upload.write(os.urandom(3 * MIB))
        upload.abort()
        repository.close()
    assert not list(tmp_path.rglob("_uploads/*/data"))


@pytest.fixture
def proxied(tmp_path: Path, host: str) -> Iterator[tuple[Proxy, str]]:
    with toxiproxy(tmp_path) as api:
        proxy = api.add(host)
        yield proxy, proxy.address


def test_a_slow_connection_gets_company(
    host: str, proxied: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection has 30 MB/s: several take the blob in a fraction of one's time."""
    data = os.urandom(150 * MIB)
    blob = push(chunked(host), data)
    proxy, address = proxied
    proxy.toxic("bandwidth", rate=30_000)
    repository = open_name(parse(f"{address}/team/app"))
    began = time.monotonic()
    assert whole(repository, blob) == data
    several = time.monotonic() - began
    monkeypatch.setattr(Pace, "slow", lambda self, left: False)
    began = time.monotonic()
    assert whole(repository, blob) == data
    assert several < 0.6 * (time.monotonic() - began)


def test_windows_that_break_are_read_again(host: str, proxied: tuple[Proxy, str]) -> None:
    data = os.urandom(90 * MIB)
    blob = push(chunked(host), data)
    proxy, address = proxied
    # Each connection ends after 11 MB, in the middle of a window.
    proxy.toxic("bandwidth", rate=40_000)
    proxy.toxic("limit_data", bytes=27_000_000)
    repository = open_name(
        parse(f"{address}/team/app"), clock=Clock(sleep=lambda seconds, ended: None)
    )
    threads = threading.active_count()
    assert whole(repository, blob) == data
    assert threading.active_count() == threads


def test_what_the_taker_says_ends_it(host: str, proxied: tuple[Proxy, str]) -> None:
    data = os.urandom(90 * MIB)
    blob = push(chunked(host), data)
    proxy, address = proxied
    proxy.toxic("bandwidth", rate=40_000)
    repository = open_name(parse(f"{address}/team/app"))
    taken = 0

    def take(piece: bytes) -> None:
        nonlocal taken
        taken += len(piece)
        if taken > 60 * MIB:
            raise ImageError("full")

    threads = threading.active_count()
    with pytest.raises(ImageError, match="full"):
        repository.read_blob(blob, take)
    assert threading.active_count() == threads
