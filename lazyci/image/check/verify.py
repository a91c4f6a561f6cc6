"""Whether a variant is the same image as its original: each file, config and digest compared.

What runs is compared, not how it is stored: each layer of an eStargz variant with the original's
layer, the merged tree of a nydus variant with the original's layers merged. Shapes of variants:
`lazyci/image/variant.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from lazyci.errors import ImageError
from lazyci.image.check.chunked import check_chunked
from lazyci.image.check.compare import Difference, Loss
from lazyci.image.check.nydus import NYDUS, check_nydus
from lazyci.image.check.parts import Check, Sides, kept_annotations, raw_entries, same
from lazyci.image.manifest import ANNOTATION_ORIGINAL, Content, Descriptor
from lazyci.image.original import Image, Original, index_entries, read_original
from lazyci.image.store import Repository, Sink

__all__ = ["PlatformReport", "Report", "Unpack", "verify"]

# Writes the merged tree of a nydus manifest as a tar stream.
Unpack = Callable[[Repository, Content, Sink], None]


@dataclass(frozen=True, slots=True)
class PlatformReport:
    """What was found of one platform's image.

    Attributes:
        platform: As `linux/amd64`.
        original: Digest of its manifest.
        variant: Digests of the manifests that stand for it, separated by blanks.
        checks: Layer by layer, then what concerns the image as a whole.
    """

    platform: str
    original: str
    variant: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        original: Digest of what the reference names.
        variant: Digest of the variant.
        platforms: Each image.
        index: What concerns all of it: annotations, attestations, entries of the index.
    """

    original: str
    variant: str
    platforms: tuple[PlatformReport, ...]
    index: Check

    @property
    def checks(self) -> tuple[Check, ...]:
        """All checks of all platforms."""
        return (self.index, *chain.from_iterable(image.checks for image in self.platforms))

    @property
    def ok(self) -> bool:
        """Whether nothing differs but what the format cannot keep."""
        return all(check.ok for check in self.checks)


def verify(
    source: Repository,
    target: Repository,
    original: Content,
    variant: Content,
    *,
    unpack: Unpack | None = None,
    losses: Sequence[Loss] = (),
    platforms: Sequence[str] = (),
    workers: int = 2,
) -> Report:
    """Compare a variant with its original.

    Args:
        source: Where the original is.
        target: Where the variant is.
        original: The index or manifest that the reference names.
        variant: The variant's index or manifest.
        unpack: Reads a nydus image back; without it a nydus variant cannot be right.
        losses: What the format cannot keep.
        platforms: As for `read_original`; by default all.
        workers: Layers that are read at once.

    Raises:
        ImageError: The original is malformed. A malformed variant is a difference.
        RegistryError: Something cannot be read.
        NotFoundError: A manifest or blob is missing.
    """
    images = read_original(source, original, platforms)
    findings = [
        *same("", ANNOTATION_ORIGINAL, original.digest, variant.notes.get(ANNOTATION_ORIGINAL)),
        *kept_annotations(original, variant),
    ]
    entries = _entries(variant, images, findings)
    reports = []
    with ThreadPoolExecutor(workers) as pool:
        sides = Sides(source, target, pool, workers, tuple(losses))
        for image in images.images:
            parts = _take(entries, image, variant)
            report = _platform(sides, images, image, parts, unpack)
            reports.append(report)
    findings += [
        Difference(entry.digest, "entry", "none", "an entry that stands for nothing")
        for entry in entries
    ]
    index = Check("index", original.digest, variant.digest, findings=tuple(findings))
    return Report(original.digest, variant.digest, tuple(reports), index)


def _entries(variant: Content, original: Original, findings: list[Difference]) -> list[Descriptor]:
    """The entries that stand for images; the others must be in the variant as they were."""
    if not variant.is_index:
        return [variant.descriptor]
    try:
        entries = list(index_entries(variant))
        written = raw_entries(variant)
    except ImageError as error:
        findings.append(Difference("/", "index", "readable", error.message))
        return []
    wanted = raw_entries(original.content)
    for other in original.others:
        found = same(other.digest, "entry", wanted.get(other.digest), written.get(other.digest))
        findings += found
        entries = [entry for entry in entries if entry.digest != other.digest]
    return entries


def _take(entries: list[Descriptor], image: Image, variant: Content) -> list[Descriptor]:
    """Take out of the entries those that stand for this image: one, or a copy and nydus."""
    if not variant.is_index:
        taken, entries[:] = list(entries), []
        return taken
    parts: list[Descriptor] = []
    for entry in entries:
        first = not parts and entry.artifact_type != NYDUS
        beside = len(parts) == 1 and entry.artifact_type == NYDUS
        if entry.platform == image.platform and (first or beside):
            parts.append(entry)
    for part in parts:
        entries.remove(part)
    return parts


def _platform(
    sides: Sides,
    original: Original,
    image: Image,
    parts: Sequence[Descriptor],
    unpack: Unpack | None,
) -> PlatformReport:
    digests = " ".join(part.digest for part in parts)
    checks: list[Check] = []
    if not parts:
        lost = Difference("/", "platform", "an image", "none")
        checks.append(Check("image", image.content.digest, "", findings=(lost,)))
    elif digests == image.content.digest:
        checks.append(Check("image", digests, digests, note="carried over as it is, not lazy"))
    else:
        contents = [sides.target.resolve(part.digest) for part in parts]
        findings = _notes(original, image, contents)
        checks.append(Check("image", image.content.digest, digests, findings=tuple(findings)))
        if len(parts) == 1:
            checks += check_chunked(sides, image, contents[0])
        else:
            checks += check_nydus(sides, image, contents[0], contents[1], unpack)
    return PlatformReport(str(image.platform), image.content.digest, digests, tuple(checks))


def _notes(original: Original, image: Image, contents: Sequence[Content]) -> list[Difference]:
    """Annotations: the original's are kept, and each part names it, if it names anything."""
    right = (original.content.digest, image.content.digest)
    findings: list[Difference] = []
    for content in contents:
        named = content.notes.get(ANNOTATION_ORIGINAL, right[0])
        if named not in right:
            findings += same(content.digest, ANNOTATION_ORIGINAL, right[0], named)
    return findings + kept_annotations(image.content, contents[0])
