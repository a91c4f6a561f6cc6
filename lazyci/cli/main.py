"""`lazyci` itself: its commands, and how errors are told."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from lazyci import __version__
from lazyci.errors import InternalError, LazyciError

__all__ = ["main"]

# The modules, with the line that `lazyci --help` shows, so that help loads none of them.
_COMMANDS = {
    "init": "Write lazyci.yaml for this repository.",
    "plan": "Show each build and pull in pipelines, and what would change.",
    "generate": "Print pipelines again with lazy steps.",
    "convert": "Make the lazy variant of an image in the registry.",
    "inspect": "Show what an image or its lazy variant is made of.",
    "verify": "Check that a lazy variant is the same file system as its original.",
    "prune": "Remove lazy variants and records that nothing needs any more.",
    "pull": "Pull an image.",
    "agent": "The files that make an agent load images lazily.",
    "config": "The schema of lazyci.yaml, and a check of the file.",
}


class _Commands(click.Group):
    # Whether this is `generate -`, which passes its input on whatever happens.
    filtering = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"lazyci.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, 1)
            if near:
                raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LazyciError as error:
            click.echo(f"lazyci: {error}", err=True)
            sys.exit(error.exit_code)
        except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):
            raise
        # What nobody foresaw must not look like a finding of `--check`, which is 1, too.
        except Exception as error:
            if os.environ.get("LAZYCI_TRACEBACK") or self.filtering:
                raise
            click.echo(f"lazyci: {type(error).__name__}: {error}", err=True)
            click.echo("  LAZYCI_TRACEBACK=1 shows where; please report it.", err=True)
            sys.exit(InternalError.exit_code)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        self.filtering = _is_filter(arguments)
        if not self.filtering:
            return super().main(arguments, *rest, **extra)
        try:
            return super().main(arguments, *rest, **{**extra, "standalone_mode": False})
        # Before the filter itself runs: a wrong option, a library that is missing or broken.
        except Exception as error:
            click.echo(f"lazyci: the pipeline is passed on unchanged: {error}", err=True)
            sys.stdout.buffer.write(sys.stdin.buffer.read())
            sys.stdout.buffer.flush()
            return None


def _is_filter(arguments: list[str]) -> bool:
    """Whether this is `generate -`, whose input is uploaded whatever happens."""
    others = {"--strict", "-h", "--help"} & set(arguments)
    return "generate" in arguments and "-" in arguments and not others


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lazyci")
def main() -> None:
    """Containers in CI start before they are downloaded.

    \b
    Example:
      lazyci init
      lazyci plan .buildkite/pipeline.yml
      lazyci generate --write .buildkite/pipeline.yml
    """
