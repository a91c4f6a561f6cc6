"""`lazyci config`: the schema of lazyci.yaml, and a check of the file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lazyci.cli.common import config_option
from lazyci.config import find_settings, json_schema, load_settings
from lazyci.errors import ConfigError

__all__ = ["config"]


@click.group()
def config() -> None:
    """The schema of lazyci.yaml, and a check of the file.

    \b
    Example:
      lazyci config schema > lazyci.schema.json
      lazyci config check
    """


@config.command()
def schema() -> None:
    """Print the JSON Schema of lazyci.yaml.

    \b
    Example:
      lazyci config schema > lazyci.schema.json
    """
    click.echo(json.dumps(json_schema(), indent=2))


@config.command()
@config_option
def check(config_path: Path | None) -> None:
    """Check lazyci.yaml.

    \b
    Example:
      lazyci config check --config lazyci.yaml
    """
    path = config_path or find_settings(Path.cwd())
    if path is None:
        raise ConfigError("there is no lazyci.yaml here or above", hint="`lazyci init` writes one.")
    load_settings(path)
    click.echo(f"{path}: valid")
