"""What sends a pull down the ladder."""

from __future__ import annotations

from lazyci.sample import Rung

__all__ = ["Down"]


class Down(Exception):  # noqa: N818
    """A rung does not hold: the regular pull serves."""

    def __init__(self, rung: Rung, reason: str) -> None:
        super().__init__(reason)
        self.rung = rung
        self.reason = reason
