"""Progress of a conversion: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import click

from lazyci.image.conversion import Watch

__all__ = ["Progress", "size_text"]

# A CI log wants to see that something happens, not a line per megabyte.
_SECONDS_BETWEEN_LINES = 10


def size_text(size: float) -> str:
    """A size for people: `3.1 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


class Progress(Watch):
    """Shows what a conversion tells, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bar: Any = None
        self._total = 0
        self._done = 0
        self._told = time.monotonic()

    def say(self, line: str) -> None:
        with self._lock:
            click.echo(f"lazyci: {line}", err=True)

    def total(self, size: int) -> None:
        with self._lock:
            self._total = size
            if size and sys.stderr.isatty():
                self._bar = click.progressbar(length=size, label="converting", file=sys.stderr)
                self._bar.render_progress()

    def read(self, size: int) -> None:
        with self._lock:
            self._done += size
            if self._bar is not None:
                self._bar.update(size)
                return
            now = time.monotonic()
            if now - self._told >= _SECONDS_BETWEEN_LINES:
                self._told = now
                share = f"{size_text(self._done)} of {size_text(self._total)}"
                click.echo(f"lazyci: {share} read", err=True)

    def close(self) -> None:
        """End the bar's line."""
        with self._lock:
            if self._bar is not None:
                self._bar.render_finish()
                self._bar = None
