"""Results of a pool taken in the order in which their work was given out, within bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from lazyci.errors import ImageError

__all__ = ["LOOK_AHEAD", "Drain", "Rooms"]

# Bytes that may wait for the pool or for the upload.
LOOK_AHEAD = 16 << 20

_Item = tuple[int, "Future[Any]", Callable[[Any], None]]


class Drain:
    """A thread of its own that takes results in order.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._waiting = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def reserve(self, size: int) -> None:
        """Wait until there is room for this many bytes.

        Raises:
            Exception: What the pool or the taking of a result before raised.
        """
        with self._room:
            self._room.wait_for(
                lambda: self._error or not self._waiting or self._waiting + size <= LOOK_AHEAD
            )
            self._waiting += size
            if self._error:
                raise self._error

    def put(self, size: int, result: Future[Any], take: Callable[[Any], None]) -> None:
        """Let a result be taken when all before it were; then its `size` bytes are free again."""
        self._items.put((size, result, take))

    def join(self) -> None:
        """Wait until all results are taken.

        Raises:
            Exception: As `reserve`.
        """
        self._items.put(None)
        self._thread.join()
        if self._error:
            raise self._error

    def abort(self) -> None:
        """Take nothing more, and end the thread."""
        with self._room:
            self._error = self._error or ImageError("the conversion was stopped")
            self._room.notify_all()
        self._items.put(None)
        self._thread.join()

    def _run(self) -> None:
        while item := self._items.get():
            size, result, take = item
            if self._error:
                result.cancel()
                continue
            try:
                take(result.result())
            except BaseException as error:
                with self._room:
                    self._error = error
            with self._room:
                self._waiting -= size
                self._room.notify_all()


class Rooms:
    """Buffers of one size, used again and again: fresh memory costs time and fragments."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()

    def take(self) -> memoryview:
        """A buffer; what it holds is left from before."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return memoryview(bytearray(self._size))

    def give(self, room: memoryview) -> None:
        """Let a buffer be used again; others than its own it leaves to themselves."""
        if len(room) == self._size:
            self._free.put(room)
