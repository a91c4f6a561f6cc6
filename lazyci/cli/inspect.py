"""`lazyci inspect`: what an image or its variant is made of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lazyci.cli.progress import size_text

if TYPE_CHECKING:
    from lazyci.image.inspect import Inspection, LayerFacts

__all__ = ["inspect"]


@click.command()
@click.option("--tag-suffix", "suffix", default="-lazy", show_default=True)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.argument("reference", metavar="REF")
def inspect(suffix: str, output: str, reference: str) -> None:
    """Show what an image or its lazy variant is made of.

    Formats, layers, files and tables of contents; for a variant its original and whether it is
    stale; for an original the variants that stand beside it. No layer is downloaded.

    \b
    Example:
      lazyci inspect registry.example/team/app:1.0-lazy
    """
    from lazyci.image.inspect import inspect as inspect_image
    from lazyci.image.places import open_image

    repository, name = open_image(reference)
    try:
        found = inspect_image(repository, name, reference, suffix)
    finally:
        repository.close()
    click.echo(json.dumps(asdict(found), indent=2) if output == "json" else _text(found))


def _text(found: Inspection) -> str:
    lines = [f"{found.reference} {found.digest}", f"  {found.media_type}"]
    if found.form:
        lines.append(f"  lazy variant ({found.form}, {found.state}) of {found.original}")
    elif not found.variants:
        lines.append("  no lazy variant stands beside it")
    for variant in found.variants:
        lines.append(f"  {variant.state} variant: {variant.form} {variant.tag} {variant.digest}")
    for manifest in found.manifests:
        kind = f" {manifest.artifact_type}" if manifest.artifact_type else ""
        lines.append(f"{manifest.platform or 'manifest'} {manifest.digest}{kind}")
        lines += [f"  {_layer(layer)}" for layer in manifest.layers]
    return "\n".join(lines)


def _layer(layer: LayerFacts) -> str:
    parts = [layer.digest, f"{size_text(layer.size):>9}", layer.form]
    if layer.files is not None:
        parts.append(f"{layer.files} entries")
    if layer.problem:
        parts.append(layer.problem)
    return "  ".join(parts)
