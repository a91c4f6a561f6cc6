"""Reading from registries that break, lie, stall and lead astray."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lazyci.errors import (
    AuthError,
    ImageError,
    InputError,
    LazyciError,
    NotFoundError,
    PublishError,
    RegistryError,
)
from lazyci.image.manifest import (
    DOCKER_INDEX,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    digest_of,
)
from lazyci.image.registry import ahead
from lazyci.image.registry.exchange import Timeouts
from lazyci.image.registry.repository import RegistryRepository
from lazyci.image.store import Repository
from tests.scripted import Call, FakeTime, make_certificate, opened, scripted

BLOB = bytes(range(256)) * 20_000
LAYER = Descriptor("application/octet-stream", digest_of(BLOB), len(BLOB))
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}).encode()

Script = Callable[[Call], None]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def read(
    script: Script, blob: Descriptor = LAYER, *, faked: FakeTime | None = None
) -> tuple[bytes, list[tuple[str, str, str]]]:
    with scripted(script) as server:
        pieces: list[bytes] = []
        repository = opened(server, faked=faked, timeouts=Timeouts(stall=0.3, answer=0.3))
        try:
            repository.read_blob(blob, pieces.append)
        finally:
            repository.close()
        return b"".join(pieces), server.calls


def void(value: object) -> None:
    """For scripts that are one expression."""


def ranged(call: Call) -> int:
    return int((call.header("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))


def rest(call: Call) -> None:
    start = ranged(call)
    if start:
        where = f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"
        call.reply(206, BLOB[start:], Content_Range=where)
    else:
        call.reply(200, BLOB)


def once(first: Script, then: Script = rest) -> Script:
    """The first call is answered by one script, all later ones by the other."""
    done = threading.Event()

    def script(call: Call) -> None:
        if done.is_set():
            then(call)
        else:
            done.set()
            first(call)

    return script


def test_a_blob_comes_whole_and_in_large_pieces() -> None:
    with scripted(rest) as server:
        pieces: list[bytes] = []
        opened(server).read_blob(LAYER, pieces.append)
    assert b"".join(pieces) == BLOB
    assert len(pieces) < 6


def test_an_empty_blob() -> None:
    empty = Descriptor("x", digest_of(b""), 0)
    assert read(lambda call: call.reply(200), empty)[0] == b""


def broken(call: Call) -> None:
    call.reply(200, BLOB[:3_000_000], length=len(BLOB))
    call.reset()


def truncated(call: Call) -> None:
    call.reply(200, BLOB[:3_000_000], length=len(BLOB))
    call.handler.close_connection = True
    call.handler.connection.close()


def ended(call: Call) -> None:
    # No length, so that the end looks like the end.
    call.handler.send_response(200)
    call.handler.send_header("Connection", "close")
    call.handler.end_headers()
    call.handler.wfile.write(BLOB[:3_000_000])


@pytest.mark.parametrize("first", [broken, truncated, ended])
def test_a_transfer_goes_on_where_it_broke_off(first: Script) -> None:
    starts: list[int] = []

    def noted(call: Call) -> None:
        starts.append(ranged(call))
        rest(call)

    assert read(once(first, noted))[0] == BLOB
    assert len(starts) == 1
    # Some of what was on its way may be lost with the connection.
    assert starts[0] <= 3_000_000
    if first is not broken:
        assert starts[0] == 3_000_000


def test_a_stalled_transfer_goes_on() -> None:
    with scripted() as server:

        def stalls(call: Call) -> None:
            call.reply(200, BLOB[:2_500_000], length=len(BLOB))
            server.over.wait(20)

        server.script = once(stalls)
        pieces: list[bytes] = []
        repository = opened(server, timeouts=Timeouts(stall=0.3))
        repository.read_blob(LAYER, pieces.append)
    assert b"".join(pieces) == BLOB


def test_a_registry_that_never_answers() -> None:
    with scripted() as server:
        server.script = lambda call: void(server.over.wait(20))
        repository = opened(server, timeouts=Timeouts(answer=0.05))
        with pytest.raises(RegistryError, match="stalled"):
            repository.resolve("1")
        assert len(server.calls) == 6


def test_a_slow_sink_is_no_stall() -> None:
    with scripted(rest) as server:
        size = 0

        def slow(data: bytes) -> None:
            nonlocal size
            size += len(data)
            time.sleep(0.4)

        opened(server, timeouts=Timeouts(stall=0.2)).read_blob(LAYER, slow)
        assert size == len(BLOB)
        assert len(server.calls) == 1


def test_a_registry_that_ignores_ranges_sends_no_byte_twice() -> None:
    assert read(once(broken, lambda call: call.reply(200, BLOB)))[0] == BLOB


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection counts as too slow as soon as it has brought something."""
    monkeypatch.setattr(ahead, "WINDOW", 700_000)
    monkeypatch.setattr(ahead.Pace, "slow", lambda self, left: left > 0)


