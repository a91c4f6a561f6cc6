"""Challenges, tokens and logins, also from registries that want what is not theirs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazyci.errors import AuthError, RegistryError
from lazyci.image.manifest import OCI_MANIFEST
from lazyci.image.registry.auth import parse_challenges
from lazyci.image.registry.credentials import Credential, Logins
from tests.scripted import Call, FakeTime, Scripted, make_certificate, opened, scripted

MANIFEST = b"{}"
SECRET = "hunter2-secret"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            ['Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"'],
            [
                (
                    "bearer",
                    {"realm": "https://a/token", "service": "s", "scope": "repository:x:pull,push"},
                )
            ],
        ),
        (["Basic realm=x"], [("basic", {"realm": "x"})]),
        (['BASIC Realm = "x"'], [("basic", {"realm": "x"})]),
        (
            ['Basic realm="a, Bearer realm=b", Bearer realm="c"'],
            [("basic", {"realm": "a, Bearer realm=b"}), ("bearer", {"realm": "c"})],
        ),
        (
            ['Basic realm="a", Bearer realm="c"'] * 2,
            [("basic", {"realm": "a"}), ("bearer", {"realm": "c"})] * 2,
        ),
        (['Basic realm="a\\"b\\\\c"'], [("basic", {"realm": 'a"b\\c'})]),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["Negotiate YWJj==, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        ([", ,Basic realm=x ,"], [("basic", {"realm": "x"})]),
        (['Bearer realm="open'], [("bearer", {"realm": ""})]),
        (['Bearer realm="a",realm="b"'], [("bearer", {"realm": "a"})]),
        ([""], []),
        (["@@@"], []),
        ([], []),
    ],
)
def test_challenges(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = parse_challenges(values)
    assert [(challenge.scheme, challenge.parameters) for challenge in found] == expected


@pytest.mark.parametrize("text", ['Bearer realm="' + "\\" * 50_000, "a=" * 50_000, "a " * 50_000])
def test_long_challenges_take_no_time(text: str) -> None:
    parse_challenges([text])


class Tokens:
    """A registry with a token server; `asked` has the requests for tokens."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]], str, bytes]] = []
        self.answer: dict[str, Any] = {"token": "t1"}
        self.status = 200
        self.valid = {"t1"}
        self.realm = "{url}/token"
        self.scope = ""
        self.server: Scripted

    def __call__(self, call: Call) -> None:
        if call.path == "/token":
            form = call.body()
            self.asked.append((call.method, call.query, call.header("Authorization"), form))
            call.json(self.answer, self.status)
        elif call.header("Authorization").removeprefix("Bearer ") in self.valid:
            call.reply(200, MANIFEST, Content_Type=OCI_MANIFEST)
        else:
            realm = self.realm.replace("{url}", self.server.url)
            scope = f',scope="{self.scope}"' if self.scope else ""
            call.reply(401, WWW_Authenticate=f'Bearer realm="{realm}",service="reg"{scope}')


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@contextlib.contextmanager
def serve(tokens: Tokens) -> Iterator[Scripted]:
    with scripted(tokens) as server:
        tokens.server = server
        yield server


def test_an_anonymous_token(tokens: Tokens) -> None:
    with serve(tokens) as server:
        repository = opened(server)
        repository.resolve("1")
        repository.resolve("1")
        assert tokens.asked == [
            ("GET", {"service": ["reg"], "scope": ["repository:team/app:pull"]}, "", b"")
        ]
        # The second request had its token from the start.
        assert [path for _, path, _ in server.calls].count("/token") == 1
        assert len(server.calls) == 4


def test_a_token_for_a_password(tokens: Tokens, tmp_path: Path) -> None:
    with serve(tokens) as server:
        opened(server, login={"username": "me", "password": SECRET}, home=tmp_path).resolve("1")
    method, query, header, _ = tokens.asked[0]
    assert (method, query["account"]) == ("GET", ["me"])
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == f"me:{SECRET}"


def test_a_token_for_an_identity_token(tokens: Tokens, tmp_path: Path) -> None:
    tokens.answer = {"access_token": "t1"}
    with serve(tokens) as server:
        opened(server, login={"identitytoken": SECRET}, home=tmp_path).resolve("1")
    method, query, header, form = tokens.asked[0]
    assert (method, query, header) == ("POST", {}, "")
    assert form == (
        b"service=reg&client_id=lazyci&scope=repository%3Ateam%2Fapp%3Apull"
        b"&grant_type=refresh_token&refresh_token=" + SECRET.encode()
    )


