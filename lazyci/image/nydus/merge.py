"""All layers' bootstraps merged into one, by the rules of OCI layers.

`nydus-image merge` 2.2.0 is not used: it searches directories from end to end (seconds for an
image of 30,000 files), keeps the whiteouts of the first layer as files, gives a directory that an
upper layer only passes through that layer's made-up attributes, and reads the last name of a
directory that fills its blocks on into the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lazyci.image.manifest import Descriptor
from lazyci.image.nydus.manifest import ANNOTATION_REF, ANNOTATION_TOC
from lazyci.image.rafs.overlay import Layer, merge_bootstraps

__all__ = ["Part", "merge"]

_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Part:
    """One layer to merge: its blob, and its bootstrap."""

    blob: Descriptor
    bootstrap: bytes

    @property
    def layer(self) -> Layer:
        """What the merge must know of it."""
        digest = self.blob.digest.partition(":")[2]
        notes = self.blob.annotations
        # Where the original layer is the data, its digest names it.
        source = notes.get(ANNOTATION_REF, self.blob.digest).partition(":")[2]
        toc = notes.get(ANNOTATION_TOC, _NO_DIGEST)
        return Layer(self.bootstrap, source, digest, self.blob.size, toc)


def merge(parts: Sequence[Part]) -> bytes:
    """Merge the layers of an image, lowest first; return the bootstrap of the whole.

    Raises:
        ImageError: The layers cannot be laid over each other the way engines do it.
    """
    return merge_bootstraps([part.layer for part in parts])
