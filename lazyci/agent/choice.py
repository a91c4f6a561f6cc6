"""Which variant to pull, if any: current, of a format that the engine can, worth a wait."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lazyci.agent.down import Down
from lazyci.errors import LazyciError, NotFoundError
from lazyci.image.lookup import Found, find_variant, layers_size
from lazyci.sample import Rung, Sample

__all__ = ["choose"]

_SUFFIX = "-lazy"
# Compressed bytes that a regular pull downloads and unpacks in a second: an agent of 2 cores does
# about 47 MB (README), larger ones more; and seconds that a lazy start takes nonetheless.
_REGULAR_RATE = 60_000_000
_LAZY_START = 5.0
_POLL = 2.0


def choose(sample: Sample, formats: Sequence[str], platform: str, wait: float | None) -> str:
    """Find the variant of an image.

    Args:
        sample: Names the image; gets what is found.
        formats: Those that the engine loads lazily.
        platform: `os/architecture` of the engine.
        wait: Seconds to wait for a variant that is being made; None: as long as that pays.

    Returns:
        The variant's tag.

    Raises:
        Down: There is none that will do.
    """
    found = _look(sample, platform, wait)
    if not found.variant:
        waited = " yet" if sample.waited_seconds else ""
        raise Down(Rung.NO_VARIANT, f"there is no lazy variant{waited}")
    sample.variant, sample.format = found.variant, found.format
    if not found.is_current:
        raise Down(Rung.STALE, "the lazy variant is of another image than the tag is now")
    if found.format not in formats:
        raise Down(Rung.FOREIGN, f"the variant is {found.format}, not {' or '.join(formats)}")
    return found.tag


def _look(sample: Sample, platform: str, wait: float | None) -> Found:
    began = time.monotonic()
    found = _find(sample)
    sample.lookup_seconds = time.monotonic() - began
    if found.is_current or found.pending is None:
        return found
    began = time.monotonic()
    patience = wait if wait is not None else _patience(sample, found, platform)
    while not found.is_current and found.pending is not None:
        left = began + patience - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(_POLL, left))
        found = _find(sample)
    sample.waited_seconds = time.monotonic() - began
    return found


def _find(sample: Sample) -> Found:
    try:
        found = find_variant(sample.reference, _SUFFIX)
    except NotFoundError:
        # The regular pull says it in the engine's words.
        raise Down(Rung.NO_VARIANT, "the image is not in the registry") from None
    except LazyciError as error:
        raise Down(Rung.NO_LOOKUP, error.message) from None
    sample.original = found.original
    return found


def _patience(sample: Sample, found: Found, platform: str) -> float:
    """Seconds that waiting may take: none if a regular pull is done before the variant is."""
    assert found.pending is not None
    left = found.pending.started + found.pending.expected - time.time()
    try:
        regular = layers_size(sample.reference, found.original, platform) / _REGULAR_RATE
    except LazyciError:
        return 0.0
    if time.time() > found.pending.expires or max(left, 0.0) + _LAZY_START > regular:
        return 0.0
    # A conversion that is late costs no more than a regular pull takes.
    return regular