def test_a_registry_token_is_sent_as_it_is(tokens: Tokens, tmp_path: Path) -> None:
    with serve(tokens) as server:
        opened(server, login={"registrytoken": "t1"}, home=tmp_path).resolve("1")
    assert not tokens.asked


def test_the_scopes_of_each_kind_of_request(tokens: Tokens) -> None:
    tokens.scope = "aws repository:team/app:pull"
    with serve(tokens) as server:
        repository = opened(server)
        repository.resolve("1")
        repository.mount("sha256:" + "0" * 64, "other/app")
        repository.delete_manifest("1")
    assert [query["scope"] for _, query, _, _ in tokens.asked] == [
        ["repository:team/app:pull", "aws"],
        ["repository:team/app:pull,push", "repository:other/app:pull"],
        ["repository:team/app:pull,push,delete"],
    ]


@pytest.mark.parametrize(("expires", "used"), [(None, 45), (10, 45), (400, 300), (7200, 6900)])
def test_a_token_is_renewed_before_its_end(tokens: Tokens, expires: int | None, used: int) -> None:
    tokens.answer = {"token": "t1", **({"expires_in": expires} if expires else {})}
    faked = FakeTime()
    with serve(tokens) as server:
        repository = opened(server, faked=faked)
        repository.resolve("1")
        faked.at += used - 2
        repository.resolve("1")
        assert len(tokens.asked) == 1
        faked.at += 2
        repository.resolve("1")
        assert len(tokens.asked) == 2


def test_a_token_that_the_registry_no_longer_takes(tokens: Tokens) -> None:
    with serve(tokens) as server:
        repository = opened(server)
        repository.resolve("1")
        tokens.valid, tokens.answer = {"t2"}, {"token": "t2"}
        repository.resolve("1")
        assert len(tokens.asked) == 2
        # A server that gives what is not taken is not asked for ever.
        tokens.valid = set()
        with pytest.raises(AuthError, match="401"):
            repository.resolve("1")
        assert len(tokens.asked) == 3


@pytest.mark.parametrize(
    "answer",
    [{}, {"token": ""}, {"token": "a\r\nX-Evil: 1"}, {"token": "ä"}, {"token": 5}, []],
)
def test_answers_without_a_token(tokens: Tokens, answer: Any) -> None:
    tokens.answer = answer
    with serve(tokens) as server, pytest.raises(AuthError, match="sent no token"):
        opened(server).resolve("1")


def test_a_token_server_that_refuses_tells_no_secret(tokens: Tokens, tmp_path: Path) -> None:
    tokens.status, tokens.answer = 401, {"errors": [{"code": "DENIED", "message": "bad login"}]}
    with serve(tokens) as server, pytest.raises(AuthError) as caught:
        opened(server, login={"username": "me", "password": SECRET}, home=tmp_path).resolve("1")
    assert "401 DENIED: bad login" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_token_server_that_fails_for_a_while(tokens: Tokens) -> None:
    tokens.status = 503
    faked = FakeTime()
    with serve(tokens) as server, pytest.raises(RegistryError, match="503"):
        opened(server, faked=faked).resolve("1")
    assert len(tokens.asked) == 6


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example.com/token",
        "ftp://127.0.0.1/token",
        "file:///etc/passwd",
        "//127.0.0.1/token",
        "/token",
        "",
        "https://",
        "https://user:pw@auth.example.com/token",
        "https://auth.example.com/token#x",
        "https://[::1/",
    ],
)
def test_realms_that_are_not_to_be_trusted(tokens: Tokens, tmp_path: Path, realm: str) -> None:
    tokens.realm = realm
    with serve(tokens) as server, pytest.raises(AuthError, match="not to be trusted"):
        opened(server, login={"username": "me", "password": SECRET}, home=tmp_path).resolve("1")


