"""nydus variants: a copy of the original with one empty layer in front, and a nydus image."""

from __future__ import annotations

from collections.abc import Callable

from lazyci.errors import ImageError
from lazyci.image.check.chunked import check_config
from lazyci.image.check.compare import NO_LIBARCHIVE, Difference, compare
from lazyci.image.check.parts import Check, Sides, ahead, json_of, read_layer, same, same_json
from lazyci.image.check.tree import Tree, merge
from lazyci.image.check.treeblob import pushed
from lazyci.image.check.treetar import read_tar
from lazyci.image.manifest import Content, compression
from lazyci.image.original import Image, parse_manifest, read_bytes
from lazyci.image.store import Repository, Sink

__all__ = ["NYDUS", "check_nydus"]

NYDUS = "application/vnd.nydus.image.manifest.v1+json"
_MAX_CONFIG = 16 << 20


def check_nydus(
    sides: Sides,
    image: Image,
    copy: Content,
    nydus: Content,
    unpack: Callable[[Repository, Content, Sink], None] | None,
) -> list[Check]:
    """Compare an image with the copy that engines without nydus pull, and with the nydus image.

    Args:
        sides: Where both are.
        image: The original.
        copy: The manifest with the isolating layer.
        nydus: The nydus manifest.
        unpack: Writes the merged tree of a nydus manifest as a tar.
    """
    original = image.content.digest
    return [
        _check("copy", original, copy, lambda: _copy(sides, image, copy)),
        _check("config", original, nydus, lambda: _config(sides, image, nydus)),
        _merged(sides, image, nydus, unpack),
    ]


def _check(name: str, original: str, found: Content, find: Callable[[], list[Difference]]) -> Check:
    try:
        findings = find()
    except ImageError as error:
        findings = [Difference("/", name, "readable", error.message)]
    return Check(name, original, found.digest, findings=tuple(findings))


def _copy(sides: Sides, image: Image, content: Content) -> list[Difference]:
    config_blob, layers = parse_manifest(content)
    findings = same("", "layers", len(image.layers) + 1, len(layers))
    for number, (old, new) in enumerate(zip(image.layers, layers[1:], strict=False), start=1):
        findings += same(f"layer {number}", "digest", old.digest, new.digest)
        findings += same(f"layer {number}", "size", old.size, new.size)
        kinds = compression(old.media_type), compression(new.media_type)
        findings += same(f"layer {number}", "compression", *kinds)
    if not layers:
        return findings
    tree, total = read_layer(sides.target, layers[0])
    findings += same("isolating layer", "entries", 0, tree.entries)
    config = read_bytes(sides.target, config_blob, _MAX_CONFIG)
    diff_ids = [total.digest, *image.diff_ids]
    return findings + check_config(image.config, config, diff_ids, added=1)


def _config(sides: Sides, image: Image, content: Content) -> list[Difference]:
    """What a container gets from the config must be the same; layers are nydus' own."""
    config_blob, _ = parse_manifest(content)
    found = json_of(read_bytes(sides.target, config_blob, _MAX_CONFIG), "the config")
    expected = json_of(image.config, "the original's config")
    for config in (expected, found):
        config.pop("rootfs", None)
        config.pop("history", None)
    return same_json("config", expected, found)


def _merged(
    sides: Sides,
    image: Image,
    content: Content,
    unpack: Callable[[Repository, Content, Sink], None] | None,
) -> Check:
    digests = (image.content.digest, content.digest)
    if unpack is None:
        finding = Difference("/", "merged", "compared", "nothing that reads nydus images is here")
        return Check("merged", *digests, findings=(finding,))
    expected, findings = _original(sides, image)
    try:
        with pushed(lambda sink: unpack(sides.target, content, sink)) as pieces:
            found, _ = read_tar(pieces)
        findings += compare(expected, found, (*sides.losses, NO_LIBARCHIVE), layers=False)
    except ImageError as error:
        findings.append(Difference("/", "merged", "readable", error.message))
    return Check("merged", *digests, expected.entries, tuple(findings))


def _original(sides: Sides, image: Image) -> tuple[Tree, list[Difference]]:
    """All layers of the original, one over the other."""
    merged = Tree()
    findings: list[Difference] = []
    trees = ahead(
        sides.pool, sides.workers, lambda layer: read_layer(sides.source, layer), image.layers
    )
    for number, ((tree, total), diff_id) in enumerate(
        zip(trees, image.diff_ids, strict=True), start=1
    ):
        findings += same(f"layer {number}", "diffID of the original", diff_id, total.digest)
        merged = merge(merged, tree)
    return merged, findings
