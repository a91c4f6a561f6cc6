"""`lazyci init`: the first settings of a repository."""

from __future__ import annotations

from pathlib import Path

import click

from lazyci.cli.common import rewrite_all
from lazyci.config import FILE_NAME, Settings, find_settings, load_settings
from lazyci.errors import InputError, NotAPipelineError
from lazyci.files import repository_root, write_whole
from lazyci.pipeline.discover import Discovery, discover, pipeline_files
from lazyci.pipeline.render import render_text
from lazyci.pipeline.vendor import ACTION, PLUGIN, vendor
from lazyci.reader import decode

__all__ = ["init"]


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE...]", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print lazyci.yaml instead of writing anything.")
def init(files: tuple[Path, ...], dry_run: bool) -> None:
    """Write lazyci.yaml for the repository this is called in, from what its pipelines hold.

    FILEs are further pipelines to read, such as the saved output of a generator. Also written: the
    Buildkite plugin and the GitHub action that lazy steps call, where such pipelines are found.
    An existing lazyci.yaml is kept.

    \b
    Example:
      lazyci init
      lazyci init --dry-run generated-pipeline.yml
    """
    here = Path.cwd()
    root = repository_root(here) or here
    paths = list(dict.fromkeys([*pipeline_files(root), *files]))
    texts = _read(paths)
    found = discover(texts)
    context = {"repositories": found.repositories, "builds": found.builds}
    text = render_text("lazyci.yaml.j2", None, **context)[0] + "\n"
    if dry_run:
        click.echo(text, nl=False)
        return
    existing = find_settings(here)
    if existing:
        click.echo(f"kept {_relative(existing)}")
    else:
        write_whole(root / FILE_NAME, text.encode())
        click.echo(f"wrote {_relative(root / FILE_NAME)}")
    settings = load_settings(existing or root / FILE_NAME)
    before = [] if existing else [_relative(root / FILE_NAME)]
    for kind in _needed(texts, settings, root):
        for path in vendor(kind, root, settings):
            click.echo(f"wrote {_relative(path)}")
            before.append(_relative(path))
    if before:
        click.echo(f"to take it back: rm {' '.join(before)}")
    _next(found)


def _needed(texts: list[tuple[str, str]], settings: Settings, root: Path) -> list[str]:
    """Which of the plugin and the action the pipelines will call with these settings."""
    plans = [result.plan for result in rewrite_all(texts, settings)]
    needs = {place for plan in plans for place in plan.needs}
    # A pipeline that a program prints is not here to be read; its steps stand in this folder.
    shown = any(plan.system == "buildkite" and plan.sites for plan in plans)
    generated = (root / ".buildkite").is_dir() and not shown
    kinds = [PLUGIN] if settings.pull.plugin in needs or generated else []
    return kinds + ([ACTION] if settings.pull.action in needs else [])


def _read(paths: list[Path]) -> list[tuple[str, str]]:
    texts = []
    for path in paths:
        try:
            text = decode(path.read_bytes(), str(path))
            discover([(_relative(path), text)])
        except NotAPipelineError:
            continue
        except InputError as error:
            click.echo(f"lazyci: skipped: {error}", err=True)
            continue
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", path=str(path)) from None
        texts.append((_relative(path), text))
    return texts


def _relative(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def _next(found: Discovery) -> None:
    if not found.plans:
        click.echo("\nNo pipeline was found here. Give lazyci one:")
        click.echo("  lazyci plan FILE\n  lazyci generate --diff FILE")
        return
    count = sum(len(plan.sites) for plan in found.plans)
    names = " ".join(plan.path for plan in found.plans if plan.sites) or found.plans[0].path
    click.echo(f"\nPipelines: {len(found.plans)}; builds and pulls of images: {count}. Next:")
    click.echo(f"  lazyci plan {names}\n  lazyci generate --write {names}")