def test_a_registry_with_tls_has_no_plain_token_server(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with scripted(None, certificate) as server, scripted() as plain:
        realm = f'Bearer realm="{plain.url}/token"'
        server.script = lambda call: call.reply(401, WWW_Authenticate=realm)
        folder = tmp_path / "certs" / server.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
        repository = opened(
            server,
            login={"username": "me", "password": SECRET},
            home=tmp_path,
            certificates=tmp_path / "certs",
        )
        with pytest.raises(AuthError, match="not to be trusted"):
            repository.resolve("1")
        assert not plain.calls


def test_a_token_server_that_redirects_gets_no_second_chance(
    tokens: Tokens, tmp_path: Path
) -> None:
    with scripted() as other, scripted() as server:

        def script(call: Call) -> None:
            if call.path == "/token":
                call.reply(307, Location=f"{other.url}/token")
            else:
                call.reply(401, WWW_Authenticate=f'Bearer realm="{server.url}/token"')

        server.script = script
        with pytest.raises(RegistryError, match="token server redirects"):
            opened(server, login={"identitytoken": SECRET}, home=tmp_path).resolve("1")
        assert not other.calls


def basic(call: Call) -> None:
    if call.header("Authorization") == f"Basic {base64.b64encode(b'me:pw').decode()}":
        call.reply(200, MANIFEST, Content_Type=OCI_MANIFEST)
    else:
        call.reply(401, WWW_Authenticate='Basic realm="x"')


def test_basic(tmp_path: Path) -> None:
    with scripted(basic) as server:
        login = {"auth": base64.b64encode(b"me:pw").decode()}
        repository = opened(server, login=login, home=tmp_path)
        repository.resolve("1")
        repository.resolve("1")
        assert len(server.calls) == 3
        wrong = {"username": "me", "password": SECRET}
        with pytest.raises(AuthError, match="refuses the login") as caught:
            opened(server, login=wrong, home=tmp_path).resolve("1")
        assert SECRET not in str(caught.value)
        with pytest.raises(AuthError, match="no login"):
            opened(server).resolve("1")


def test_a_registry_that_repeats_the_credential(tmp_path: Path) -> None:
    def script(call: Call) -> None:
        if call.header("Authorization"):
            message = f"you sent {call.header('Authorization')}"
            call.json({"errors": [{"code": "DENIED", "message": message}]}, 403)
        else:
            call.reply(401, WWW_Authenticate='Basic realm="x"')

    with scripted(script) as server:
        login = {"username": "me", "password": SECRET}
        with pytest.raises(AuthError, match=r"you sent Basic \*\*\*$"):
            opened(server, login=login, home=tmp_path).resolve("1")


@pytest.mark.parametrize("header", ["", "Negotiate", "Digest realm=x"])
def test_challenges_that_cannot_be_met(header: str) -> None:
    with scripted() as server:
        server.script = lambda call: call.reply(401, WWW_Authenticate=header)
        with pytest.raises(AuthError, match="401"):
            opened(server).resolve("1")


# Credentials


def test_no_secret_is_shown() -> None:
    credential = Credential("me", SECRET, SECRET, SECRET)
    assert SECRET not in repr(credential) + str(credential) + f"{credential}"
    assert repr(credential) == "Credential(username='me')"


def config(home: Path, value: Any, path: str = ".docker/config.json") -> dict[str, str]:
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    (home / path).write_text(json.dumps(value))
    return {"HOME": str(home), "PATH": f"{home}/bin:{os.defpath}"}


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def found(
    environ: dict[str, str], registry: str, repository: str = "a/b"
) -> tuple[str, str] | None:
    credential = Logins(environ).find(registry, repository)
    if credential is None:
        return None
    return (credential.username, credential.password or credential.identity_token)


@pytest.mark.parametrize(
    ("key", "registry", "repository"),
    [
        ("quay.io", "quay.io", "a/b"),
        ("https://quay.io", "quay.io", "a/b"),
        ("https://quay.io/v1/", "quay.io", "a/b"),
        ("https://quay.io/v2/", "quay.io", "a/b"),
        ("http://localhost:5000/", "localhost:5000", "a/b"),
        ("QUAY.io", "quay.io", "a/b"),
        ("https://index.docker.io/v1/", "docker.io", "library/x"),
        ("docker.io", "docker.io", "library/x"),
        ("registry-1.docker.io", "docker.io", "library/x"),
        ("quay.io/a", "quay.io", "a/b"),
        ("quay.io/a/b", "quay.io", "a/b"),
    ],
)
def test_keys_that_fit(tmp_path: Path, key: str, registry: str, repository: str) -> None:
    environ = config(tmp_path, {"auths": {key: auth("me", "pw")}})
    assert found(environ, registry, repository) == ("me", "pw")


@pytest.mark.parametrize("key", ["quay.io/ab", "quay.io/a/b/c", "uay.io", "quay.io:443", "io", ""])
def test_keys_that_do_not_fit(tmp_path: Path, key: str) -> None:
    environ = config(tmp_path, {"auths": {key: auth("me", "pw")}})
    assert found(environ, "quay.io") is None


def test_the_longest_key_wins(tmp_path: Path) -> None:
    keys = {"quay.io": auth("1", "x"), "quay.io/a/b": auth("3", "x"), "quay.io/a": auth("2", "x")}
    environ = config(tmp_path, {"auths": keys})
    assert found(environ, "quay.io", "a/b") == ("3", "x")
    assert found(environ, "quay.io", "a/c") == ("2", "x")
    assert found(environ, "quay.io", "c") == ("1", "x")


def test_the_order_of_files(tmp_path: Path) -> None:
    def there(path: str, user: str) -> None:
        config(tmp_path, {"auths": {"quay.io": auth(user, "x")}}, path)

    environ = {
        "HOME": str(tmp_path),
        "PATH": "",
        "REGISTRY_AUTH_FILE": str(tmp_path / "named.json"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }
    for path, user in (
        (".config/containers/auth.json", "5"),
        ("run/containers/auth.json", "4"),
        (".docker/config.json", "3"),
        ("named.json", "1"),
    ):
        there(path, user)
        assert found(environ, "quay.io") == (user, "x")
    there("docker/config.json", "2")
    (tmp_path / "named.json").unlink()
    assert found({**environ, "DOCKER_CONFIG": str(tmp_path / "docker")}, "quay.io") == ("2", "x")


def test_logins_in_other_forms(tmp_path: Path) -> None:
    entries = {
        "padded.io": {"auth": base64.b64encode(b"me:p:w\0\0").decode()},
        "token.io": auth("<token>", "identity"),
        "identity.io": {"identitytoken": "identity"},
        "empty.io": {},
        "odd.io": {"auth": "%%%"},
    }
    environ = config(tmp_path, {"auths": entries, "credHelpers": None, "other": 5})
    assert found(environ, "padded.io") == ("me", "p:w")
    assert found(environ, "token.io") == ("<token>", "identity")
    assert found(environ, "identity.io") == ("", "identity")
    assert found(environ, "empty.io") is None
    logins = Logins(environ)
    assert logins.find("odd.io") is None
    assert logins.problems


def test_a_malformed_file_is_told_without_its_content(tmp_path: Path) -> None:
    environ = config(tmp_path, None)
    (tmp_path / ".docker/config.json").write_text(f'{{"auths": {{"x": {{"auth": ["{SECRET}"')
    logins = Logins(environ)
    assert logins.find("quay.io") is None
    assert "malformed" in logins.problems[0]
    assert SECRET not in logins.problems[0]


def helper(home: Path, name: str, body: str) -> None:
    path = home / "bin" / f"docker-credential-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


ANSWER = """read -r server; [ "$1" = get ] && [ "$server" = "%s" ] || exit 9
printf '{"ServerURL":"x","Username":"%s","Secret":"%s"}'"""


@pytest.mark.parametrize(
    ("registry", "server"),
    [("quay.io", "quay.io"), ("docker.io", "https://index.docker.io/v1/")],
)
def test_helpers(tmp_path: Path, registry: str, server: str) -> None:
    helper(tmp_path, "store", ANSWER % (server, "stored", "x"))
    helper(tmp_path, "own", ANSWER % (server, "<token>", "identity"))
    environ = config(tmp_path, {"credsStore": "store", "auths": {server: auth("me", "pw")}})
    assert found(environ, registry) == ("stored", "x")
    environ = config(tmp_path, {"credsStore": "store", "credHelpers": {server: "own"}})
    assert found(environ, registry) == ("<token>", "identity")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("echo credentials not found in native keychain; exit 1", ""),
        ("echo broken >&2; exit 1", "broken"),
        (f'echo \'{{"Secret":"{SECRET}"}}\'; exit 1', ""),
        (f"echo {SECRET}", "not JSON"),
        (None, "not in PATH"),
    ],
)
def test_helpers_that_have_nothing(tmp_path: Path, body: str | None, problem: str) -> None:
    if body is not None:
        helper(tmp_path, "store", body)
    logins = Logins(config(tmp_path, {"credsStore": "store"}))
    assert logins.find("quay.io") is None
    assert problem in "; ".join(logins.problems)
    assert bool(problem) == bool(logins.problems)
    assert SECRET not in "; ".join(logins.problems)
    # What the file itself has is the next to be tried.
    environ = config(tmp_path, {"credsStore": "store", "auths": {"quay.io": auth("me", "pw")}})
    assert found(environ, "quay.io") == ("me", "pw")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "-x"])
def test_names_of_helpers_that_are_paths(tmp_path: Path, name: str) -> None:
    helper(tmp_path, "store", "exit 0")
    environ = config(tmp_path, {"credHelpers": {"quay.io": name}})
    assert found(environ, "quay.io") is None


def test_the_advice_names_what_was_wrong(tmp_path: Path) -> None:
    with scripted(basic) as server:
        config(tmp_path, {"credsStore": "missing"})
        repository = opened(server, home=tmp_path)
        with pytest.raises(AuthError, match="'docker-credential-missing' is not in PATH"):
            repository.resolve("1")
