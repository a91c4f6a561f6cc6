"""What an image or a variant is made of, as far as manifests and tables of contents tell."""

from __future__ import annotations

from dataclasses import dataclass, field

from lazyci.errors import ImageError, NotFoundError
from lazyci.image.check.toccheck import read_toc
from lazyci.image.manifest import (
    ANNOTATION_ORIGINAL,
    MANIFESTS,
    Content,
    Descriptor,
    compression,
)
from lazyci.image.nydus.manifest import ANNOTATION_REF, NYDUS_BLOB, NYDUS_MANIFEST
from lazyci.image.nydus.unpack import merged_bootstrap
from lazyci.image.original import index_entries, parse_manifest
from lazyci.image.rafs.reader import Rafs
from lazyci.image.store import Repository
from lazyci.image.variant import ANNOTATION_FORMAT, variant_tags

__all__ = ["Inspection", "LayerFacts", "ManifestFacts", "VariantFacts", "inspect"]

_BOOTSTRAP = "containerd.io/snapshot/nydus-bootstrap"


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer.

    Attributes:
        digest: Its digest.
        size: Its size in bytes.
        form: `plain`, `estargz`, `zstdchunked`, `nydus`, `nydus-index` or `bootstrap`.
        files: Entries that its table of contents or bootstrap tells of; None: it has none.
        toc: Digest of its table of contents; empty: it has none.
        problem: Why its table of contents cannot be read; empty: it can.
    """

    digest: str
    size: int
    form: str
    files: int | None = None
    toc: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """One manifest: its platform, its artifact type if it has one, and its layers."""

    digest: str
    media_type: str
    platform: str
    artifact_type: str
    layers: tuple[LayerFacts, ...]


@dataclass(frozen=True, slots=True)
class VariantFacts:
    """A variant of the image that was asked for. `state`: `current` or `stale`."""

    tag: str
    form: str
    digest: str
    state: str


@dataclass(slots=True)
class Inspection:
    """What a reference names.

    Attributes:
        reference: As the user named it.
        digest: Its digest.
        media_type: Its media type.
        form: The format, when it is a variant.
        original: Digest of the variant's original.
        state: Of a variant: `current`, `stale` (its reference names another image now), `gone`
            (the original is no more) or `unknown` (no tag tells what its reference is).
        manifests: Its manifests, each with its layers.
        variants: Of an original: the variants that stand beside it.
    """

    reference: str
    digest: str
    media_type: str
    form: str = ""
    original: str = ""
    state: str = ""
    manifests: list[ManifestFacts] = field(default_factory=list)
    variants: list[VariantFacts] = field(default_factory=list)


def inspect(repository: Repository, name: str, reference: str, suffix: str) -> Inspection:
    """Look at what a reference names; no layer is read as a whole.

    Args:
        repository: Where it is.
        name: Tag or digest.
        reference: What the user called it.
        suffix: The suffix of variants' tags.
    """
    content = repository.resolve(name)
    notes = content.notes
    found = Inspection(reference, content.digest, content.media_type)
    if ANNOTATION_FORMAT in notes:
        found.form = notes[ANNOTATION_FORMAT]
        found.original = notes.get(ANNOTATION_ORIGINAL, "")
        found.state = _state(repository, name, found.original, suffix)
    else:
        found.variants = _variants(repository, name, content, suffix)
    for child, entry in _manifests(repository, content):
        platform = str(entry.platform or "")
        found.manifests.append(
            ManifestFacts(
                child.digest,
                child.media_type,
                platform,
                entry.artifact_type,
                _layers(repository, child, entry),
            )
        )
    return found


def _manifests(repository: Repository, content: Content) -> list[tuple[Content, Descriptor]]:
    if not content.is_index:
        return [(content, content.descriptor)]
    entries = [entry for entry in index_entries(content) if entry.media_type in MANIFESTS]
    return [(repository.resolve(entry.digest), entry) for entry in entries]


def _state(repository: Repository, name: str, original: str, suffix: str) -> str:
    if ":" in name:
        return "unknown"
    for base in _bases(name, suffix):
        try:
            return "current" if repository.resolve(base).digest == original else "stale"
        except NotFoundError:
            continue
    # In place, or the reference is gone: what is left to ask is whether the original is there.
    try:
        repository.resolve(original)
    except (NotFoundError, ImageError):
        return "gone"
    return "current" if not _bases(name, suffix) else "unknown"


def _bases(name: str, suffix: str) -> list[str]:
    """The tags whose variant may have this tag."""
    cut = [name[: -len(end)] for end in variant_tags("", suffix) if name.endswith(end)]
    return [f"sha256:{base[7:]}" if base.startswith("sha256-") else base for base in cut if base]


def _variants(
    repository: Repository, name: str, content: Content, suffix: str
) -> list[VariantFacts]:
    found = []
    for tag in variant_tags(name, suffix):
        try:
            variant = repository.resolve(tag)
        except NotFoundError:
            continue
        notes = variant.notes
        if ANNOTATION_FORMAT in notes:
            state = "current" if notes.get(ANNOTATION_ORIGINAL) == content.digest else "stale"
            found.append(VariantFacts(tag, notes[ANNOTATION_FORMAT], variant.digest, state))
    return found


def _layers(repository: Repository, content: Content, entry: Descriptor) -> tuple[LayerFacts, ...]:
    _, layers = parse_manifest(content)
    facts = []
    for layer in layers:
        try:
            facts.append(_layer(repository, layer, entry))
        except ImageError as error:
            facts.append(LayerFacts(layer.digest, layer.size, "broken", problem=error.message))
    return tuple(facts)


def _layer(repository: Repository, layer: Descriptor, entry: Descriptor) -> LayerFacts:
    if layer.media_type == NYDUS_BLOB:
        form = "nydus-index" if ANNOTATION_REF in layer.annotations else "nydus"
        return LayerFacts(layer.digest, layer.size, form)
    if entry.artifact_type == NYDUS_MANIFEST and _BOOTSTRAP in layer.annotations:
        files = sum(1 for _ in Rafs(merged_bootstrap(repository, layer)).walk())
        return LayerFacts(layer.digest, layer.size, "bootstrap", files)
    toc = read_toc(repository, layer)
    if toc is None:
        return LayerFacts(layer.digest, layer.size, "plain")
    form = "zstdchunked" if compression(layer.media_type) == "zstd" else "estargz"
    files = sum(1 for row in toc.rows if row.type != "chunk")
    return LayerFacts(layer.digest, layer.size, form, files, toc.digest)
