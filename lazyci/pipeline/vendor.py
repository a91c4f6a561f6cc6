"""Files that a repository needs so that its lazy steps run without fetching anything."""

from __future__ import annotations

from pathlib import Path

from lazyci.config import Settings
from lazyci.files import write_whole
from lazyci.pipeline.render import template_folder

__all__ = ["ACTION", "PLUGIN", "missing", "vendor"]

PLUGIN = "plugin"
ACTION = "action"


def _source(kind: str) -> Path:
    if kind == PLUGIN:
        return template_folder() / "buildkite" / "plugin"
    inside = template_folder() / "github" / "action"
    # In a checkout the action stands where other repositories use it.
    return inside if inside.is_dir() else template_folder().parent / ".github" / "actions" / "pull"


def _place(kind: str, settings: Settings) -> str:
    return settings.pull.plugin if kind == PLUGIN else settings.pull.action


def missing(kind: str, root: Path, settings: Settings) -> bool:
    """Whether a repository lacks the plugin or action that its settings name by a path."""
    place = _place(kind, settings)
    needed = "hooks/pre-command" if kind == PLUGIN else "action.yml"
    return place.startswith(".") and not (root / place / needed).is_file()


def vendor(kind: str, root: Path, settings: Settings) -> list[Path]:
    """Write the plugin or the action into a repository.

    Args:
        kind: `PLUGIN` or `ACTION`.
        root: The repository's root.
        settings: They say where it goes.

    Returns:
        The files that were written; none where they are up to date or not vendored.
    """
    place = _place(kind, settings)
    if not place.startswith("."):
        return []
    source = _source(kind)
    written = []
    for file in sorted(source.rglob("*")):
        if not file.is_file():
            continue
        target = root / place / file.relative_to(source)
        data = file.read_bytes()
        if not target.is_file() or target.read_bytes() != data:
            # Wheels do not keep permissions; hooks must be executable.
            write_whole(target, data, 0o755 if target.parent.name == "hooks" else 0o644)
            written.append(target)
    return written
