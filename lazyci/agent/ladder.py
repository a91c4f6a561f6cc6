"""The pull ladder: lazily where that can be shown to work, else the regular pull.

Whatever goes wrong here, the regular pull runs, with the job's own arguments; what is printed on
standard output and the exit code are those of that pull.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lazyci.agent.docker import Docker, Info
from lazyci.agent.down import Down
from lazyci.agent.endpoint import docker_endpoint
from lazyci.agent.process import run_and_keep, run_through
from lazyci.errors import LazyciError, ToolError
from lazyci.sample import Rung, Sample, append_sample, samples_file

__all__ = ["Pull", "pull"]

# By the snapshotter that Docker works with: formats that it loads lazily.
_FORMATS = {"nydus": ("nydus", "nydus-index"), "stargz": ("estargz", "zstdchunked")}
# Seconds: a lazy pull takes less than one, and a few where the registry is far away.
_LAZY_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Pull:
    """What a job asks for.

    Attributes:
        reference: The image.
        options: Options of `docker pull`, as the job gave them.
        wait: Seconds to wait for a variant that is being made; None: as long as that pays.
        if_missing: Whether an image that is there is left as it is.
    """

    reference: str
    options: tuple[str, ...] = ()
    wait: float | None = None
    if_missing: bool = False


def pull(wanted: Pull) -> int:
    """Pull an image; return the exit code.

    Raises:
        ToolError: There is no `docker` command.
    """
    docker = shutil.which("docker")
    if docker is None:
        raise ToolError("docker is not on the PATH, so nothing can be pulled")
    ladder = _Ladder(wanted, docker)
    try:
        code = ladder.lazily()
    except Down as down:
        code = ladder.regularly(down.rung, down.reason)
    except LazyciError as error:
        code = ladder.regularly(Rung.BROKEN, error.message)
    except Exception as error:
        # A mistake of lazyci's own must not cost a job.
        code = ladder.regularly(Rung.BROKEN, f"{type(error).__name__}: {error}")
    ladder.record(code)
    return code


@dataclass(slots=True)
class _Ladder:
    wanted: Pull
    docker: str
    began: float = field(default_factory=time.monotonic)
    sample: Sample = field(init=False)

    def __post_init__(self) -> None:
        self.sample = Sample(
            time=time.time(),
            reference=self.wanted.reference,
            rung=Rung.LAZY,
            engine="docker",
            job=os.environ.get("BUILDKITE_JOB_ID") or os.environ.get("GITHUB_RUN_ID", ""),
        )

    def lazily(self) -> int:
        """Climb the ladder to its top."""
        if os.environ.get("LAZYCI", "").lower() == "off":
            raise Down(Rung.OFF, "LAZYCI=off")
        if _platform(self.wanted.options) is None:
            raise Down(Rung.OPTIONS, f"with {' '.join(self.wanted.options)}")
        daemon, info = self._engine()
        if self.wanted.if_missing and daemon.has(self.wanted.reference):
            self.sample.rung = Rung.PRESENT
            return 0
        formats = _FORMATS.get(info.driver, ()) if info.uses_containerd else ()
        if not formats:
            raise Down(Rung.ENGINE, f"Docker's storage driver is {info.driver}")
        if "@" in self.wanted.reference:
            raise Down(Rung.OPTIONS, "an image by digest cannot be tagged as itself")
        # libcurl and the registry client are loaded only where an engine can be lazy.
        from lazyci.agent.choice import choose

        tag = choose(self.sample, formats, info.platform, self.wanted.wait)
        return self._lazy(daemon, tag)

    def _engine(self) -> tuple[Docker, Info]:
        try:
            daemon = Docker(docker_endpoint(os.environ))
            info = daemon.info()
        except ToolError as error:
            raise Down(Rung.NO_ENGINE, error.message) from None
        self.sample.engine_version, self.sample.snapshotter = info.version, info.driver
        return daemon, info

    def _lazy(self, daemon: Docker, tag: str) -> int:
        repository, own = _split(self.wanted.reference)
        variant = f"{repository}:{tag}"
        before = time.monotonic()
        was_there = tag != own and daemon.has(variant)
        command = [self.docker, "pull", *self.wanted.options, variant]
        try:
            done = run_and_keep(command, _LAZY_DEADLINE)
        except subprocess.TimeoutExpired:
            self._clean(daemon, variant, was_there or tag == own)
            raise Down(Rung.TIMEOUT, f"after {_LAZY_DEADLINE:.0f} s") from None
        if done.returncode:
            self._clean(daemon, variant, was_there or tag == own)
            said = done.stderr.strip().splitlines()
            raise Down(Rung.FAILED, said[-1][:300] if said else f"exit code {done.returncode}")
        try:
            whole = daemon.is_whole(variant)
            if tag != own:
                # The variant's own name stays: another pull may be about to use it.
                daemon.tag(variant, repository, own)
        except ToolError as error:
            raise Down(Rung.FAILED, error.message) from None
        self.sample.pull_seconds = time.monotonic() - before
        if whole:
            self.sample.rung = Rung.NOT_LAZY
            self.sample.reason = "its layers were downloaded"
        if ":" not in self.wanted.reference.rpartition("/")[2] and "-q" not in command:
            print("Using default tag: latest")
        print(
            done.stdout.replace(variant, f"{repository}:{own}").replace(f"{tag}: ", f"{own}: "),
            end="",
        )
        sys.stdout.flush()
        return 0

    def _clean(self, daemon: Docker, variant: str, keep: bool) -> None:
        if not keep:
            with contextlib.suppress(ToolError):
                daemon.remove(variant)

    def regularly(self, rung: Rung, reason: str) -> int:
        """The regular pull, with the job's own words."""
        self.sample.rung, self.sample.reason = rung, reason
        _say(f"regular pull: {rung.value}: {reason}")
        before = time.monotonic()
        code = run_through(
            [self.docker, "pull", *self.wanted.options, self.wanted.reference],
        )
        self.sample.pull_seconds = time.monotonic() - before
        return code

    def record(self, code: int) -> None:
        """Say what served, and append the sample."""
        sample = self.sample
        sample.exit_code, sample.seconds = code, time.monotonic() - self.began
        if not code and sample.rung in (Rung.LAZY, Rung.NOT_LAZY):
            how = "pulled lazily" if sample.rung.is_lazy else "pulled, but not lazily"
            _say(f"{how} ({sample.format}) in {sample.seconds:.1f} s")
        try:
            append_sample(sample, samples_file())
        except OSError as error:
            _say(f"the sample is lost: {error}")


def _say(line: str) -> None:
    print(f"lazyci: {line}", file=sys.stderr, flush=True)


def _platform(options: Sequence[str]) -> str | None:
    """The platform chosen, or empty; None: options with which no pull is lazy."""
    chosen = ""
    rest = iter(options)
    for option in rest:
        name, equals, value = option.partition("=")
        if name in ("-q", "--quiet"):
            continue
        if name != "--platform":
            return None
        chosen = value if equals else next(rest, "")
    return chosen


def _split(reference: str) -> tuple[str, str]:
    """Repository and tag."""
    head, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{head}{slash}{name}", tag or "latest"
