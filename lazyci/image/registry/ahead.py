"""Large blobs over several connections, where one is slower than what takes the bytes.

Object stores, which registries redirect to, give each connection a part of what a machine can take
(S3: about 85 to 90 MB/s, "Performance guidelines for Amazon S3", which advises ranges side by
side). So ranges are read ahead, and passed on in order; their size is a matter of memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["AHEAD", "WINDOW", "Pace", "read_ahead"]

WINDOW = 4 << 20
# Windows that one blob has on their way, or waiting.
AHEAD = 3
# A single connection is looked at after that many bytes, and when that many are left at least.
_LOOK_AFTER = 16 << 20
_WORTH = 32 << 20
# The share of its time that the taker must spend with the bytes, else it waits for the network.
_BUSY = 0.6


class Pace:
    """Whether a transfer over one connection keeps its taker busy.

    Args:
        now: The time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began = now()
        self._taking = 0.0
        self._seen = 0

    def took(self, size: int, seconds: float) -> None:
        """The taker took bytes, in that time."""
        self._seen += size
        self._taking += seconds

    def slow(self, left: int) -> bool:
        """Whether more connections are worth it, for the bytes that are left."""
        if self._seen < _LOOK_AFTER or left < _WORTH:
            return False
        elapsed = self._now() - self._began
        is_slow = self._taking < _BUSY * elapsed
        self._began, self._taking, self._seen = self._now(), 0.0, 0
        return is_slow


def read_ahead(
    start: int,
    size: int,
    read: Callable[[int, int, threading.Event], bytes | bytearray],
    take: Callable[[bytes | bytearray], object],
) -> None:
    """Read a blob from `start` to `size`, several windows at once, and pass it on in order.

    Args:
        start: The first byte.
        size: Of the blob.
        read: Reads a window, from a byte to before another; the event says that it is in vain.
        take: Takes what was read.

    Raises:
        Exception: What reading or taking raised first, when no reading is under way any more.
    """
    stop = threading.Event()
    underway: deque[Future[bytes | bytearray]] = deque()
    with ThreadPoolExecutor(AHEAD, "ahead") as pool:
        try:
            while start < size or underway:
                while start < size and len(underway) < AHEAD:
                    end = min(start + WINDOW, size)
                    underway.append(pool.submit(read, start, end, stop))
                    start = end
                take(underway.popleft().result())
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
