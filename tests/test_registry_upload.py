"""Uploads to registries that break off, lose answers, refuse and differ."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lazyci.errors import (
    AuthError,
    ImageError,
    RegistryError,
    UploadLostError,
)
from lazyci.image.manifest import digest_of
from lazyci.image.registry.exchange import Timeouts
from lazyci.image.registry.repository import RegistryRepository
from tests.scripted import Call, FakeTime, Scripted, opened, scripted

CHUNK = 100_000
DATA = bytes(range(251)) * 1500  # not a multiple of a chunk
UPLOAD = "/v2/team/app/blobs/uploads/1"


class Store:
    """A registry that stores blobs by the specification, but for what a test changes.

    Attributes:
        blobs: What was finished.
        parts: Bytes of the session; None when there is none.
        sizes: Bytes of each chunk taken.
        before: Called before each request; when it returns true, it has answered.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.parts: bytearray | None = None
        self.path = ""
        self.sizes: list[int] = []
        self.before: Callable[[Call], bool | None] = lambda call: None
        self.status = True
        self.headers: dict[str, str] = {}

    def __call__(self, call: Call) -> None:
        if not self.before(call):
            getattr(self, call.method.lower())(call)

    def head(self, call: Call) -> None:
        blob = self.blobs.get(call.path.rpartition("/")[2])
        call.reply(404 if blob is None else 200, length=len(blob or b""))

    def post(self, call: Call) -> None:
        assert call.body() == b""
        self.parts = bytearray()
        self.path = f"{call.path}1"
        call.reply(202, b"", None, Location=f"{self.path}?_state=a%2Bb", **self.headers)

    def get(self, call: Call) -> None:
        if not self.status:
            call.reply(405)
        elif self.parts is None:
            call.reply(404)
        else:
            call.reply(204, Location=self.path, Range=f"0-{max(len(self.parts) - 1, 0)}")

    def patch(self, call: Call) -> None:
        if self.take(call):
            self.accept(call)

    def take(self, call: Call) -> bool:
        if self.parts is None:
            call.reply(404)
            return False
        where = re.fullmatch(r"(\d+)-(\d+)", call.header("Content-Range"))
        body = call.body()
        if where and int(where[1]) != len(self.parts):
            call.reply(416, Range=f"0-{max(len(self.parts) - 1, 0)}")
            return False
        assert not where or int(where[2]) + 1 - int(where[1]) == len(body)
        self.sizes.append(len(body))
        self.parts += body
        return True

    def accept(self, call: Call) -> None:
        assert self.parts is not None
        call.reply(202, Location=f"{self.path}?_state=c", Range=f"0-{len(self.parts) - 1}")

    def put(self, call: Call) -> None:
        if not self.take(call):
            return
        digest = call.query["digest"][0]
        if digest_of(bytes(self.parts or b"")) != digest:
            call.json({"errors": [{"code": "DIGEST_INVALID"}]}, 400)
            return
        self.blobs[digest] = bytes(self.parts or b"")
        self.parts = None
        call.reply(201, Docker_Content_Digest=digest)

    def delete(self, call: Call) -> None:
        self.parts = None
        call.reply(204)


def push(repository: RegistryRepository, data: bytes = DATA, step: int = 7001) -> None:
    upload = repository.upload()
    try:
        buffer = bytearray(step)
        for at in range(0, len(data), step):
            part = data[at : at + step]
            # The same buffer each time, as its owner may.
            buffer[: len(part)] = part
            upload.write(memoryview(buffer)[: len(part)])
        assert upload.commit() == (digest_of(data), len(data))
    finally:
        upload.abort()


def small(
    server: Scripted, faked: FakeTime | None = None, stall: float = 0.3
) -> RegistryRepository:
    repository = opened(server, faked=faked, timeouts=Timeouts(stall=stall, answer=stall))
    repository._target.chunk = CHUNK
    return repository


@pytest.fixture
def store() -> Store:
    return Store()


def said(answer: Callable[..., object], *arguments: Any, **headers: Any) -> bool:
    """For scripts that are one expression: the request is answered."""
    answer(*arguments, **headers)
    return True


def on(store: Store, number: int, method: str, do: Callable[[Call], bool]) -> None:
    """Do something at the so manieth request (from 1) of a method."""
    counts: dict[str, int] = {}

    def before(call: Call) -> bool:
        counts[call.method] = counts.get(call.method, 0) + 1
        return call.method == method and counts[method] == number and do(call)

    store.before = before


def test_chunks(store: Store) -> None:
    with scripted(store) as server:
        push(small(server))
        assert store.blobs == {digest_of(DATA): DATA}
        assert store.sizes == [CHUNK, CHUNK, CHUNK, len(DATA) - 3 * CHUNK]
        methods = [method for method, _, _ in server.calls]
        assert methods == ["POST", "PATCH", "PATCH", "PATCH", "PUT"]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK])
