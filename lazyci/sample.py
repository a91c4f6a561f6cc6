"""One measured container start, as it is recorded: one line of JSON.

Version 1. Unknown fields are ignored by who reads, so fields may be added; the version changes when
one changes its meaning.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

import msgspec

__all__ = ["MEANING", "Rung", "Sample", "append_sample", "samples_file"]

VERSION = 1


class Rung(str, Enum):
    """Which rung of the ladder served a pull; `MEANING` says what each means."""

    LAZY = "lazy"
    NOT_LAZY = "pulled-but-not-lazy"
    PRESENT = "already-there"
    OFF = "switched-off"
    OPTIONS = "options-not-lazy"
    NO_ENGINE = "engine-not-reached"
    ENGINE = "engine-not-lazy"
    NO_LOOKUP = "registry-not-asked"
    NO_VARIANT = "variant-missing"
    STALE = "variant-stale"
    FOREIGN = "variant-of-another-format"
    FAILED = "lazy-pull-failed"
    TIMEOUT = "lazy-pull-timed-out"
    BROKEN = "lazyci-failed"

    @property
    def is_lazy(self) -> bool:
        """Whether the image was not downloaded before its start."""
        return self is Rung.LAZY


MEANING = {
    Rung.LAZY: "the variant was pulled, and its layers are still in the registry",
    Rung.NOT_LAZY: "the variant was pulled, but the engine downloaded its layers",
    Rung.PRESENT: "with `--if-missing`: the image was there, and nothing was pulled",
    Rung.OFF: "`LAZYCI=off`",
    Rung.OPTIONS: "options of `docker pull` that no lazy pull has, or an image by digest",
    Rung.NO_ENGINE: "the daemon does not answer, or is at an address that lazyci does not speak to",
    Rung.ENGINE: "the daemon's storage driver is no snapshotter that loads lazily",
    Rung.NO_LOOKUP: "the registry could not be asked for the variant",
    Rung.NO_VARIANT: "there is no variant, nor one under way that is worth waiting for",
    Rung.STALE: "the variant is of another image than the tag is now",
    Rung.FOREIGN: "the variant's format is not the one that this agent loads lazily",
    Rung.FAILED: "the lazy pull ended with an error",
    Rung.TIMEOUT: "the lazy pull took too long",
    Rung.BROKEN: "lazyci itself failed; please report it",
}


class Sample(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one pull was like.

    Attributes:
        version: Of this record.
        time: When it began, in seconds since 1970.
        reference: The image, as the job names it.
        rung: Which rung served it.
        reason: Why not a higher one, in a few words; empty for a lazy pull.
        format: The variant's format, if there was one.
        original: Digest of the image that `reference` names, if it was looked up.
        variant: Digest of the variant, if there was one.
        exit_code: Of the pull.
        seconds: From the begin to the end.
        lookup_seconds: For asking engine and registry.
        waited_seconds: For a variant that was being made.
        pull_seconds: The pull that served, of `seconds`.
        engine: `docker` or `containerd`.
        engine_version: As the engine says.
        snapshotter: Storage driver or snapshotter, as the engine says.
        bytes: Of the image's compressed layers, if known.
        job: The CI's identifier of the job, if there is one.
    """

    version: int = VERSION
    time: float
    reference: str
    rung: Rung
    reason: str = ""
    format: str = ""
    original: str = ""
    variant: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    lookup_seconds: float = 0.0
    waited_seconds: float = 0.0
    pull_seconds: float = 0.0
    engine: str = ""
    engine_version: str = ""
    snapshotter: str = ""
    bytes: int = 0
    job: str = ""


def samples_file() -> Path:
    """Where samples are appended: LAZYCI_SAMPLES, else the user's state folder."""
    named = os.environ.get("LAZYCI_SAMPLES")
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "lazyci" / "samples.jsonl"


def append_sample(sample: Sample, path: Path) -> None:
    """Append a sample as one line, with one write.

    Raises:
        OSError: It cannot be written.
    """
    line = msgspec.json.encode(sample) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(target, line)
    finally:
        os.close(target)
