"""`lazyci` itself: its commands, and how errors are told."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from lazyci import __version__
from lazyci.errors import LazyciError

__all__ = ["main"]

# The modules, with the line that `lazyci --help` shows, so that help loads none of them.
_COMMANDS = {
    "init": "Write lazyci.yaml for this repository.",
    "plan": "Show each build and pull in pipelines, and what would change.",
    "generate": "Print pipelines again with lazy steps.",
    "pull": "Pull an image.",
    "config": "The schema of lazyci.yaml, and a check of the file.",
}


class _Commands(click.Group):
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
        arguments = [*ctx._protected_args, *ctx.args]
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if arguments[:1] == ["generate"] and "-" in arguments and "--strict" not in arguments:
                # The pipeline is uploaded whatever happens to the filter, a wrong option included.
                click.echo(f"lazyci: the pipeline is passed on unchanged: {error}", err=True)
                sys.stdout.buffer.write(sys.stdin.buffer.read())
                return None
            raise
        except LazyciError as error:
            click.echo(f"lazyci: {error}", err=True)
            sys.exit(error.exit_code)


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
