"""From a reference to its repository, with the login that this machine has for it."""

from __future__ import annotations

import threading

from lazyci.image.registry import ecr
from lazyci.image.registry.clock import Clock
from lazyci.image.registry.credentials import Credential, Logins
from lazyci.image.registry.exchange import Timeouts
from lazyci.image.registry.hosts import Hosts
from lazyci.image.registry.name import Name, parse
from lazyci.image.registry.repository import RegistryRepository
from lazyci.image.registry.session import Session
from lazyci.image.registry.transport import Transport

__all__ = ["open_name", "open_repository", "tag_facts"]


def open_repository(text: str, default: str = "latest") -> tuple[RegistryRepository, str]:
    """Open the repository of a reference; nothing is sent yet.

    Args:
        text: The reference.
        default: The tag where it names none.

    Returns:
        The repository, and the digest or tag in it.

    Raises:
        InputError: It is no reference.
    """
    name = parse(text)
    return open_name(name), name.digest or name.tag or default


def open_name(
    name: Name,
    *,
    hosts: Hosts | None = None,
    logins: Logins | None = None,
    clock: Clock | None = None,
    timeouts: Timeouts | None = None,
) -> RegistryRepository:
    """Open a repository with other settings than this machine's, or another clock."""
    hosts, clock = hosts or Hosts(), clock or Clock()
    login = _Login(name, logins or Logins(), clock)
    transport = Transport(hosts, clock, timeouts)
    session = Session(hosts.base(name.host), transport, login.get, clock, login.advice)
    return RegistryRepository(name, session)


def tag_facts(text: str) -> ecr.TagFacts:
    """What the registry allows for the tag of a reference, as far as it can be known."""
    return ecr.tag_facts(parse(text))


class _Login:
    """AWS's login for ECR, else what other tools have left for the registry."""

    def __init__(self, name: Name, logins: Logins, clock: Clock) -> None:
        self._name = name
        self._logins = logins
        where = ecr.place(name.host)
        self._ecr = ecr.EcrLogin(where, clock) if where else None
        self._lock = threading.Lock()
        self._asked = False
        self._found: Credential | None = None

    def get(self, renew: bool) -> Credential | None:
        if self._ecr is not None:
            found = self._ecr.get(renew=renew)
            if found:
                return found
        with self._lock:
            # A helper may have a new one; what a file has is as it was.
            if renew or not self._asked:
                self._asked = True
                self._found = self._logins.find(self._name.host, self._name.repository)
            return self._found

    def advice(self) -> str:
        problems = [self._ecr.problem] if self._ecr and self._ecr.problem else []
        problems += self._logins.problems[:3]
        if problems:
            return "; ".join(problems)
        if self._found:
            return f"It refuses the login that there is for {self._name.registry}."
        return f"There is no login for {self._name.registry}; `docker login` makes one."
