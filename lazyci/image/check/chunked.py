"""eStargz and zstd:chunked variants: the original with its layers exchanged, one for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lazyci.errors import ImageError
from lazyci.image.check.compare import NO_LIBARCHIVE, TOC_FILES, WHOLE_SECONDS, Difference, compare
from lazyci.image.check.parts import Check, Sides, ahead, json_of, read_layer, same, same_json
from lazyci.image.check.toccheck import TOC_FILE, StoredToc, read_toc, toc_tree
from lazyci.image.check.tocchunks import ChunkCheck
from lazyci.image.check.tree import Tree
from lazyci.image.check.treetar import TarSum
from lazyci.image.manifest import Content, Descriptor
from lazyci.image.original import Image, parse_manifest, read_bytes

__all__ = ["check_chunked", "check_config"]

_UNPACKED_SIZE = "io.containers.estargz.uncompressed-size"
_MAX_CONFIG = 16 << 20


@dataclass(frozen=True, slots=True)
class _Pair:
    number: int
    original: Descriptor
    diff_id: str
    found: Descriptor


@dataclass(frozen=True, slots=True)
class _Result:
    checks: tuple[Check, ...]
    diff_id: str


def check_chunked(sides: Sides, image: Image, content: Content) -> list[Check]:
    """Compare an image with one whose layers have tables of contents.

    Returns:
        For each layer its files and its table of contents, then the config.
    """
    try:
        config_blob, layers = parse_manifest(content)
        config = read_bytes(sides.target, config_blob, _MAX_CONFIG)
    except ImageError as error:
        return [_broken("manifest", image.content.digest, content.digest, error)]
    if len(layers) != len(image.layers):
        count = same("", "layers", len(image.layers), len(layers))
        return [Check("manifest", image.content.digest, content.digest, findings=tuple(count))]
    pairs = [
        _Pair(number, *parts)
        for number, parts in enumerate(
            zip(image.layers, image.diff_ids, layers, strict=True), start=1
        )
    ]
    results = list(ahead(sides.pool, sides.workers, lambda pair: _layer(sides, pair), pairs))
    checks = [check for result in results for check in result.checks]
    diff_ids = [result.diff_id for result in results]
    findings = check_config(image.config, config, diff_ids)
    checks.append(
        Check("config", image.config_blob.digest, config_blob.digest, findings=tuple(findings))
    )
    return checks


def check_config(
    original: bytes, found: bytes, diff_ids: Sequence[str], added: int = 0
) -> list[Difference]:
    """Compare two configs, in which only the digests of the layers may differ.

    Args:
        original: The original's config.
        found: The variant's.
        diff_ids: What its layers unpack to; an empty text where that is not known.
        added: Layers of its own in front, each with an entry of the history if there is one.
    """
    expected = json_of(original, "the original's config")
    try:
        config = json_of(found, "the config")
    except ImageError as error:
        return [Difference("config", "config", "readable", error.message)]
    rootfs = config.get("rootfs")
    named = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    named = named if isinstance(named, list) else []
    findings = same("config.rootfs", "layers", len(diff_ids), len(named))
    for number, (unpacked, name) in enumerate(zip(diff_ids, named, strict=False), start=1):
        if unpacked:
            findings += same(f"config.rootfs.diff_ids[{number - 1}]", "diffID", unpacked, name)
    if isinstance(rootfs, dict) and isinstance(expected.get("rootfs"), dict):
        config["rootfs"] = {**rootfs, "diff_ids": expected["rootfs"].get("diff_ids")}
    if added and isinstance(expected.get("history"), list):
        history = config.get("history")
        config["history"] = history[added:] if isinstance(history, list) else history
    return findings + same_json("config", expected, config)


def _layer(sides: Sides, pair: _Pair) -> _Result:
    expected, total = read_layer(sides.source, pair.original)
    name = f"layer {pair.number}"
    findings = same("", "diffID of the original", pair.diff_id, total.digest)
    try:
        toc, chunks, problem = _toc(sides, pair.found)
        found, sums = read_layer(sides.target, pair.found, chunks.feed if chunks else None)
    except ImageError as error:
        return _Result((_broken(name, pair.original.digest, pair.found.digest, error),), "")
    findings += compare(expected, found, sides.losses, ignore=TOC_FILES)
    digests = (pair.original.digest, pair.found.digest)
    checks = [Check(name, *digests, expected.entries, tuple(findings))]
    contents = f"table of contents {pair.number}"
    if problem is not None:
        checks.append(_broken(contents, *digests, problem))
    elif toc is None or chunks is None:
        checks.append(Check(contents, *digests, note="none: the layer is loaded whole"))
    else:
        told = [*_told(toc, found, sums, pair.found), *chunks.finish()]
        checks.append(Check(contents, *digests, len(toc.rows), tuple(told)))
    return _Result(tuple(checks), sums.digest)


def _toc(
    sides: Sides, layer: Descriptor
) -> tuple[StoredToc | None, ChunkCheck | None, ImageError | None]:
    """The table of contents with what checks its chunks, or why it cannot be read."""
    try:
        toc = read_toc(sides.target, layer)
        return toc, ChunkCheck(toc) if toc else None, None
    except ImageError as error:
        return None, None, error


def _told(toc: StoredToc, found: Tree, sums: TarSum, layer: Descriptor) -> list[Difference]:
    """What the table of contents says otherwise than the layer's tar."""
    findings: list[Difference] = []
    if toc.compression == "gzip":
        entry = found.find(TOC_FILE)
        stored = f"sha256:{entry.digest.hex()}" if entry else None
        findings += same(TOC_FILE, "content", toc.digest, stored)
        findings += same(TOC_FILE, "last entry", TOC_FILE, sums.last)
    size = layer.annotations.get(_UNPACKED_SIZE)
    if size is not None:
        findings += same("", f"annotation {_UNPACKED_SIZE}", str(sums.size), size)
    try:
        tree = toc_tree(toc.rows)
    except ImageError as error:
        return [*findings, Difference("/", "table of contents", "readable", error.message)]
    losses = (WHOLE_SECONDS, NO_LIBARCHIVE)
    return findings + compare(found, tree, losses, ignore=frozenset({TOC_FILE}))


def _broken(name: str, original: str, found: str, error: ImageError) -> Check:
    finding = Difference("/", name, "readable", error.message)
    return Check(name, original, found, findings=(finding,))
