"""`lazyci generate`: pipelines again, with lazy steps or without them."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

from lazyci.cli.common import config_option, read_text, rewrite_all, settings_from
from lazyci.config import Settings
from lazyci.errors import LazyciError, WouldChangeError
from lazyci.files import repository_root, write_whole
from lazyci.pipeline import Result, rewrite, undo
from lazyci.pipeline.vendor import ACTION, PLUGIN, missing, vendor
from lazyci.reader import decode

__all__ = ["generate"]


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...|-")
@config_option
@click.option("--write", is_flag=True, help="Change the files in place.")
@click.option("--diff", is_flag=True, help="Show what would change.")
@click.option("--check", is_flag=True, help="Exit 1 when something would change.")
@click.option("--undo", "undoing", is_flag=True, help="Take everything out again.")
@click.option("--strict", is_flag=True, help="With -: fail, instead of passing the input on.")
def generate(
    files: tuple[str, ...],
    config_path: Path | None,
    write: bool,
    diff: bool,
    check: bool,
    undoing: bool,
    strict: bool,
) -> None:
    """Print pipelines again with convert steps and lazy pulls.

    `-` is a filter from standard input to standard output. Whatever goes wrong there, it prints its
    input unchanged, says why on standard error and exits 0, so that the pipeline is uploaded.

    \b
    Example:
      lazyci generate --diff .buildkite/pipeline.yml
      lazyci generate --write .buildkite/pipeline.yml
      lazyci generate --undo --write .buildkite/pipeline.yml
      gen > p; lazyci generate - < p > q || cp p q; buildkite-agent pipeline upload q
    """
    modes = [n for n, on in (("write", write), ("diff", diff), ("check", check)) if on]
    if len(modes) > 1:
        raise click.UsageError(f"--{modes[0]} and --{modes[1]} exclude each other")
    if "-" in files:
        if len(files) > 1 or modes:
            raise click.UsageError(
                "`-` stands alone, without other files, --write, --diff or --check"
            )
        _filter(config_path, undoing, strict)
        return
    if len(files) > 1 and not modes:
        raise click.UsageError("several files need --write, --diff or --check")
    _generate([(name, read_text(name)) for name in files], config_path, modes, undoing)


def _generate(
    texts: list[tuple[str, str]], config_path: Path | None, modes: list[str], undoing: bool
) -> None:
    settings = Settings() if undoing else settings_from(config_path)
    results = [] if undoing else rewrite_all(texts, settings)
    after = [undo(t, path=p) for p, t in texts] if undoing else [r.text for r in results]
    for (_, text), result in zip(texts, results, strict=False):
        _say_notes(text, result, settings)
    changed = [(p, old, new) for (p, old), new in zip(texts, after, strict=True) if old != new]
    if not modes:
        _print(after[0].encode())
    elif "diff" in modes:
        for path, old, new in changed:
            _print(_diff(path, old, new).encode())
    elif "write" in modes:
        _write(changed, results, settings, undoing)
    elif changed:
        raise WouldChangeError(
            f"{len(changed)} of {len(texts)} files would change: "
            + ", ".join(path for path, _, _ in changed),
            hint=f"Run `lazyci generate {'--undo ' if undoing else ''}--write` on them.",
        )


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _diff(path: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _write(
    changed: list[tuple[str, str, str]], results: list[Result], settings: Settings, undoing: bool
) -> None:
    for result in results:
        folder = Path(result.plan.path).resolve().parent
        root = repository_root(folder) or folder
        # What a pipeline needs is there before the pipeline that needs it.
        for kind, place in ((PLUGIN, settings.pull.plugin), (ACTION, settings.pull.action)):
            if place in result.plan.needs:
                for file in vendor(kind, root, settings):
                    click.echo(f"wrote {file}", err=True)
    for path, _, new in changed:
        write_whole(Path(path), new.encode())
        click.echo(f"wrote {path}", err=True)
    if changed:
        names = " ".join(path for path, _, _ in changed)
        way = "--write" if undoing else "--undo --write"
        click.echo(f"to take it back: lazyci generate {way} {names}", err=True)
    elif not changed:
        click.echo("nothing to change", err=True)


def _say_notes(text: str, result: Result, settings: Settings) -> None:
    path = result.plan.path
    if result.changed and undo(text, path=path) != text:
        click.echo(
            f"lazyci: {path}: its lazy steps are not what these settings give; they are replaced, "
            "with edits made in them (--diff shows it)",
            err=True,
        )
    for note in result.plan.all_notes:
        click.echo(f"lazyci: {result.plan.path}: {note}", err=True)
    root = repository_root(Path(result.plan.path))
    for kind, place in ((PLUGIN, settings.pull.plugin), (ACTION, settings.pull.action)):
        if root is not None and place in result.plan.needs and missing(kind, root, settings):
            click.echo(
                f"lazyci: {place} is not in this repository yet; "
                "`lazyci init` or --write puts it there",
                err=True,
            )


def _filter(config_path: Path | None, undoing: bool, strict: bool) -> None:
    data = sys.stdin.buffer.read()
    try:
        text = decode(data, "<stdin>")
        if undoing:
            text = undo(text, path="<stdin>")
        else:
            text = _rewrite_stream(text, settings_from(config_path))
        output = text.encode()
    # Everything: the pipeline must be uploaded whatever happens here.
    except Exception as error:
        if strict:
            raise
        what = str(error) if isinstance(error, LazyciError) else f"{type(error).__name__}: {error}"
        click.echo(f"lazyci: the pipeline is passed on unchanged: {what}", err=True)
        output = data
    _print(output)


def _rewrite_stream(text: str, settings: Settings) -> str:
    root = repository_root(Path.cwd())
    absent = []
    # A pipeline that names a missing plugin fails its jobs, and this one is uploaded at once.
    if root is not None and (root / ".buildkite").is_dir() and missing(PLUGIN, root, settings):
        absent.append(settings.pull.plugin)
    result = rewrite(text, settings, path="<stdin>", absent=absent)
    sites = result.plan.sites
    for site in sites:
        if "not in this checkout" in site.reason:
            click.echo(f"lazyci: {site.where}: {site.reason}", err=True)
    for note in result.plan.all_notes:
        click.echo(f"lazyci: {note}", err=True)
    lazy = sum(bool(site.change) for site in sites)
    click.echo(
        f"lazyci: {lazy} of {len(sites)} builds and pulls become lazy; `lazyci plan` shows each",
        err=True,
    )
    return result.text
