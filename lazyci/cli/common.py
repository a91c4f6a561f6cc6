"""What several commands share: the settings option, and reading pipelines."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from lazyci.config import Settings, find_settings, load_settings
from lazyci.files import read_bytes
from lazyci.pipeline import Result, rewrite
from lazyci.reader import decode

__all__ = ["cache_folder", "config_option", "read_text", "rewrite_all", "settings_from"]

Function = TypeVar("Function", bound=Callable[..., Any])


def config_option(function: Function) -> Function:
    """The option that names the settings file."""
    return click.option(
        "--config",
        "config_path",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Settings to use; by default lazyci.yaml here or above, or none.",
    )(function)


def settings_from(path: Path | None) -> Settings:
    """The settings that a command works with."""
    found = path or find_settings(Path.cwd())
    return load_settings(found) if found is not None else Settings()


def read_text(path: str) -> str:
    """A pipeline's text."""
    return decode(read_bytes(path), path)


def rewrite_all(texts: Sequence[tuple[str, str]], settings: Settings) -> list[Result]:
    """Rewrite several files; a build in one makes its image known in all.

    Args:
        texts: Path and text of each.
        settings: The settings.
    """
    results = [rewrite(text, settings, path=path) for path, text in texts]
    published = {name for result in results for name in result.plan.published}
    if len(texts) < 2 or not published:
        return results
    again = [rewrite(text, settings, path=path, published=published) for path, text in texts]
    # A build named in the settings is missing only when no file has it.
    missing = set.intersection(*(result.plan.unknown_builds for result in again))
    for result in again:
        result.plan.unknown_builds &= missing
    return again


def cache_folder() -> Path:
    """Where lazyci keeps what it can make again: LAZYCI_CACHE, or `lazyci` in the user's cache."""
    chosen = os.environ.get("LAZYCI_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME", "")
    # An empty or relative XDG_CACHE_HOME counts as unset: so says its specification.
    base = Path(user_cache) if os.path.isabs(user_cache) else Path("~/.cache").expanduser()
    return base / "lazyci"
