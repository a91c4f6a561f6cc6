"""`lazyci convert`: the lazy variant of an image, made in the registry."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import click

from lazyci.cli.common import cache_folder
from lazyci.cli.progress import Progress, size_text
from lazyci.config import Format
from lazyci.errors import LazyciError
from lazyci.image.conversion import Conversion, Options

__all__ = ["convert"]


@click.command()
@click.option(
    "--format",
    "formats",
    type=click.Choice(get_args(Format)),
    multiple=True,
    default=["nydus"],
    show_default=True,
    help="Format of the variant; given several times, all are made from one download.",
)
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Only these.")
@click.option("--tag-suffix", "suffix", default="-lazy", show_default=True)
@click.option("--in-place", is_flag=True, help="Publish under the reference itself.")
@click.option("--to", "destination", metavar="REF", help="Publish in another repository or layout.")
@click.option("--jobs", type=click.IntRange(0, 64), default=0, help="Layers read at once.")
@click.option("--no-reuse", is_flag=True, help="Convert every layer, also those done before.")
@click.option("--dry-run", is_flag=True, help="Show what would be done.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.argument("references", nargs=-1, required=True, metavar="REF...")
def convert(
    formats: tuple[str, ...],
    platforms: tuple[str, ...],
    suffix: str,
    in_place: bool,
    destination: str | None,
    jobs: int,
    no_reuse: bool,
    dry_run: bool,
    output: str,
    references: tuple[str, ...],
) -> None:
    """Make the lazy variant of an image, in the registry it is in.

    REF is a reference, or oci:DIR[:TAG] for an image layout in a folder. The variant stands at
    REF with the suffix; each further format adds its name. Layers that were converted before are
    taken over. With LAZYCI=off nothing is done.

    \b
    Example:
      lazyci convert registry.example/team/app:1.0
      lazyci convert --format estargz --to oci:out:app oci:image:app
    """
    if os.environ.get("LAZYCI", "").lower() == "off":
        click.echo("lazyci: LAZYCI=off, so nothing is converted", err=True)
        return
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", suffix):
        raise click.BadParameter(
            "letters, digits, '.', '_' and '-' only", param_hint="--tag-suffix"
        )
    names = _split(references)
    if destination is not None and len(names) > 1:
        raise click.UsageError("--to takes one reference")
    if in_place and len(formats) > 1:
        raise click.UsageError("--in-place takes one format")
    options = Options(
        formats=tuple(dict.fromkeys(formats)),
        platforms=platforms,
        suffix=suffix,
        in_place=in_place,
        destination=destination or "",
        at_once=jobs,
        dry_run=dry_run,
        records=cache_folder() / "records",
        reuse=not no_reuse,
    )
    _stop_on_sigterm()
    done, failed = _convert_all(names, options, output == "json")
    if output == "json":
        click.echo(_json(done))
    for error in failed[1:]:
        click.echo(f"lazyci: {error}", err=True)
    if failed:
        raise failed[0]


def _split(references: Sequence[str]) -> list[str]:
    """References, also several in one argument, as a job's output or an input may hold them."""
    names = [name for text in references for name in re.split(r"[\s,]+", text) if name]
    if not names:
        raise click.UsageError("no reference was given")
    return list(dict.fromkeys(names))


def _stop_on_sigterm() -> None:
    # As an exception, so that temporary files go and `REF-lazy-pending` is taken back.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _convert_all(
    names: Sequence[str], options: Options, told_on_stderr: bool
) -> tuple[list[Conversion], list[LazyciError]]:
    """Convert each image; one that fails does not keep the others from it."""
    # Here, so that a wrong option is told without loading libcurl and the codecs.
    from lazyci.image.convert import convert as convert_image

    done: list[Conversion] = []
    failed: list[LazyciError] = []
    for name in names:
        progress = Progress()
        try:
            conversion = convert_image(name, options, progress)
        except LazyciError as error:
            failed.append(error)
            continue
        finally:
            progress.close()
        done.append(conversion)
        # At once, so that nothing is untold when a later image ends the command.
        click.echo(_text(conversion, options.suffix), err=told_on_stderr)
    return done, failed


def _text(conversion: Conversion, suffix: str) -> str:
    lines = [f"{conversion.reference} ({conversion.original})"]
    for variant in conversion.variants:
        lines.append(f"  {variant.state}: {variant.form} {variant.reference} {variant.digest}")
        if variant.original_tag:
            lines.append(f"  the original stays at the tag {variant.original_tag}")
    reused = sum(1 for layer in conversion.layers if layer.reused)
    lines.append(
        f"  layers: {len(conversion.layers) - reused} converted, {reused} taken over; "
        f"{size_text(conversion.bytes_in)} read, {size_text(conversion.bytes_out)} sent, "
        f"{conversion.seconds:.1f} s"
    )
    made = [each for each in conversion.variants if each.state == "made" and not each.original_tag]
    if made:
        options = "--apply" if suffix == "-lazy" else f"--apply --tag-suffix {suffix}"
        lines.append(f"  to take it back: lazyci prune {options} {conversion.target}")
    return "\n".join(lines)


def _json(done: Sequence[Conversion]) -> str:
    results: list[dict[str, Any]] = [asdict(conversion) for conversion in done]
    return json.dumps({"images": results}, indent=2)
