"""Waiting: the clock, and how often and how long to wait before a request is sent again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from lazyci.errors import RegistryError

__all__ = ["Backoff", "BrokenError", "Clock"]

_BASE, _CAP = 0.5, 20.0
# The longest that a registry may ask for with Retry-After.
_LONGEST = 60.0
# How often a wait looks whether all is over.
_LOOK = 0.2
# Bytes that must have come before a break counts as the first one again.
_PROGRESS = 1 << 20


def _sleep(seconds: float, ended: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not ended() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK))


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, as it is used here; tests have another one.

    Attributes:
        now: Seconds since 1970.
        monotonic: Seconds since some moment.
        random: A number from 0 to 1.
        sleep: Waits so many seconds, or until the function says that all is over.
    """

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    sleep: Callable[[float, Callable[[], bool]], object] = _sleep


class BrokenError(RegistryError):
    """A request failed in a way that may pass: it is worth sending again.

    Args:
        message: What happened.
        after: The seconds that the registry asked to wait, as in Retry-After.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, after: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.after = after


class Backoff:
    """The tries of one task: exponential waits with full jitter, as AWS describes them.

    Args:
        clock: The time.
        ended: Says that all is over, which ends a wait.
        tries: How many there are.
    """

    def __init__(self, clock: Clock, ended: Callable[[], bool], tries: int = 6) -> None:
        self._clock = clock
        self._ended = ended
        self._tries = tries
        self._failed = 0
        self._at = 0

    def wait(self, error: BrokenError, position: int = 0) -> None:
        """Wait until the next try.

        Args:
            error: Why the last one failed.
            position: How many bytes have passed in all; tries are counted anew after progress.

        Raises:
            BrokenError: There have been enough; it is the error given.
        """
        if position - self._at >= _PROGRESS:
            self._failed, self._at = 0, position
        self._failed += 1
        if self._failed >= self._tries:
            raise error
        longest = min(_CAP, _BASE * 2 ** (self._failed - 1))
        seconds = max(self._clock.random() * longest, self._asked(error.after))
        self._clock.sleep(seconds, self._ended)

    def _asked(self, after: str) -> float:
        """The seconds of a Retry-After, which holds seconds or a date (RFC 9110, 10.2.3)."""
        try:
            seconds = float(after) if after.isdigit() else self._until(after)
        except (ValueError, OverflowError):
            return 0.0
        return min(max(seconds, 0.0), _LONGEST)

    def _until(self, date: str) -> float:
        return parsedate_to_datetime(date).timestamp() - self._clock.now() if date else 0.0
