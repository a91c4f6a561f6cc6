"""Where blobs are pushed to, and what differs between registries.

- Artifact Registry and Container Registry of Google take no chunks; GHCR takes none above 4 MiB,
  which would be slow. They get blobs whole, from a temporary file; so does any other registry that
  refuses a chunk.
- ECR: 10 MiB is the largest part that its quotas name.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from lazyci.errors import ImageError, LazyciError, RegistryError
from lazyci.image.registry.answers import Answer, described
from lazyci.image.registry.clock import BrokenError
from lazyci.image.registry.exchange import Body
from lazyci.image.registry.session import Session, joined

__all__ = ["BINARY", "Target"]

BINARY = "Content-Type: application/octet-stream"
_CHUNK = 16 << 20
_ECR_CHUNK = 10 << 20
_ECR = re.compile(r"\d{12}\.dkr[.-]ecr[.-].*|public\.ecr\.aws")
_WHOLE = re.compile(r"ghcr\.io|(?:.+\.)?gcr\.io|.+\.pkg\.dev")
# Seconds until a registry has put together and hashed what it was sent.
_PATIENCE = 600.0


@dataclass(eq=False, slots=True)
class Target:
    """One repository as a place for blobs.

    Attributes:
        session: The registry.
        path: `/v2/NAME`.
        scopes: Scopes that pushing needs.
        chunk: Bytes of a chunk.
        whole: Whether the registry takes no chunks.
    """

    session: Session
    path: str
    scopes: tuple[str, ...]
    chunk: int = _CHUNK
    whole: bool = False

    @classmethod
    def on(cls, host: str, session: Session, path: str, scopes: tuple[str, ...]) -> Target:
        """The target on HOST[:PORT], with what is known of that registry."""
        chunk = _ECR_CHUNK if _ECR.fullmatch(host) else _CHUNK
        return cls(session, path, scopes, chunk, _WHOLE.fullmatch(host) is not None)

    def has(self, digest: str, size: int) -> bool:
        """Whether the blob is there."""
        answer = self.session.send("HEAD", f"{self.path}/blobs/{digest}", scopes=self.scopes)
        return answer.good and answer.length in (size, None)

    def begin(self) -> Answer:
        """Open an upload session."""
        url = f"{self.path}/blobs/uploads/"
        answer = self.session.send("POST", url, scopes=self.scopes, body=b"")
        if not answer.good:
            raise answer.error("POST")
        return answer

    def location(self, answer: Answer) -> str:
        """Where an upload goes on, by an answer.

        Raises:
            RegistryError: The answer does not tell, or leads from https to http.
        """
        told = answer.header("location")
        if not told:
            raise RegistryError(f"{described('POST', answer.url)}: the answer has no Location")
        url = joined(answer.url, told)
        here, there = urlsplit(answer.url), urlsplit(url)
        if there.scheme == "http" and here.scheme == "https":
            # Registries behind a proxy that ends TLS take themselves for plain ones.
            if here.hostname != there.hostname:
                raise RegistryError(
                    f"{described('POST', answer.url)}: the upload leads from https to http"
                )
            url = there._replace(scheme=here.scheme, netloc=here.netloc).geturl()
        return url

    def finish(self, location: str, digest: str, body: bytes | Body, *headers: str) -> Answer:
        """Send the last bytes of an upload session, once, and name the digest."""
        mark = "&" if "?" in location else "?"
        return self.session.send(
            "PUT",
            f"{location}{mark}digest={quote(digest, safe='')}",
            scopes=self.scopes,
            headers=[BINARY, *headers],
            body=body,
            patience=_PATIENCE,
            tries=1,
        )

    def drop(self, location: str) -> None:
        """Tell the registry that an upload session is over; never raises."""
        with contextlib.suppress(LazyciError):
            answer = self.session.send("DELETE", location, scopes=self.scopes, tries=1)
            if answer.status == 416:
                # After a chunk that was cut off, the location has another offset in it.
                answer = self.session.send("GET", location, scopes=self.scopes, tries=1)
                location = self.location(answer)
                self.session.send("DELETE", location, scopes=self.scopes, tries=1)

    def confirm(self, answer: Answer, digest: str, size: int) -> None:
        """See to it that a finished upload is there as what it was."""
        told = answer.header("docker-content-digest")
        if told.startswith("sha256:") and told != digest:
            raise ImageError(f"{described('PUT', answer.url)}: sent {digest}, stored {told}")
        if not (told and answer.status == 201) and not self.has(digest, size):
            raise RegistryError(f"{described('PUT', answer.url)}: the blob is not there afterwards")

    def send_whole(self, body: bytes | Body, digest: str, size: int) -> None:
        """Store a blob by one request, unless it is there."""
        backoff = self.session.backoff()
        while not self.has(digest, size):
            location = self.location(self.begin())
            try:
                self._finish_whole(location, digest, body, size)
            except BrokenError as error:
                backoff.wait(error)
            else:
                return

    def _finish_whole(self, location: str, digest: str, body: bytes | Body, size: int) -> None:
        answer = self.finish(location, digest, body)
        if answer.status in (404, 416):
            # The session is gone; the next one may last.
            raise BrokenError(answer.error("PUT").message)
        if not answer.good:
            raise answer.error("PUT")
        self.confirm(answer, digest, size)
