"""The names by which lazyci knows its own parts of a pipeline again."""

from __future__ import annotations

__all__ = [
    "ACTION_STEP",
    "CONVERT",
    "IMAGES",
    "OUTPUTS",
    "PLUGIN_NAME",
    "REPORT",
    "STEP_KEY",
    "WHEN",
    "is_step_name",
    "plugin_name",
]

CONVERT = "lazyci-convert-"
REPORT = "lazyci-report"
STEP_KEY = "lazyci-step-"
IMAGES = "lazyci-images-"
WHEN = "lazyci-when-"
OUTPUTS = (IMAGES, WHEN)
PLUGIN_NAME = "lazyci"
ACTION_STEP = "lazyci"


def plugin_name(spelled: str) -> str:
    """A Buildkite plugin's name without owner, version and `-buildkite-plugin`."""
    path = spelled.partition("#")[0].rstrip("/")
    return path.rpartition("/")[2].removesuffix(".git").removesuffix("-buildkite-plugin")


def is_step_name(name: str) -> bool:
    """Whether a step's key or a job's id is that of a step or job of lazyci's."""
    return name.startswith(CONVERT) or name == REPORT
