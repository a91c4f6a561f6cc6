"""Many layers read at once, each once, and turned into all formats that are asked for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from lazyci.errors import ImageError, UploadLostError
from lazyci.image.manifest import Descriptor
from lazyci.image.store import BuiltLayer, LayerBuilder, Repository, Upload

__all__ = ["Done", "Job", "Maker", "build_layers"]


# Once more for the registry's kind of uploads, once for the format, and one to go well.
_ATTEMPTS = 3


class Maker(Protocol):
    """Makes builders of one format."""

    @property
    def name(self) -> str:
        """The format's name."""

    def builder(self, layer: Descriptor, upload: Upload) -> LayerBuilder:
        """Begin one layer."""


@dataclass(frozen=True, slots=True)
class Job:
    """A layer to read, and what to make of it."""

    layer: Descriptor
    makers: tuple[Maker, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A layer that was built in one format, and how many seconds that took from its first byte."""

    layer: Descriptor
    form: str
    built: BuiltLayer
    seconds: float


def build_layers(
    source: Repository,
    destination: Repository,
    jobs: Sequence[Job],
    *,
    at_once: int,
    cancelled: threading.Event,
    done: Callable[[Done], None],
    read: Callable[[int], None],
) -> None:
    """Read and build layers, the largest first.

    Args:
        source: Where the layers are.
        destination: Where the new ones go.
        jobs: What to build.
        at_once: How many layers are read at the same time.
        cancelled: Set when the others must stop; `destination` and `source` look at it.
        done: Called, from any thread, with each layer that is stored.
        read: Called, from any thread, with the bytes of each piece that was read.

    Raises:
        LazyciError: A layer failed; the first failure, when all threads have ended.
    """
    ordered = sorted(jobs, key=lambda job: (-job.layer.size, job.layer.digest))
    with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="layer") as pool:
        futures = [pool.submit(_build, source, destination, job, done, read) for job in ordered]
        try:
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in ended:
                future.result()
        except BaseException:
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise


def _build(
    source: Repository,
    destination: Repository,
    job: Job,
    done: Callable[[Done], None],
    read: Callable[[int], None],
) -> None:
    for attempt in range(_ATTEMPTS):
        passed = 0

        def count(size: int) -> None:
            nonlocal passed
            passed += size
            read(size)

        try:
            _attempt(source, destination, job, done, count)
        except ImageError as error:
            raise ImageError(
                f"layer {job.layer.digest}: {error.message}", path=error.path, hint=error.hint
            ) from error
        except UploadLostError:
            # The registry client, or the format, knows now what to do in another way.
            read(-passed)
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _attempt(
    source: Repository,
    destination: Repository,
    job: Job,
    done: Callable[[Done], None],
    read: Callable[[int], None],
) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        builders: list[tuple[Maker, LayerBuilder]] = []
        for maker in job.makers:
            upload = destination.upload()
            stack.callback(upload.abort)
            builder = maker.builder(job.layer, upload)
            stack.callback(builder.abort)
            builders.append((maker, builder))

        def feed(data: bytes) -> None:
            for _, builder in builders:
                builder.feed(data)
            read(len(data))

        source.read_blob(job.layer, feed)
        built = [(maker, builder.finish()) for maker, builder in builders]
        stack.pop_all()
    for maker, layer in built:
        done(Done(job.layer, maker.name, layer, time.monotonic() - began))
