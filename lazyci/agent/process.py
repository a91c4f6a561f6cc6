"""The engine's own command, run so that a job cannot tell it from a direct call."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence

__all__ = ["run_and_keep", "run_through"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GRACE = 5.0


def run_and_keep(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command without input, and keep what it prints.

    Raises:
        TimeoutExpired: It took longer, and was ended.
    """
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
        ) as child,
        _passing_on(child),
    ):
        try:
            out, err = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=_GRACE)
            child.kill()
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def run_through(command: Sequence[str]) -> int:
    """Run a command with this process's own input and output; its exit code."""
    with subprocess.Popen(command) as child, _passing_on(child):  # noqa: S603
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _passing_on(child: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[None]:
    """Signals that would end this process go to the child, whose end decides."""

    def handler(number: int, _: object) -> None:
        child.send_signal(number)

    before = [(number, signal.signal(number, handler)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)
