"""`lazyci verify`: is the variant the same file system as its original?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lazyci.errors import VariantDiffersError

if TYPE_CHECKING:
    from lazyci.image.check.parts import Check
    from lazyci.image.check.verify import Report

__all__ = ["verify"]

_SHOWN = 20


@click.command()
@click.option("--variant", metavar="REF", help="The variant; by default REF with the suffix.")
@click.option("--tag-suffix", "suffix", default="-lazy", show_default=True)
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Only these.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.argument("reference", metavar="REF")
def verify(
    variant: str | None, suffix: str, platforms: tuple[str, ...], output: str, reference: str
) -> None:
    """Check that a lazy variant is the same file system as its original.

    Both are read completely and compared: every path, type, mode, owner, time, extended
    attribute, link, device, whiteout and content, layer by layer and merged. What a format
    cannot keep is listed apart. The exit code is 3 when anything differs.

    \b
    Example:
      lazyci verify registry.example/team/app:1.0
    """
    from lazyci.image.check.check import check

    report = check(reference, variant or "", suffix, platforms)
    click.echo(json.dumps(asdict(report), indent=2) if output == "json" else _text(report))
    if not report.ok:
        raise VariantDiffersError(f"the variant {report.variant} differs from {report.original}")


def _text(report: Report) -> str:
    lines = _check("index", report.index)
    for platform in report.platforms:
        for check in platform.checks:
            lines += _check(f"{platform.platform} {check.name}", check)
    return "\n".join(lines)


def _check(name: str, check: Check) -> list[str]:
    lines = [f"{name}: {'the same' if check.ok else 'differs'} ({check.entries} entries)"]
    lines += [f"  {finding}" for finding in check.findings[:_SHOWN]]
    if len(check.findings) > _SHOWN:
        lines.append(f"  and {len(check.findings) - _SHOWN} more")
    return lines
