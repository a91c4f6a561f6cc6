"""`lazyci agent`: the files that make an agent load images lazily."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lazyci.agent.setup import Change, Plan, Return

__all__ = ["agent"]

_POWERS = " kmgt"
_ECR = re.compile(r"\d{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?")


def _size(ctx: Any, param: Any, value: str) -> int:
    found = re.fullmatch(r"(\d+) ?([kmgt]?)(i?)b?", value.lower())
    if not found or (found[3] and not found[2]):
        raise click.BadParameter(f"{value!r} is no size, such as 200GB")
    power = _POWERS.index(found[2] or " ")
    return int(found[1]) * int((1024 if found[3] else 1000) ** power)


def _registries(ctx: Any, param: Any, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _ECR.fullmatch(value):
            raise click.BadParameter(f"{value!r} is not ACCOUNT.dkr.ecr.REGION.amazonaws.com")
    return values


@click.group()
def agent() -> None:
    """The agent: what makes it load images lazily.

    \b
    Example:
      lazyci agent setup --format nydus --engine docker
    """


@agent.command()
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["nydus", "estargz"]),
    default="nydus",
    show_default=True,
    help="Image format that is loaded lazily.",
)
@click.option(
    "--engine",
    type=click.Choice(["docker", "containerd"]),
    default="docker",
    show_default=True,
    help="What pulls and runs images.",
)
@click.option("--apply", "applying", is_flag=True, help="Write; without it, only show the plan.")
@click.option("--print", "printing", is_flag=True, help="Print a shell script that writes it.")
@click.option("--undo", "undoing", is_flag=True, help="Take everything back; with --apply.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    metavar="DIR",
    help="Folder that all paths lie below, such as an image being made.",
)
@click.option(
    "--systemd/--no-systemd",
    default=True,
    show_default=True,
    help="A unit that starts the snapshotter, or the commands that do.",
)
@click.option("--data-root", default="", metavar="DIR", help="Folder for state and cache.")
@click.option(
    "--cache-size", callback=_size, default="0", metavar="SIZE", help="Limit of the cache: 200GB."
)
@click.option("--containerd-version", default="", metavar="VERSION", help="Instead of asking it.")
@click.option(
    "--ecr",
    multiple=True,
    callback=_registries,
    metavar="REGISTRY",
    help="Registry of ECR whose credentials a helper gives; may repeat.",
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def setup(
    image_format: str,
    engine: str,
    applying: bool,
    printing: bool,
    undoing: bool,
    root: Path,
    systemd: bool,
    data_root: str,
    cache_size: int,
    containerd_version: str,
    ecr: tuple[str, ...],
    output: str,
) -> None:
    """Make this agent load images lazily.

    Shows each file with what changes in it and why, what to restart, and how to take it back.
    Files that are there are merged: what lazyci does not set stays as it is. Doing it twice
    changes nothing.

    \b
    Example:
      lazyci agent setup --format nydus --engine docker
      lazyci agent setup --format nydus --engine docker --apply
      lazyci agent setup --undo --apply
    """
    from lazyci.agent.setup import Host, Options, apply, make_plan, script

    if printing and (applying or undoing):
        raise click.UsageError("--print stands without --apply and --undo")
    root = root.absolute()
    if undoing:
        _undo(root, applying, output)
        return
    options = Options(
        format="nydus" if image_format == "nydus" else "estargz",
        engine="docker" if engine == "docker" else "containerd",
        root=root,
        systemd=systemd,
        data_root=data_root,
        cache_size=cache_size,
        containerd=containerd_version,
        ecr=ecr,
        apply=applying,
        offline=printing,
    )
    plan = make_plan(options, Host.here(root))
    if printing:
        click.echo(script(plan), nl=False)
        for note in plan.notes:
            click.echo(f"lazyci: note: {note}", err=True)
        return
    if applying:
        apply(plan)
    if output == "json":
        click.echo(json.dumps({"applied": applying, **plan.to_json()}, indent=2))
    else:
        click.echo(_text(plan, applying))


def _undo(root: Path, applying: bool, output: str) -> None:
    from lazyci.agent.setup import plan_undo, undo

    returns = plan_undo(root)
    if applying:
        undo(root, returns)
    if output == "json":
        files = [{k: v for k, v in asdict(each).items() if k != "after"} for each in returns]
        click.echo(json.dumps({"undone": applying, "files": files}, indent=2))
    else:
        click.echo(_undo_text(returns, applying))


def _undo_text(returns: Sequence[Return], applied: bool) -> str:
    from lazyci.agent.setup import undo_steps

    if not returns:
        return "there is no setup to take back"
    lines = [
        f"{each.state:<10} {each.path}" + (f": {each.note}" if each.note else "")
        for each in returns
    ]
    units = [Path(each.path).name for each in returns if each.path.endswith(".service")]
    if applied:
        lines += ["to restart:", *(f"  {command}" for command in undo_steps(units))]
    else:
        lines.append("nothing was changed; --apply takes it back")
    return "\n".join(lines)


def _text(plan: Plan, applied: bool) -> str:
    lines = []
    for change in plan.changes:
        lines.append(f"{change.state:<10} {change.path}  {change.file.reason}")
        lines += _why(change) if change.state != "unchanged" else []
    for note in plan.notes:
        lines.append(f"note: {note}")
    if not plan.pending:
        lines.append("nothing is to be done")
    for title, commands in (("restart", plan.restart), ("start", plan.start)):
        if commands:
            lines += [f"to {title}:", *(f"  {command}" for command in commands)]
    if plan.undo:
        lines.append(f"to take it back: {plan.undo}")
    if plan.pending and not applied:
        lines.append("nothing was written; --apply writes")
    return "\n".join(lines)


def _why(change: Change) -> list[str]:
    kept = {setting.key: value for setting, value in change.kept}
    touched = {each.key for each in change.touched}
    lines = []
    for setting in change.file.settings:
        if setting.key in kept:
            value = json.dumps(kept[setting.key])
            own = json.dumps(setting.value)
            lines.append(f"    {setting.name} = {value}  yours, kept; lazyci's is {own}")
        elif setting.key in touched and not setting.entries:
            lines.append(f"    {setting.name} = {json.dumps(setting.value)}  {setting.reason}")
        elif setting.key in touched:
            lines.append(f"    {setting.name}  {setting.reason}")
    diff = [f"  | {line}" for line in change.diff().splitlines()]
    return [*lines, *diff]
