"""An upload in chunks, each sent again until it has arrived.

By the distribution specification 1.1: `POST` opens a session, `PATCH` adds a chunk, `PUT` adds the
last one and names the digest; `GET` of the session tells how much has arrived.

ECR answers 201 to a chunk, and its `Range` stands still after the first one
(aws/containers-roadmap issue 2831); zot's told the end within the chunk (regclient issue 961). So
what a registry acknowledges counts as arrived, and `Range` only where it says that a part of the
chunk did. Were this wrong, the digest at the end would not fit.
"""

from __future__ import annotations

import re
import threading

from lazyci.errors import AuthError, LazyciError, UploadLostError
from lazyci.image.registry.answers import Answer, described
from lazyci.image.registry.clock import BrokenError
from lazyci.image.registry.target import BINARY, Target

__all__ = ["Chunks"]

_RANGE = re.compile(r"(?:bytes=)?\d{1,18}-(\d{1,18})")
_LARGEST = 64 << 20
# How often a registry may take a part of a chunk only.
_MAX_PARTS = 100


class Chunks:
    """An upload session that takes chunks.

    Attributes:
        stop: Ends what is under way when it is set.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._location = ""
        self._offset = 0
        self._parts = 0
        # Whether `Range` is known to lag behind what was acknowledged.
        self._stale = False
        self.stop = threading.Event()

    def add(self, body: bytes) -> None:
        """Add a chunk that is not the last.

        Raises:
            UploadLostError: The session is lost, or the registry takes no chunks.
            RegistryError: The registry refuses or cannot be reached.
        """
        if not self._location:
            self._open()
        self._send(body, "")

    def end(self, body: bytes, digest: str, size: int) -> None:
        """Add the last chunk and finish; raises as `add`."""
        answer = self._send(body, digest)
        if answer is not None:
            self._target.confirm(answer, digest, size)
        elif not self._target.has(digest, size):
            raise UploadLostError("the registry lost an upload at its end")

    def drop(self) -> None:
        """Tell the registry that nothing more comes; never raises."""
        if self._location:
            self._target.drop(self._location)

    def _open(self) -> None:
        answer = self._target.begin()
        self._location = self._target.location(answer)
        least = answer.header("oci-chunk-min-length")
        if re.fullmatch(r"[0-9]{1,12}", least) and int(least) > self._target.chunk:
            # The chunk at hand is too small already; with the next upload it fits.
            self._target.chunk = min(int(least), _LARGEST)
            self._target.whole = int(least) > _LARGEST
            raise UploadLostError(f"the registry wants chunks of {least} bytes")

    def _send(self, body: bytes, digest: str) -> Answer | None:
        """Send a chunk until it has arrived; None when the session ended without an answer."""
        start = at = self._offset
        end = start + len(body)
        backoff = self._target.session.backoff(self.stop)
        # Whether an earlier try may have arrived without anybody knowing.
        unsure = False
        while True:
            try:
                answer = self._once(body[at - start :], at, digest)
            except BrokenError as error:
                backoff.wait(error)
                found = self._status(start, end)
                if found is None and digest:
                    return None
                unsure = found == -1
                at = at if unsure else self._known(found)
            else:
                if answer.good and digest:
                    return answer
                if answer.status == 404 and digest:
                    # Gone, or finished by a try whose answer was lost.
                    return None
                at = self._next(answer, at, end, unsure=unsure)
            if at == end and not digest:
                self._offset = end
                return None

    def _once(self, part: bytes, at: int, digest: str) -> Answer:
        where = [f"Content-Range: {at}-{at + len(part) - 1}"] if part else []
        if digest:
            return self._target.finish(self._location, digest, part, *where)
        return self._target.session.send(
            "PATCH",
            self._location,
            scopes=self._target.scopes,
            headers=[BINARY, *where],
            body=part,
            tries=1,
            stop=self.stop,
        )

    def _next(self, answer: Answer, at: int, end: int, *, unsure: bool) -> int:
        """Where to go on after an answer to a chunk of the bytes from `at` to `end`."""
        if answer.good:
            if answer.header("location"):
                self._location = self._target.location(answer)
            told = _arrived(answer)
            if told is None or told == end:
                return end
            self._parts += 1
            if at < told < end and self._parts <= _MAX_PARTS:
                return told
            self._stale = True
            return end
        if answer.status == 416:
            found = self._status(at, end)
            if found is not None and found > at:
                return found
            if found == -1 and (unsure or self._stale):
                # It arrived, and the answer was lost; libcurl, too, sends again what a kept
                # connection swallowed.
                return end
        if answer.status == 404:
            raise UploadLostError(answer.error("PATCH").message)
        raise self._refused(answer)

    def _refused(self, answer: Answer) -> LazyciError:
        error = answer.error("PATCH")
        if isinstance(error, AuthError):
            return error
        self._target.whole = True
        return UploadLostError(f"{error.message} (the registry takes no such chunks)")

    def _status(self, start: int, end: int) -> int | None:
        """How many bytes have arrived; -1: the registry does not tell; None: no such session."""
        answer = self._target.session.send(
            "GET", self._location, scopes=self._target.scopes, stop=self.stop
        )
        if answer.status in (404, 410):
            return None
        if not answer.good:
            return -1
        if answer.header("location"):
            self._location = self._target.location(answer)
        told = _arrived(answer)
        if told is None or (self._stale and told < start):
            return -1
        if told == 1 and start == 0:
            # An empty upload is `0-0` too.
            return 0
        if not start <= told <= end:
            raise UploadLostError(
                f"{described('GET', answer.url)}: byte {start} was sent, {told} have arrived"
            )
        return told

    def _known(self, found: int | None) -> int:
        if found is None:
            raise UploadLostError("the registry does not know an upload any more")
        return found


def _arrived(answer: Answer) -> int | None:
    """The bytes that have arrived, by a header `Range: 0-LAST`."""
    match = _RANGE.fullmatch(answer.header("range"))
    return int(match[1]) + 1 if match else None
