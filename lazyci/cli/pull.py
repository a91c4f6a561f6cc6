"""`lazyci pull`: the pull that a pipeline's steps call."""

from __future__ import annotations

import os
import shutil
import subprocess

import click

__all__ = ["pull"]


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--wait",
    default="auto",
    metavar="SECONDS",
    help="Seconds to wait for a variant that is being made.",
)
@click.option("--if-missing", is_flag=True, help="Do nothing when the image is there already.")
@click.argument("arguments", nargs=-1, required=True, metavar="[DOCKER OPTIONS] REF")
def pull(wait: str, if_missing: bool, arguments: tuple[str, ...]) -> None:
    """Pull an image.

    This version has no lazy pull: the regular pull serves every image. Further options, standard
    output and the exit code are those of `docker pull`.

    \b
    Example:
      lazyci pull registry.example/app:1.0
    """
    del wait
    docker = shutil.which("docker")
    if docker is None:
        click.echo("lazyci: docker is not on the PATH, so nothing can be pulled", err=True)
        raise SystemExit(127)
    if if_missing and _is_there(docker, arguments[-1]):
        return
    click.echo("lazyci: regular pull", err=True)
    # The process becomes docker: its signals, output and exit code need no copying.
    os.execv(docker, ["docker", "pull", *arguments])  # noqa: S606


def _is_there(docker: str, image: str) -> bool:
    inspect = [docker, "image", "inspect", "--format", "{{.Id}}", image]
    return subprocess.run(inspect, capture_output=True, check=False).returncode == 0  # noqa: S603
