"""`lazyci plan`: what is in a pipeline, and what would change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from lazyci.cli.common import config_option, read_text, rewrite_all, settings_from
from lazyci.pipeline import Plan, Site
from lazyci.reader import decode

__all__ = ["plan"]

_SYSTEMS = {
    "buildkite": "Buildkite pipeline",
    "github-workflow": "GitHub workflow",
    "github-action": "GitHub composite action",
}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@config_option
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan(files: tuple[str, ...], config_path: Path | None, output: str) -> None:
    """Show each build and pull in pipelines, what would change there, and why.

    What was seen and is left alone is shown with the reason. Nothing is written.

    \b
    Example:
      lazyci plan .buildkite/pipeline.yml
      lazyci plan --output json .github/workflows/*.yml
    """
    settings = settings_from(config_path)
    texts = [
        (name, decode(sys.stdin.buffer.read(), "<stdin>") if name == "-" else read_text(name))
        for name in files
    ]
    results = rewrite_all(texts, settings)
    if output == "json":
        click.echo(json.dumps({"files": [r.plan.to_json() for r in results]}, indent=2))
        return
    for result in results:
        _show(result.plan, result.changed)


def _show(plan: Plan, changed: bool) -> None:
    click.echo(f"{plan.path}: {_SYSTEMS[plan.system]}")
    lazy = [site for site in plan.sites if site.change]
    left = [site for site in plan.sites if not site.change]
    for title, sites in (("becomes lazy", lazy), ("left alone", left)):
        if sites:
            click.echo(f"\n  {title}")
        for site in sites:
            _show_site(plan.path, site)
    for note in plan.all_notes:
        click.echo(f"\n  note: {note}")
    builds = sum(site.role == "build" for site in lazy)
    click.echo(
        f"\n  sites: {len(plan.sites)}; builds with a convert step: {builds}; "
        f"lazy pulls: {len(lazy) - builds}; left alone: {len(left)}"
    )
    if changed and plan.path == "-":
        click.echo("")
    elif changed:
        click.echo(f"  next: lazyci generate --diff {plan.path}\n")
    else:
        click.echo("  nothing to change\n")


def _show_site(path: str, site: Site) -> None:
    click.echo(f"    {path}:{site.line}:{site.column}  {site.role}, {site.means}, in {site.where}")
    if site.image:
        click.echo(f"      image   {site.image}")
    if site.change:
        click.echo(f"      change  {site.change}")
    click.echo(f"      why     {site.reason}")
