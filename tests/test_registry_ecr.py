"""ECR: logins by AWS's credentials, against moto's server and by hand where moto cannot."""

from __future__ import annotations

import base64
import datetime
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazyci.image.registry import ecr
from lazyci.image.registry.credentials import Credential, Logins
from lazyci.image.registry.name import Name, parse
from lazyci.image.registry.opening import _Login, tag_facts
from tests.scripted import FakeTime

ACCOUNT = "123456789012"
HOST = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's AWS, and no search for an instance's role."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch, login: None) -> Iterator[str]:
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    yield url
    running.stop()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (HOST, ecr.Place(ACCOUNT, "eu-west-1", False)),
        (
            f"{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            ecr.Place(ACCOUNT, "us-gov-west-1", True),
        ),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn", ecr.Place(ACCOUNT, "cn-north-1", False)),
        (f"{ACCOUNT}.dkr-ecr.eu-west-1.on.aws", ecr.Place(ACCOUNT, "eu-west-1", False)),
        (f"{ACCOUNT}.dkr-ecr-fips.us-east-1.on.aws", ecr.Place(ACCOUNT, "us-east-1", True)),
        ("public.ecr.aws", ecr.Place("", "us-east-1", False)),
        ("quay.io", None),
        (f"{HOST}.evil.com", None),
        (f"evil.com.{HOST}", None),
        (f"1{HOST}", None),
        (f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com.evil", None),
        (f"{HOST}:443", None),
    ],
)
def test_hosts(host: str, expected: ecr.Place | None) -> None:
    assert ecr.place(host) == expected


def test_a_login(moto: str) -> None:
    where = ecr.place(HOST)
    assert where
    found = ecr.EcrLogin(where, FakeTime().clock).get()
    assert found
    assert found.username == "AWS"
    assert found.password


class Client:
    """A client of boto3 that counts; what moto has not: ecr-public, and errors on demand."""

    def __init__(self, clock: FakeTime, hours: float = 12.0) -> None:
        self.made: list[tuple[str, str, bool]] = []
        self.asked = 0
        self.error: Exception | None = None
        self._clock, self._hours = clock, hours

    def __call__(self, service: str, region: str, fips: bool) -> Client:
        self.made.append((service, region, fips))
        return self

    def get_authorization_token(self) -> dict[str, Any]:
        if self.error:
            raise self.error
        self.asked += 1
        end = self._clock.at + self._hours * 3600
        data = {
            "authorizationToken": base64.b64encode(b"AWS:pw%d" % self.asked).decode(),
            "expiresAt": datetime.datetime.fromtimestamp(end, datetime.timezone.utc),
        }
        public = self.made[-1][0] == "ecr-public"
        return {"authorizationData": data if public else [data]}


def test_a_login_is_kept_until_shortly_before_its_end() -> None:
    faked = FakeTime()
    client = Client(faked)
    held = ecr.EcrLogin(ecr.Place(ACCOUNT, "eu-west-1", True), faked.clock, client)
    assert held.get() == Credential("AWS", "pw1")
    faked.at += 11.7 * 3600
    assert held.get() == Credential("AWS", "pw1")
    faked.at += 0.1 * 3600
    assert held.get() == Credential("AWS", "pw2")
    assert held.get(renew=True) == Credential("AWS", "pw3")
    assert client.made == [("ecr", "eu-west-1", True)] * 3


def test_a_login_is_asked_for_once_by_many_threads() -> None:
    faked = FakeTime()
    client = Client(faked)
    held = ecr.EcrLogin(ecr.Place("", "us-east-1", False), faked.clock, client)
    threads = [threading.Thread(target=held.get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.asked == 1
    assert client.made == [("ecr-public", "us-east-1", False)]


def test_without_credentials_there_is_no_login_but_a_reason() -> None:
    held = ecr.EcrLogin(ecr.Place(ACCOUNT, "eu-west-1", False), FakeTime().clock)
    assert held.get() is None
    assert "Unable to locate credentials" in held.problem


def test_other_errors_are_not_swallowed() -> None:
    faked = FakeTime()
    client = Client(faked)
    client.error = ZeroDivisionError()
    held = ecr.EcrLogin(ecr.Place(ACCOUNT, "eu-west-1", False), faked.clock, client)
    with pytest.raises(ZeroDivisionError):
        held.get()


def test_what_docker_has_is_used_when_aws_has_nothing(tmp_path: Path) -> None:
    auth = base64.b64encode(b"AWS:from-docker").decode()
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {HOST: {"auth": auth}}}))
    found = _Login(parse(f"{HOST}/a"), Logins({"HOME": str(tmp_path)}), FakeTime().clock)
    assert found.get(False) == Credential("AWS", "from-docker")
    empty = _Login(parse(f"{HOST}/a"), Logins({"HOME": "/nowhere"}), FakeTime().clock)
    assert empty.get(False) is None
    assert "Unable to locate credentials" in empty.advice()