def window(call: Call, data: bytes = BLOB) -> None:
    first, _, last = call.header("Range").removeprefix("bytes=").partition("-")
    if not last:
        rest(call)
        return
    part = data[int(first) : int(last) + 1]
    call.reply(206, part, Content_Range=f"bytes {first}-{last}/{len(data)}")


@pytest.mark.usefixtures("slow")
def test_windows_side_by_side() -> None:
    data, calls = read(window)
    assert data == BLOB
    assert len(calls) > 4


@pytest.mark.usefixtures("slow")
def test_windows_of_a_registry_that_ignores_ranges() -> None:
    data, calls = read(lambda call: call.reply(200, BLOB))
    assert data == BLOB
    # The first transfer, what was tried at once, and one that brought all.
    assert len(calls) <= 2 + ahead.AHEAD


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda call: window(call, bytes(len(BLOB))), "has the digest"),
        (lambda call: window(call, BLOB + b"!"), f"the registry has {len(BLOB) + 1}"),
        (lambda call: call.reply(403), "403"),
    ],
)
def test_wrong_windows(other: Script, message: str) -> None:
    with pytest.raises((ImageError, AuthError), match=message):
        read(once(rest, other))


@pytest.mark.usefixtures("slow")
def test_a_window_that_fails_once() -> None:
    assert read(once(rest, once(lambda call: call.reply(500), window)), faked=FakeTime())[0] == BLOB


