"""`lazyci prune`: variants and records that nothing needs any more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from lazyci.image.prune import Removal

__all__ = ["prune"]


@click.command()
@click.option("--apply", is_flag=True, help="Remove; without it, only show what would be removed.")
@click.option("--tag-suffix", "suffix", default="-lazy", show_default=True)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.argument("reference", metavar="REPOSITORY|REF")
def prune(apply: bool, suffix: str, output: str, reference: str) -> None:
    """Remove lazy variants and records that nothing needs any more.

    For a repository: variants whose original is gone or replaced, records of layers that no image
    has, and marks of conversions that died. For a reference with a tag or digest: all variants of
    that image. Originals are never removed. What is removed can be made again by
    lazyci convert.

    \b
    Example:
      lazyci prune registry.example/team/app
      lazyci prune --apply registry.example/team/app:1.0
    """
    from lazyci.image.places import open_image
    from lazyci.image.prune import find_orphans, find_variants, remove

    repository, name = open_image(reference, default="")
    try:
        if name:
            removals = find_variants(repository, name, suffix)
        else:
            removals = find_orphans(repository, suffix)
        if apply:
            remove(repository, removals)
    finally:
        repository.close()
    if output == "json":
        click.echo(json.dumps({"removed": apply, "items": [asdict(each) for each in removals]}))
    else:
        click.echo(_text(removals, apply))


def _text(removals: Sequence[Removal], applied: bool) -> str:
    if not removals:
        return "nothing to remove"
    verb = "removed" if applied else "would remove"
    lines = [f"{verb} {each.kind} {each.tag} {each.digest}: {each.reason}" for each in removals]
    if not applied:
        lines.append("nothing was removed; --apply removes")
    return "\n".join(lines)
