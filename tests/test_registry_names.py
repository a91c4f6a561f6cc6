"""References by the distribution rules, and how hosts are spoken to."""

from __future__ import annotations

from pathlib import Path

import pytest

from lazyci import __version__
from lazyci.errors import InputError
from lazyci.image.manifest import digest_of
from lazyci.image.registry import open_repository
from lazyci.image.registry.hosts import Hosts, Trust
from lazyci.image.registry.name import Name, is_loopback, parse, split_host
from tests.scripted import Call, opened, scripted

SHA = digest_of(b"x")
SHA512 = "sha512:" + "0" * 128
HUB = ("docker.io", "registry-1.docker.io")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", Name(*HUB, "library/debian")),
        ("debian:12", Name(*HUB, "library/debian", "12")),
        ("team/app", Name(*HUB, "team/app")),
        ("docker.io/debian", Name(*HUB, "library/debian")),
        ("index.docker.io/team/app:1", Name(*HUB, "team/app", "1")),
        ("localhost/app", Name("localhost", "localhost", "app")),
        ("localhost:5000/app:1", Name("localhost:5000", "localhost:5000", "app", "1")),
        ("host:5000/a/b/c", Name("host:5000", "host:5000", "a/b/c")),
        ("QUAY.io/a", Name("QUAY.io", "quay.io", "a")),
        ("Host/app", Name("Host", "host", "app")),
        ("[::1]:5000/app", Name("[::1]:5000", "[::1]:5000", "app")),
        ("[2001:DB8::1]/app", Name("[2001:DB8::1]", "[2001:db8::1]", "app")),
        ("quay.io/a.b/c__d/e--f:V1.2_x-y", Name("quay.io", "quay.io", "a.b/c__d/e--f", "V1.2_x-y")),
        (f"quay.io/a@{SHA}", Name("quay.io", "quay.io", "a", "", SHA)),
        (f"quay.io/a:1@{SHA512}", Name("quay.io", "quay.io", "a", "1", SHA512)),
        ("quay.io/" + "a" * 255, Name("quay.io", "quay.io", "a" * 255)),
        ("a:" + "t" * 128, Name(*HUB, "library/a", "t" * 128)),
    ],
)
def test_references(text: str, expected: Name) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not the name"),
        ("Debian", "lower case"),
        ("quay.io/Team/app", "lower case"),
        ("quay.io/", "not the name"),
        ("quay.io//a", "not the name"),
        ("quay.io/a/", "not the name"),
        ("/a", "not the name"),
        ("quay.io/../a", "not the name"),
        ("quay.io/a..b", "not the name"),
        ("quay.io/a___b", "not the name"),
        ("quay.io/-a", "not the name"),
        ("quay.io/a b", "not the name"),
        ("quay.io/a\n", "not the name"),
        ("quay.io/ä", "not the name"),
        ("a?b", "not the name"),
        ("a:", "not a tag"),
        ("a:.x", "not a tag"),
        ("a:x/y:z:1", "not"),
        ("a:" + "t" * 129, "not a tag"),
        ("a:b\n", "not a tag"),
        ("quay.io/" + "a" * 256, "longer than 255"),
        (f"a@{SHA[:-1]}", "not a sha256"),
        (f"a@{SHA.upper()}", "not a sha256"),
        (f"a@{SHA}@{SHA}", "not a sha256"),
        ("a@md5:abc", "not a sha256"),
        ("a@", "not a sha256"),
        ("0" * 64, "an image's ID"),
        ("host:99999/a", "not HOST"),
        ("host:0/a", "not HOST"),
        ("host:x/a", "not HOST"),
        (":5000/a", "not HOST"),
        ("-host.io/a", "not HOST"),
        ("ho_st.io/a", "not HOST"),
        ("user@host.io/a", "not a sha256"),
        ("[::1/a", "not HOST"),
        ("[::1::]/a", "not HOST"),
        ("[1.2.3.4]/a", "not HOST"),
        ("https://quay.io/a", "not"),
    ],
)
def test_texts_that_are_no_references(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


def test_what_a_reference_asks_for() -> None:
    for text, expected in (("a", "latest"), ("a:1", "1"), (f"a:1@{SHA}", SHA)):
        repository, reference = open_repository(text)
        assert (repository.name, reference) == ("docker.io/library/a", expected)
        repository.close()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("128.0.0.1", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
        ("[::2]", False),
        ("127.1", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_hosts_and_ports() -> None:
    assert split_host("a:1") == ("a", "1")
    assert split_host("a") == ("a", "")
    assert split_host("[::1]") == ("::1", "")
    assert split_host("[::1]:5") == ("::1", "5")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("quay.io", "https"),
        ("127.0.0.1:5000", "http"),
        ("localhost", "http"),
        ("[::1]:5000", "http"),
        ("plain.io:5000", "http"),
        ("plain.io", "https"),
        ("any.io:1", "http"),
        ("any.io", "http"),
        ("[fe80::1]:7", "http"),
        ("127.0.0.1:6000", "https"),
    ],
)
def test_plain_http_is_for_this_machine(host: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "127.0.0.1:6000").mkdir()
    (tmp_path / "127.0.0.1:6000" / "ca.crt").touch()
    insecure = {"LAZYCI_INSECURE_REGISTRIES": " plain.io:5000, any.io,,[fe80::1]"}
    assert Hosts(insecure, [str(tmp_path)]).base(host) == f"{expected}://{host}"


def test_certificates(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"SYSTEM")
    folder = tmp_path / "quay.io"
    folder.mkdir()
    hosts = Hosts({"SSL_CERT_FILE": str(bundle), "SSL_CERT_DIR": "/certs"}, [str(tmp_path)])
    assert hosts.trust("quay.io") == Trust(str(bundle), "/certs")
    (folder / "a.crt").write_bytes(b"OWN")
    (folder / "client.cert").touch()
    assert hosts.trust("quay.io").certificate == ""
    (folder / "client.key").touch()
    trust = hosts.trust("quay.io")
    assert trust.extra == b"SYSTEM\nOWN"
    assert (trust.certificate, trust.key) == (
        str(folder / "client.cert"),
        str(folder / "client.key"),
    )
    assert hosts.trust("other.io") == Trust(str(bundle), "/certs")
    missing = Hosts({"CURL_CA_BUNDLE": "/nowhere.pem", "SSL_CERT_FILE": str(bundle)}, [])
    with pytest.raises(InputError, match=r"nowhere\.pem"):
        missing.trust("quay.io")


def test_the_certificates_of_this_system_are_found() -> None:
    bundle = Hosts({}, []).trust("quay.io").bundle
    # Empty leaves it to libcurl, on systems that keep them elsewhere.
    assert not bundle or b"BEGIN CERTIFICATE" in Path(bundle).read_bytes()


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({"HTTP_PROXY": "http://p"}, "http://plain.io/v2/", "http://p"),
        ({"HTTP_PROXY": "http://p", "http_proxy": "http://q"}, "http://plain.io/v2/", None),
        ({"HTTP_PROXY": "http://p", "REQUEST_METHOD": "GET"}, "http://plain.io/v2/", None),
        ({"HTTP_PROXY": "http://p"}, "https://quay.io/v2/", None),
        ({"HTTP_PROXY": "http://p"}, "http://127.0.0.1:5000/v2/", ""),
        ({}, "http://[::1]:5000/v2/", ""),
    ],
)
def test_proxies(environ: dict[str, str], url: str, expected: str | None) -> None:
    assert Hosts(environ, []).proxy(url) == expected


def test_a_proxy_is_used_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy(call: Call) -> None:
        call.reply(200, b"{}", Content_Type="application/json")

    with scripted(proxy) as server:
        monkeypatch.setenv("LAZYCI_INSECURE_REGISTRIES", "registry.invalid")
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.delenv("http_proxy", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("HOME", "/nonexistent")
        repository, _ = open_repository("registry.invalid/team/app")
        assert repository.resolve("1").body == b"{}"
        repository.close()
        assert len(server.calls) == 1
        # This machine is not behind its own proxy.
        with scripted(proxy) as near:
            opened(near).resolve("1")
            assert len(near.calls) == 1
        assert len(server.calls) == 1


def test_what_is_said_of_the_client() -> None:
    agents: list[str] = []

    def script(call: Call) -> None:
        agents.append(call.header("User-Agent"))
        call.reply(404)

    with scripted(script) as server:
        opened(server).blob_size(SHA)
    assert agents == [f"lazyci/{__version__}"]