def test_other_bytes_at_the_second_read() -> None:
    other = bytes(len(BLOB))
    with pytest.raises(ImageError, match="digest"):
        read(once(broken, lambda call: call.reply(200, other)))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (lambda call: call.reply(200, bytes(len(BLOB))), "has the digest"),
        (lambda call: call.reply(200, BLOB + b"!"), f"the registry has {len(BLOB) + 1} bytes"),
        (lambda call: call.reply(200, BLOB[1:]), f"the registry has {len(BLOB) - 1} bytes"),
    ],
)
def test_another_blob_is_refused(script: Script, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read(script)


def test_an_endless_blob_is_cut_off() -> None:
    def endless(call: Call) -> None:
        call.handler.send_response(200)
        call.handler.end_headers()
        while True:
            call.handler.wfile.write(BLOB)

    with pytest.raises(ImageError, match="sends more bytes"):
        read(endless)


@pytest.mark.parametrize(
    ("where", "message"),
    [("bytes 5-9/10", "got 5"), ("", "without Content-Range"), ("bytes x", "without")],
)
def test_a_wrong_part_is_refused(where: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        read(once(broken, lambda call: call.reply(206, BLOB, Content_Range=where)))


def test_a_part_of_a_blob_of_another_size_is_refused() -> None:
    def other(call: Call) -> None:
        call.reply(206, b"x", Content_Range=f"bytes {ranged(call)}-{ranged(call)}/99999999")

    with pytest.raises(ImageError, match="99999999"):
        read(once(broken, other))


def test_a_missing_blob() -> None:
    with pytest.raises(NotFoundError, match="404 BLOB_UNKNOWN: gone"):
        read(lambda call: call.json({"errors": [{"code": "BLOB_UNKNOWN", "message": "gone"}]}, 404))


def test_what_the_sink_raises_comes_out() -> None:
    class Stop(BaseException):
        pass

    def sink(data: bytes) -> None:
        raise Stop

    with scripted(rest) as server, pytest.raises(Stop):
        opened(server).read_blob(LAYER, sink)


def test_close_ends_a_transfer_in_another_thread() -> None:
    with scripted() as server:

        def stalls(call: Call) -> None:
            call.reply(200, BLOB[:2_500_000], length=len(BLOB))
            server.over.wait(20)

        server.script = stalls
        repository = opened(server)
        begun = threading.Event()
        errors: list[Exception] = []

        def run() -> None:
            try:
                repository.read_blob(LAYER, lambda data: begun.set())
            except LazyciError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert begun.wait(10)
        repository.close()
        thread.join(10)
        assert len(errors) == 1
        with pytest.raises(RegistryError, match="closed"):
            repository.resolve("1")
        repository.close()


def test_ranges() -> None:
    def script(call: Call) -> None:
        first, last = map(int, call.header("Range").removeprefix("bytes=").split("-"))
        where = f"bytes {first}-{last}/{len(BLOB)}"
        call.reply(206, BLOB[first : last + 1], Content_Range=where)

    with scripted(script) as server:
        repository = opened(server)
        assert repository.read_range(LAYER, 100, 50) == BLOB[100:150]
        assert repository.read_range(LAYER, len(BLOB) - 5, 50) == BLOB[-5:]
        assert repository.read_range(LAYER, len(BLOB), 50) == b""
        server.script = lambda call: call.reply(200, BLOB)
        assert repository.read_range(LAYER, 100, 50) == BLOB[100:150]
        server.script = lambda call: call.reply(206, b"x", Content_Range="bytes 7-7/5120000")
        with pytest.raises(RegistryError, match="got 7"):
            repository.read_range(LAYER, 100, 50)
        with pytest.raises(ImageError, match="at once"):
            repository.read_range(Descriptor("x", LAYER.digest, 1 << 40), 0, 1 << 39)


def test_the_size_of_a_blob_where_head_is_refused() -> None:
    def script(call: Call) -> None:
        if call.method == "HEAD":
            call.reply(403)
        else:
            call.reply(206, b"x", Content_Range="bytes 0-0/777")

    with scripted(script) as server:
        assert opened(server).blob_size(LAYER.digest) == 777
        server.script = lambda call: call.reply(404)
        assert opened(server).blob_size(LAYER.digest) is None
        with pytest.raises(ImageError, match="not a sha256"):
            opened(server).blob_size("sha256:../../x")


def _is_a_repository(repository: RegistryRepository) -> Repository:
    """Types only: mypy finds here what the protocol has and this class has not."""
    return repository


# Retries


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(status: int) -> None:
    faked = FakeTime()
    assert read(once(lambda call: call.reply(status)), faked=faked)[0] == BLOB
    assert faked.waited == [0.5]


def test_waits_grow_and_end() -> None:
    faked = FakeTime()
    with scripted(lambda call: call.reply(503)) as server:
        with pytest.raises(RegistryError, match="503"):
            opened(server, faked=faked).resolve("1")
        assert faked.waited == [0.5, 1, 2, 4, 8]
        assert len(server.calls) == 6


@pytest.mark.parametrize(
    ("after", "waited"),
    [
        ("7", 7.0),
        ("100000", 60.0),
        ("Fri, 15 Jan 2027 08:00:20 GMT", 20.0),
        ("Fri, 15 Jan 2021 08:00:20 GMT", 0.5),
        ("soon", 0.5),
        ("9" * 400, 60.0),
    ],
)
def test_retry_after(after: str, waited: float) -> None:
    faked = FakeTime()
    read(once(lambda call: call.reply(429, Retry_After=after)), faked=faked)
    assert faked.waited == [waited]


def test_no_registry_there() -> None:
    with scripted() as server:
        repository = opened(server)
    faked = FakeTime()
    repository = opened(server, faked=faked)
    with pytest.raises(RegistryError, match=f"GET {server.host}/v2/team/app/manifests/1: "):
        repository.resolve("1")
    assert len(faked.waited) == 5


def test_progress_gives_new_tries() -> None:
    def script(call: Call) -> None:
        start = ranged(call)
        size = len(BLOB)
        where = f"bytes {start}-{size - 1}/{size}"
        part = BLOB[start : start + (2 << 20)]
        headers = {"Content_Range": where} if start else {}
        call.reply(206 if start else 200, part, length=size - start, **headers)
        call.handler.close_connection = True

    # One try alone would be too few for three parts of 2 MiB.
    assert read(script)[0] == BLOB


# Redirects and credentials


def test_a_redirect_to_another_host_gets_no_credential(tmp_path: Path) -> None:
    with scripted(rest) as storage:

        def registry(call: Call) -> None:
            if not call.header("Authorization"):
                call.reply(401, WWW_Authenticate='Basic realm="x"')
            elif "second" not in call.query:
                call.reply(307, Location=f"{call.path}?second=1")
            else:
                call.reply(307, Location=f"{storage.url}/signed?Signature=SECRET")

        with scripted(registry) as server:
            repository = opened(server, login={"username": "me", "password": "pw"}, home=tmp_path)
            pieces: list[bytes] = []
            repository.read_blob(LAYER, pieces.append)
            assert b"".join(pieces) == BLOB
            assert [bool(header) for _, _, header in server.calls] == [False, True, True]
        assert [header for _, _, header in storage.calls] == [""]
        # What is secret in a signed URL is in no error.
        storage.script = lambda call: call.reply(403, b"<xml>")
        with scripted(lambda call: call.reply(307, Location=f"{storage.url}/s?S=SECRET")) as server:
            with pytest.raises(AuthError) as caught:
                opened(server).read_blob(LAYER, pieces.append)
            assert "SECRET" not in str(caught.value)
            assert f"GET {storage.host}/s: 403" in str(caught.value)


def test_redirects_without_end() -> None:
    with scripted(lambda call: call.reply(307, Location=call.handler.path)) as server:
        with pytest.raises(RegistryError, match="too many redirects"):
            opened(server).resolve("1")
        assert len(server.calls) == 6


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://[::1"])
def test_redirects_to_what_is_no_url_of_http(location: str) -> None:
    with (
        scripted(lambda call: call.reply(307, Location=location)) as server,
        pytest.raises(RegistryError, match=r"no http or https URL|malformed URL"),
    ):
        opened(server).resolve("1")


def installed(server_host: str, certificate: tuple[Path, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "certs" / server_host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
    return tmp_path / "certs"


def test_tls_with_an_authority_of_its_own(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    with scripted(rest, certificate) as server:
        folder = installed(server.host, certificate, tmp_path)
        pieces: list[bytes] = []
        opened(server, certificates=folder).read_blob(LAYER, pieces.append)
        assert b"".join(pieces) == BLOB


def test_tls_that_nobody_vouches_for(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    with scripted(rest, certificate) as server:
        # A folder without authorities makes it TLS, and no more.
        (tmp_path / server.host).mkdir()
        (tmp_path / server.host / "README").touch()
        faked = FakeTime()
        with pytest.raises(RegistryError, match=r"certs\.d"):
            opened(server, certificates=tmp_path, faked=faked).resolve("1")
        assert not server.calls
        assert not faked.waited


def test_no_redirect_from_https_to_http(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    with scripted(rest) as plain, scripted(None, certificate) as server:
        server.script = lambda call: call.reply(307, Location=f"{plain.url}/blob")
        folder = installed(server.host, certificate, tmp_path)
        with pytest.raises(RegistryError, match="from https to http"):
            opened(server, certificates=folder).resolve("1")
        assert not plain.calls


# Manifests


def manifest(body: bytes, media_type: str = OCI_MANIFEST, **headers: str) -> Script:
    return lambda call: call.reply(200, body, None, Content_Type=media_type, **headers)


def test_a_manifest_by_tag_and_by_digest() -> None:
    with scripted(manifest(MANIFEST, Docker_Content_Digest=digest_of(MANIFEST))) as server:
        repository = opened(server)
        found = repository.resolve("1")
        assert (found.body, found.media_type) == (MANIFEST, OCI_MANIFEST)
        assert found.digest == digest_of(MANIFEST)
        assert repository.resolve(found.digest) == found
        sha512 = f"sha512:{hashlib.sha512(MANIFEST).hexdigest()}"
        assert repository.resolve(sha512).digest == sha512
        assert repository.name == f"{server.host}/team/app"
        with pytest.raises(ImageError, match="another digest"):
            repository.resolve(digest_of(b"other"))


def test_the_registry_does_not_tell_what_a_digest_is() -> None:
    with (
        scripted(manifest(MANIFEST, Docker_Content_Digest=digest_of(b"other"))) as server,
        pytest.raises(ImageError, match="sent other bytes"),
    ):
        opened(server).resolve("1")


@pytest.mark.parametrize(
    ("body", "told", "message"),
    [
        (b'{"mediaType":"%s"}' % OCI_INDEX.encode(), OCI_MANIFEST, "it itself"),
        (b'{"manifests":[],"layers":[]}', OCI_INDEX, "at once"),
        (b'{"manifests":[],"config":{}}', "", "at once"),
        (b'{"manifests":[]}', OCI_MANIFEST, "not what its media type says"),
        (b'{"layers":[]}', DOCKER_INDEX, "not what its media type says"),
        (b"[]", OCI_MANIFEST, "not a JSON object"),
        (b"<html>", "text/html", "not a JSON object"),
        (b"[" * 100_000, OCI_MANIFEST, "not a JSON object"),
    ],
)
def test_manifests_that_are_none(body: bytes, told: str, message: str) -> None:
    with (
        scripted(manifest(body, told)) as server,
        pytest.raises(ImageError, match=message),
    ):
        opened(server).resolve("1")


def test_a_media_type_that_only_the_manifest_tells() -> None:
    with scripted(manifest(MANIFEST, "application/json; charset=utf-8")) as server:
        assert opened(server).resolve("1").media_type == OCI_MANIFEST


def test_a_manifest_of_100_mb_is_not_read() -> None:
    sent = 0

    def script(call: Call) -> None:
        nonlocal sent
        call.handler.send_response(200)
        call.handler.send_header("Content-Length", str(100 << 20))
        call.handler.end_headers()
        for _ in range(100):
            call.handler.wfile.write(bytes(1 << 20))
            sent += 1 << 20

    with scripted(script) as server:
        with pytest.raises(ImageError, match=f"larger than {MAX_MANIFEST} bytes"):
            opened(server).resolve("1")
        assert sent < 50 << 20


def test_endless_headers() -> None:
    def script(call: Call) -> None:
        call.handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            call.handler.wfile.write(b"X-A: " + b"a" * 1000 + b"\r\n")

    with scripted(script) as server, pytest.raises(RegistryError, match="header"):
        opened(server).resolve("1")


def test_the_words_of_a_registry_are_cleaned_and_cut() -> None:
    text = "a\x1b[31m\r\nb\u202e" + "c" * 1000

    def script(call: Call) -> None:
        call.json({"errors": [{"code": "DENIED", "message": text}]}, 403)

    with scripted(script) as server, pytest.raises(AuthError) as caught:
        opened(server).resolve("1")
    message = str(caught.value)
    assert message.isprintable()
    assert "403 DENIED: a [31m b" in message
    assert len(message) < 500


def test_an_endless_error_is_cut_off() -> None:
    def script(call: Call) -> None:
        call.handler.send_response(400)
        call.handler.end_headers()
        while True:
            call.handler.wfile.write(bytes(1 << 20))

    with scripted(script) as server, pytest.raises(RegistryError, match="400"):
        opened(server).resolve("1")


@pytest.mark.parametrize("reference", ["../x", "a/b", "", "x?y", "a" * 129, "sha256:12"])
def test_references_that_would_be_other_paths(reference: str) -> None:
    with scripted() as server:
        with pytest.raises(InputError, match="neither a tag nor a digest"):
            opened(server).resolve(reference)
        assert not server.calls


def test_pushing_manifests() -> None:
    stored: dict[str, bytes] = {}

    def script(call: Call) -> None:
        if call.method == "PUT":
            body = call.body()
            stored[call.path.rpartition("/")[2]] = body
            call.reply(201, Docker_Content_Digest=digest_of(body))
        elif call.path.endswith(digest_of(MANIFEST)) and stored:
            call.reply(200, length=len(MANIFEST))
        else:
            call.reply(404)

    with scripted(script) as server:
        repository = opened(server)
        digest = digest_of(MANIFEST)
        assert repository.push_manifest(MANIFEST, OCI_MANIFEST) == digest
        assert stored == {digest: MANIFEST}
        assert repository.push_manifest(MANIFEST, OCI_MANIFEST) == digest
        assert len(server.asked("PUT")) == 1
        repository.push_manifest(MANIFEST, OCI_MANIFEST, "1")
        assert stored["1"] == MANIFEST
        with pytest.raises(ImageError, match="are allowed"):
            repository.push_manifest(bytes(MAX_MANIFEST + 1), OCI_MANIFEST, "1")
        server.script = lambda call: call.reply(201, Docker_Content_Digest=digest_of(b"other"))
        with pytest.raises(ImageError, match="stored sha256"):
            repository.push_manifest(MANIFEST, OCI_MANIFEST, "1")
        taken = {"errors": [{"code": "TAG_INVALID", "message": "the tag is immutable"}]}
        server.script = lambda call: call.json(taken, 400)
        with pytest.raises(PublishError, match="immutable"):
            repository.push_manifest(MANIFEST, OCI_MANIFEST, "1")


def test_deleting() -> None:
    with scripted(lambda call: call.reply(202)) as server:
        repository = opened(server)
        repository.delete_manifest("1")
        assert server.asked("DELETE") == ["/v2/team/app/manifests/1"]
        server.script = lambda call: call.reply(404)
        repository.delete_manifest("1")
        server.script = lambda call: call.json({"errors": [{"code": "UNSUPPORTED"}]}, 405)
        with pytest.raises(RegistryError, match="does not delete single tags") as caught:
            repository.delete_manifest("1")
        assert "all other tags" in caught.value.hint


# Lists


def test_tags_in_pages() -> None:
    def script(call: Call) -> None:
        last = call.query.get("last", [""])[0]
        if last:
            call.json({"tags": ["c"]})
        else:
            link = f'<{call.path}?last=b&n=2>; rel="next"'
            call.json({"name": "team/app", "tags": ["a", "b"]}, Link=link)

    with scripted(script) as server:
        assert list(opened(server).tags()) == ["a", "b", "c"]
        server.script = lambda call: call.json({"tags": None})
        assert list(opened(server).tags()) == []
        server.script = lambda call: call.json({"tags": [1]})
        with pytest.raises(RegistryError, match="no list of tags"):
            list(opened(server).tags())


def test_pages_that_go_in_circles_or_elsewhere() -> None:
    with scripted() as other, scripted() as server:
        server.script = lambda call: call.json(
            {"tags": ["a"]}, Link=f'<{call.path}?n=1>; rel="next"'
        )
        with pytest.raises(RegistryError, match="no end"):
            list(opened(server).tags())
        server.script = lambda call: call.json({"tags": []}, Link=f'<{other.url}/x>; rel="next"')
        with pytest.raises(RegistryError, match="another host"):
            list(opened(server).tags())
        assert not other.calls


def test_pages_without_end() -> None:
    number = 0

    def script(call: Call) -> None:
        nonlocal number
        number += 1
        call.json({"tags": []}, Link=f'</v2/team/app/tags/list?last={number}>; rel="next"')

    with scripted(script) as server, pytest.raises(RegistryError, match="no end"):
        list(opened(server).tags())
    assert number == 1000


def test_referrers_and_the_tag_that_stands_in_for_them() -> None:
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest_of(b"x"), "size": 1}],
    }
    tag = LAYER.digest.replace(":", "-")

    def with_api(call: Call) -> None:
        call.json(index, Content_Type=OCI_INDEX)

    def without(call: Call) -> None:
        if call.path.endswith(f"/manifests/{tag}"):
            with_api(call)
        else:
            call.reply(404)

    with scripted(with_api) as server:
        expected = [Descriptor(OCI_MANIFEST, digest_of(b"x"), 1)]
        assert opened(server).referrers(LAYER.digest) == expected
        server.script = without
        assert opened(server).referrers(LAYER.digest) == expected
        server.script = lambda call: call.reply(404)
        assert opened(server).referrers(LAYER.digest) == []
        index["manifests"] = [{"mediaType": "x", "digest": "sha256:no", "size": 1}]
        server.script = with_api
        with pytest.raises(ImageError, match="not a sha256"):
            opened(server).referrers(LAYER.digest)


def test_a_blob_that_was_compressed_on_the_way() -> None:
    packed = gzip.compress(BLOB)
    with pytest.raises(ImageError, match=f"the registry has {len(packed)} bytes"):
        read(lambda call: call.reply(200, packed, Content_Encoding="gzip"))
