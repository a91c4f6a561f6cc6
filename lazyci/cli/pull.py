"""`lazyci pull`: the pull that a pipeline's steps call."""

from __future__ import annotations

import click

__all__ = ["pull"]


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--wait",
    default="auto",
    metavar="SECONDS",
    help="Seconds to wait for a variant that is being made; auto (the default): as long as that"
    " beats the regular pull.",
)
@click.option("--if-missing", is_flag=True, help="Do nothing when the image is there already.")
@click.argument("arguments", nargs=-1, required=True, metavar="[DOCKER OPTIONS] REF")
def pull(wait: str, if_missing: bool, arguments: tuple[str, ...]) -> None:
    """Pull an image, lazily if that works here, else with the regular pull.

    Further options, standard output and the exit code are those of `docker pull`. What served,
    and why no more, is said on standard error and appended to the file LAZYCI_SAMPLES
    (~/.local/state/lazyci/samples.jsonl). LAZYCI=off makes every pull regular.

    \b
    Example:
      lazyci pull registry.example/app:1.0
    """
    from lazyci.agent.ladder import Pull
    from lazyci.agent.ladder import pull as climb
    from lazyci.errors import ToolError

    try:
        code = climb(Pull(arguments[-1], arguments[:-1], _seconds(wait), if_missing))
    except ToolError as error:
        click.echo(f"lazyci: {error.message}", err=True)
        # As shells say that a command is not there.
        raise SystemExit(127) from None
    raise SystemExit(code)


def _seconds(text: str) -> float | None:
    """A wrong number must not cost the job its pull."""
    try:
        return max(0.0, float(text))
    except ValueError:
        if text != "auto":
            click.echo(f"lazyci: --wait {text} is no number of seconds: auto", err=True)
        return None