def test_what_fits_into_one_chunk_goes_at_once(store: Store, size: int) -> None:
    with scripted(store) as server:
        push(small(server), DATA[:size])
        assert [method for method, _, _ in server.calls] == ["HEAD", "POST", "PUT"]
        push(small(server), DATA[:size])
        assert [method for method, _, _ in server.calls[3:]] == ["HEAD"]


@pytest.mark.parametrize("size", [CHUNK + 1, 2 * CHUNK])
def test_the_last_chunk_is_never_empty(store: Store, size: int) -> None:
    with scripted(store) as server:
        push(small(server), DATA[:size])
        assert store.sizes == [CHUNK, size - CHUNK]


@pytest.mark.parametrize("step", [1 << 20, CHUNK, CHUNK // 2])
def test_any_step_of_writing(store: Store, step: int) -> None:
    with scripted(store) as server:
        push(small(server), step=step)
        assert store.blobs == {digest_of(DATA): DATA}


def test_a_reset_in_the_middle_of_a_chunk(store: Store) -> None:
    def cut(call: Call) -> bool:
        assert store.parts is not None
        store.parts += call.body(40_000)
        call.reset()
        return True

    on(store, 2, "PATCH", cut)
    with scripted(store) as server:
        push(small(server))
    assert store.blobs == {digest_of(DATA): DATA}
    # Only the rest of that chunk was sent again.
    assert store.sizes[1] == CHUNK - 40_000


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_chunk_that_the_registry_fails_to_take(store: Store, status: int) -> None:
    on(store, 2, "PATCH", lambda call: said(call.reply, status))
    with scripted(store) as server:
        push(small(server))
    assert store.blobs == {digest_of(DATA): DATA}


def test_a_chunk_that_was_taken_though_nobody_said_so(store: Store) -> None:
    def silent(call: Call) -> bool:
        store.take(call)
        call.reset()
        return True

    on(store, 2, "PATCH", silent)
    with scripted(store) as server:
        push(small(server))
        assert len(store.sizes) == 4
    assert store.blobs == {digest_of(DATA): DATA}


def test_a_registry_that_stalls_in_a_chunk(store: Store) -> None:
    with scripted(store) as server:
        on(store, 1, "PATCH", lambda call: said(server.over.wait, 20))
        push(small(server))
    assert store.blobs == {digest_of(DATA): DATA}


def test_an_end_of_which_the_answer_is_lost(store: Store) -> None:
    def silent(call: Call) -> bool:
        store.parts = None
        store.blobs[digest_of(DATA)] = DATA
        call.reset()
        return True

    on(store, 1, "PUT", silent)
    with scripted(store) as server:
        push(small(server))
        assert len(server.asked("PATCH")) == 3


def test_a_cut_in_the_last_chunk(store: Store) -> None:
    def cut(call: Call) -> bool:
        assert store.parts is not None
        store.parts += call.body(30_000)
        call.reset()
        return True

    on(store, 1, "PUT", cut)
    with scripted(store) as server:
        push(small(server))
    assert store.sizes[-1] == len(DATA) - 3 * CHUNK - 30_000
    assert store.blobs == {digest_of(DATA): DATA}


def test_a_whole_upload_of_which_the_answer_is_lost(store: Store) -> None:
    def silent(call: Call) -> bool:
        store.blobs[digest_of(b"abc")] = call.body()
        store.parts = None
        call.reset()
        return True

    on(store, 1, "PUT", silent)
    with scripted(store) as server:
        push(small(server), b"abc")
        assert not store.sizes


@pytest.mark.parametrize("number", [1, 2])
def test_a_session_that_is_gone(store: Store, number: int) -> None:
    def forget(call: Call) -> bool:
        store.parts = None
        call.reply(404)
        return True

    on(store, number, "PATCH", forget)
    with scripted(store) as server:
        repository = small(server)
        with pytest.raises(UploadLostError, match="404"):
            push(repository)
        # It was bad luck, so the next one goes in chunks again.
        push(repository)
        assert store.blobs == {digest_of(DATA): DATA}
        assert len(store.sizes) > 3


def test_bytes_that_the_registry_has_lost(store: Store) -> None:
    def lose(call: Call) -> bool:
        assert store.parts is not None
        del store.parts[10:]
        call.reset()
        return True

    on(store, 2, "PATCH", lose)
    with scripted(store) as server, pytest.raises(UploadLostError, match="10 have arrived"):
        push(small(server))


@pytest.mark.parametrize("status", [400, 405, 411, 413, 415, 416, 501])
def test_a_registry_that_takes_no_chunks_gets_blobs_whole(store: Store, status: int) -> None:
    def refuse(call: Call) -> bool:
        if call.method == "PATCH":
            call.json({"errors": [{"code": "TOO_LARGE", "message": "4 MiB"}]}, status)
        return call.method == "PATCH"

    store.before = refuse
    with scripted(store) as server:
        repository = small(server)
        with pytest.raises(UploadLostError, match="4 MiB"):
            push(repository)
        push(repository)
        assert store.sizes == [len(DATA)]
        assert len(server.asked("PATCH")) == 1
        push(repository)
        assert len(server.asked("PUT")) == 1


@pytest.mark.parametrize("host", ["ghcr.io", "gcr.io", "eu.gcr.io", "europe-docker.pkg.dev"])
def test_registries_that_are_known_to_take_no_chunks(host: str) -> None:
    from lazyci.image.registry import open_repository

    repository, _ = open_repository(f"{host}/team/app:1")
    assert repository._target.whole
    repository.close()


def test_a_whole_upload_from_a_file_is_sent_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def cut(call: Call) -> bool:
        assert list(tmp_path.iterdir()) == []
        call.body(150_000)
        call.reset()
        return True

    on(store, 1, "PUT", cut)
    with scripted(store) as server:
        repository = small(server)
        repository._target.whole = True
        push(repository)
        assert len(server.asked("PUT")) == 2
    assert store.blobs == {digest_of(DATA): DATA}


def test_a_range_that_stands_still(store: Store) -> None:
    # As ECR does, which answers 201 besides.
    def patch(call: Call) -> bool:
        if call.method == "PATCH":
            store.take(call)
            call.reply(201, Location=UPLOAD, Range=f"0-{CHUNK - 1}")
        return call.method == "PATCH"

    store.before = patch
    with scripted(store) as server:
        push(small(server))
    assert store.blobs == {digest_of(DATA): DATA}


def test_a_lost_answer_where_the_status_stands_still(store: Store) -> None:
    third = 0

    def patch(call: Call) -> bool:
        nonlocal third
        if call.method == "GET":
            call.reply(204, Location=UPLOAD, Range=f"0-{CHUNK - 1}")
            return True
        if call.method != "PATCH":
            return False
        third += len(store.sizes) == 2
        if len(store.sizes) == 3 and third == 1:
            call.reply(416)
            third += 1
            return True
        store.take(call)
        if len(store.sizes) == 3:
            call.reset()
        else:
            call.reply(201, Location=UPLOAD, Range=f"0-{CHUNK - 1}")
        return True

    store.before = patch
    with scripted(store) as server:
        push(small(server))
    assert store.blobs == {digest_of(DATA): DATA}


def test_a_registry_that_takes_a_part_of_a_chunk(store: Store) -> None:
    def patch(call: Call) -> bool:
        if call.method == "PATCH" and len(store.sizes) == 0:
            assert store.parts is not None
            body = call.body()
            store.sizes.append(30_000)
            store.parts += body[:30_000]
            store.accept(call)
            return True
        return False

    store.before = patch
    with scripted(store) as server:
        push(small(server))
    assert store.sizes[:2] == [30_000, CHUNK - 30_000]
    assert store.blobs == {digest_of(DATA): DATA}


def test_a_status_that_is_not_told(store: Store) -> None:
    store.status = False
    on(store, 2, "PATCH", lambda call: said(call.reply, 500))
    with scripted(store) as server:
        push(small(server))
    assert store.blobs == {digest_of(DATA): DATA}


def test_chunks_of_a_least_size(store: Store) -> None:
    store.headers = {"OCI_Chunk_Min_Length": str(2 * CHUNK)}
    with scripted(store) as server:
        repository = small(server)
        with pytest.raises(UploadLostError, match="chunks of 200000 bytes"):
            push(repository)
        push(repository)
    assert store.sizes == [2 * CHUNK, len(DATA) - 2 * CHUNK]


def test_a_registry_that_stored_something_else(store: Store) -> None:
    other = digest_of(b"other")
    on(store, 1, "PUT", lambda call: said(call.reply, 201, Docker_Content_Digest=other))
    with scripted(store) as server, pytest.raises(ImageError, match=f"stored {other}"):
        push(small(server))


def test_a_registry_that_only_says_that_it_stored(store: Store) -> None:
    on(store, 1, "PUT", lambda call: said(call.reply, 201))
    with scripted(store) as server, pytest.raises(RegistryError, match="not there afterwards"):
        push(small(server))


def test_abort_drops_the_session(store: Store) -> None:
    with scripted(store) as server:
        upload = small(server).upload()
        upload.write(DATA)
        upload.abort()
        upload.abort()
        assert server.asked("DELETE") == [UPLOAD]
        with pytest.raises(UploadLostError, match="over"):
            upload.write(b"x")
        with pytest.raises(UploadLostError, match="over"):
            upload.commit()
    assert not store.blobs


def test_abort_does_not_wait_for_a_registry_that_stalls(store: Store) -> None:
    with scripted(store) as server:
        on(store, 1, "PATCH", lambda call: said(server.over.wait, 20))
        upload = small(server, stall=30.0).upload()
        upload.write(DATA[: CHUNK + 1])
        thread = threading.Thread(target=upload.abort, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()


def test_an_error_stays_until_the_upload_ends(store: Store) -> None:
    store.before = lambda call: call.method == "PATCH" and said(call.reply, 404)
    with scripted(store) as server:
        upload = small(server).upload()
        with pytest.raises(UploadLostError):
            upload.write(DATA)
        for _ in range(2):
            with pytest.raises(UploadLostError):
                upload.write(DATA)
        with pytest.raises(UploadLostError):
            upload.commit()
        upload.abort()
    assert not store.blobs


def test_a_registry_that_refuses_to_be_pushed_to(store: Store) -> None:
    store.before = lambda call: said(call.reply, 403)
    with scripted(store) as server:
        for data in (DATA, b"abc"):
            with pytest.raises(AuthError, match="403"):
                push(small(server), data)


def test_a_registry_that_is_gone(store: Store) -> None:
    faked = FakeTime()
    store.before = lambda call: call.method == "PATCH" and said(call.reset)
    with scripted(store) as server:
        with pytest.raises(RegistryError) as caught:
            push(small(server, faked))
        # To send all of it again would not help.
        assert not isinstance(caught.value, UploadLostError)
    assert faked.waited == [0.5, 1, 2, 4, 8]


def test_a_token_that_ends_in_the_middle_of_an_upload(store: Store, tmp_path: Path) -> None:
    tokens = ["first"]

    def before(call: Call) -> bool:
        if call.path == "/token":
            call.json({"token": tokens[-1], "expires_in": 3600})
            return True
        if call.method == "PATCH" and len(store.sizes) == 1 and tokens[-1] == "first":
            tokens.append("second")
        if call.header("Authorization") != f"Bearer {tokens[-1]}":
            call.reply(401, WWW_Authenticate=f'Bearer realm="{server.url}/token",service="s"')
            return True
        return False

    store.before = before
    with scripted(store) as server:
        push(small(server))
    assert store.blobs == {digest_of(DATA): DATA}
    assert server.asked("GET") == ["/token", "/token"]


def test_a_location_on_another_host_gets_no_credential(store: Store, tmp_path: Path) -> None:
    with scripted(store) as storage, scripted() as server:

        def registry(call: Call) -> None:
            if not call.header("Authorization"):
                call.reply(401, WWW_Authenticate='Basic realm="x"')
            elif call.method == "POST":
                store.parts = bytearray()
                call.reply(202, Location=f"{storage.url}{UPLOAD}?signature=1")
            else:
                store(call)

        server.script = registry
        repository = opened(server, login={"username": "me", "password": "pw"}, home=tmp_path)
        repository._target.chunk = CHUNK
        push(repository)
        push(repository, b"abc")
        assert store.blobs == {digest_of(DATA): DATA, digest_of(b"abc"): b"abc"}
        assert {header for _, _, header in storage.calls} == {""}
        assert len(storage.calls) == 5


def test_mounting() -> None:
    digest = digest_of(DATA)

    def script(call: Call) -> None:
        if call.method == "POST":
            found = call.query == {"mount": [digest], "from": ["other/app"]}
            if found:
                call.reply(201)
            else:
                call.reply(202, Location=UPLOAD)
        else:
            call.reply(204)

    with scripted(script) as server:
        repository = opened(server)
        assert repository.mount(digest, "other/app")
        assert repository.mount(digest, f"{server.host}/other/app")
        assert not server.asked("DELETE")
        assert not repository.mount(digest, "third/app")
        # What was opened instead is not left behind.
        assert server.asked("DELETE") == [UPLOAD]
        server.script = lambda call: call.reply(403)
        assert not repository.mount(digest, "other/app")


def test_two_uploads_at_once() -> None:
    """Each on its own, at the same time, with bytes that do not repeat."""
    stores = {f"app{number}": Store() for number in range(2)}

    def script(call: Call) -> None:
        stores[call.path.split("/")[3]](call)

    with scripted(script) as server:
        data = {name: os.urandom(5 * CHUNK) for name in stores}
        threads = []
        for name in stores:
            repository = opened(server, f"team/{name}")
            repository._target.chunk = CHUNK
            threads.append(threading.Thread(target=push, args=(repository, data[name])))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name, found in stores.items():
        assert found.blobs == {digest_of(data[name]): data[name]}