def boto(service: str) -> Any:
    import boto3  # type: ignore[import-untyped]

    return boto3.session.Session().client(service, region_name="eu-west-1")


def test_facts_of_tags(moto: str) -> None:
    client = boto("ecr")
    client.create_repository(repositoryName="moving", imageTagMutability="MUTABLE")
    client.create_repository(repositoryName="fixed", imageTagMutability="IMMUTABLE")
    assert tag_facts(f"{HOST}/moving:1").immutable is False
    assert tag_facts(f"{HOST}/fixed:1").immutable is True
    assert tag_facts(f"{HOST}/missing:1").immutable is None


class Answers:
    """A client of boto3 with one repository and some rules."""

    def __init__(self, repository: dict[str, Any], prefixes: list[str]) -> None:
        self._repository, self._prefixes = repository, prefixes

    def __call__(self, service: str, region: str, fips: bool) -> Answers:
        assert (service, region) == ("ecr", "eu-west-1")
        return self

    def describe_repositories(self, **arguments: Any) -> dict[str, Any]:
        assert arguments == {"registryId": ACCOUNT, "repositoryNames": ["hub/app"]}
        return {"repositories": [self._repository]}

    def get_paginator(self, name: str) -> Answers:
        assert name == "describe_pull_through_cache_rules"
        return self

    def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
        assert arguments == {"registryId": ACCOUNT}
        return [
            {"pullThroughCacheRules": [{"ecrRepositoryPrefix": prefix}]}
            for prefix in self._prefixes
        ]


@pytest.mark.parametrize(
    ("kind", "filters", "tag", "immutable"),
    [
        ("MUTABLE", [], "1", False),
        ("IMMUTABLE", [], "1", True),
        ("IMMUTABLE_WITH_EXCLUSION", ["latest", "*-lazy"], "1-lazy", False),
        ("IMMUTABLE_WITH_EXCLUSION", ["latest", "*-lazy"], "1-lazy-2", True),
        ("IMMUTABLE_WITH_EXCLUSION", ["a.c"], "abc", True),
        ("MUTABLE_WITH_EXCLUSION", ["v*"], "v1", True),
        ("MUTABLE_WITH_EXCLUSION", ["v*"], "1", False),
    ],
)
def test_tags_that_cannot_move(kind: str, filters: list[str], tag: str, immutable: bool) -> None:
    repository: dict[str, Any] = {"imageTagMutability": kind}
    if filters:
        repository["imageTagMutabilityExclusionFilters"] = [
            {"filterType": "WILDCARD", "filter": text} for text in filters
        ]
    name = parse(f"{HOST}/hub/app:{tag}")
    assert ecr.tag_facts(name, Answers(repository, [])).immutable is immutable


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [([], False), (["hub"], True), (["quay", "hub"], True), (["hu"], False), (["ROOT"], True)],
)
def test_repositories_behind_a_pull_through_rule(prefixes: list[str], expected: bool) -> None:
    answers = Answers({"imageTagMutability": "MUTABLE"}, prefixes)
    assert ecr.tag_facts(parse(f"{HOST}/hub/app:1"), answers).pull_through is expected


@pytest.mark.parametrize("text", ["quay.io/a:1", "public.ecr.aws/a/b:1", f"{HOST}/a:1"])
def test_what_cannot_be_known(text: str) -> None:
    assert tag_facts(text) == ecr.TagFacts(None, None)


def test_an_answer_that_makes_no_sense() -> None:
    facts = ecr.tag_facts(parse(f"{HOST}/hub/app:1"), Answers({}, []))
    assert facts == ecr.TagFacts(None, False)


def test_chunks_are_of_the_size_that_ecr_takes() -> None:
    from lazyci.image.registry import open_repository

    repository, _ = open_repository(f"{HOST}/a:1")
    assert repository._target.chunk == 10 << 20
    assert isinstance(parse(HOST + "/a"), Name)
    repository.close()
