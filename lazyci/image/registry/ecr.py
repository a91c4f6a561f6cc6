"""Amazon ECR: logins by AWS's own credentials, and what ECR allows for a tag.

The login comes from boto3, by its own chain (environment, profile, assumed role, web identity,
instance), so no helper program is needed. It is good for 12 hours and renewed before. Where boto3
has no credentials, or may not ask for a login, what Docker's configuration has for the registry is
used; `public.ecr.aws` can be read without any.

Repositories behind a pull-through rule are ordinary ones. While ECR imports an image on its first
pull, it may answer 404 for some seconds.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lazyci.image.registry.answers import cleaned
from lazyci.image.registry.clock import Clock
from lazyci.image.registry.credentials import Credential
from lazyci.image.registry.name import Name

__all__ = ["EcrLogin", "Place", "TagFacts", "place", "tag_facts"]

# The hosts of amazon-ecr-credential-helper: partitions, FIPS, and the dual-stack names.
_PRIVATE = re.compile(
    r"(\d{12})\.dkr[.-]ecr(-fips)?\.([a-z0-9][a-z0-9-]*)\."
    r"(?:amazonaws\.(?:com(?:\.cn)?|eu)|on\.(?:aws|amazonwebservices\.(?:com\.cn|eu))"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
_PUBLIC = "public.ecr.aws"
_PUBLIC_REGION = "us-east-1"
# A login is renewed that many seconds before its end.
_MARGIN = 15 * 60
_CONNECT_SECONDS, _READ_SECONDS = 5, 20

# Makes a client of boto3 for (service, region, whether FIPS).
Clients = Callable[[str, str, bool], Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an ECR registry is; a public one has no account."""

    account: str
    region: str
    fips: bool

    @property
    def public(self) -> bool:
        return not self.account


@dataclass(frozen=True, slots=True)
class TagFacts:
    """What is known of a tag; None: not known, or not permitted to know.

    Attributes:
        immutable: Whether an image that has the tag keeps it.
        pull_through: Whether the repository is filled by a pull-through rule.
    """

    immutable: bool | None = None
    pull_through: bool | None = None


def place(host: str) -> Place | None:
    """Where the ECR registry with this HOST is; None when it is no ECR host."""
    if host == _PUBLIC:
        return Place("", _PUBLIC_REGION, fips=False)
    match = _PRIVATE.fullmatch(host)
    return Place(match[1], match[3], fips=match[2] is not None) if match else None


def _client(service: str, region: str, fips: bool) -> Any:
    # boto3 takes half a second to load.
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "max_attempts": 4},
        use_fips_endpoint=fips,
    )
    # A session of its own: boto3's default one is not for several threads.
    return boto3.session.Session().client(service, region_name=region, config=config)


class EcrLogin:
    """The login of one ECR registry, kept until shortly before its end.

    Attributes:
        problem: Why there was none.
    """

    def __init__(self, where: Place, clock: Clock, clients: Clients = _client) -> None:
        self._where = where
        self._clock = clock
        self._clients = clients
        self._lock = threading.Lock()
        self._held: Credential | None = None
        self._until = 0.0
        self.problem = ""

    def get(self, *, renew: bool = False) -> Credential | None:
        """The login, or None when AWS gives none."""
        with self._lock:
            if self._clock.now() >= self._until or (renew and self._held):
                self._held, self._until = self._ask()
            return self._held

    def _ask(self) -> tuple[Credential | None, float]:
        try:
            service = "ecr-public" if self._where.public else "ecr"
            client = self._clients(service, self._where.region, self._where.fips)
            data = client.get_authorization_token()["authorizationData"]
            data = data if isinstance(data, dict) else data[0]
            user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
            until = data["expiresAt"].timestamp() - _MARGIN
        except (KeyError, IndexError, TypeError, AttributeError, binascii.Error, ValueError):
            self.problem = "ECR's login is malformed"
        except Exception as error:
            # botocore's errors have no base of their own; none of them holds a secret.
            if not _is_botocore(error):
                raise
            self.problem = f"no login for ECR by AWS's credentials: {cleaned(str(error))}"
        else:
            return Credential(user, password), until
        # Not asked for again by this process.
        return None, float("inf")


def _is_botocore(error: Exception) -> bool:
    return any(base.__module__.startswith(("botocore.", "boto3.")) for base in type(error).__mro__)


def tag_facts(name: Name, clients: Clients = _client) -> TagFacts:
    """What ECR allows for a tag.

    It needs `ecr:DescribeRepositories` and `ecr:DescribePullThroughCacheRules`; what is not
    permitted stays unknown, as all of other registries.
    """
    where = place(name.host)
    if where is None or where.public:
        return TagFacts()
    try:
        client = clients("ecr", where.region, where.fips)
    except Exception as error:
        if not _is_botocore(error):
            raise
        return TagFacts()
    return TagFacts(
        _known(lambda: _immutable(client, where, name)),
        _known(lambda: _pull_through(client, where, name)),
    )


def _known(ask: Callable[[], bool]) -> bool | None:
    try:
        return ask()
    except (KeyError, IndexError, TypeError):
        return None
    except Exception as error:
        if not _is_botocore(error):
            raise
        return None


def _immutable(client: Any, where: Place, name: Name) -> bool:
    answer = client.describe_repositories(
        registryId=where.account, repositoryNames=[name.repository]
    )
    repository = answer["repositories"][0]
    kind = str(repository["imageTagMutability"])
    filters = [one["filter"] for one in repository.get("imageTagMutabilityExclusionFilters") or ()]
    # `*` stands for any characters; nothing else is special.
    patterns = [re.escape(text).replace(r"\*", ".*") for text in filters]
    excluded = any(re.fullmatch(pattern, name.tag) for pattern in patterns)
    if kind.endswith("_WITH_EXCLUSION"):
        return kind.startswith("IMMUTABLE") != excluded
    return kind == "IMMUTABLE"


def _pull_through(client: Any, where: Place, name: Name) -> bool:
    pages = client.get_paginator("describe_pull_through_cache_rules").paginate(
        registryId=where.account
    )
    prefixes = [
        rule["ecrRepositoryPrefix"] for page in pages for rule in page["pullThroughCacheRules"]
    ]
    return any(
        prefix == "ROOT" or f"{name.repository}/".startswith(f"{prefix.rstrip('/')}/")
        for prefix in prefixes
    )
