"""An independent view of what lazyci added, for tests that must not trust `undo`."""

from __future__ import annotations

import re
from typing import Any

import yaml

_PULL = re.compile(
    r"(?:\( lazyci| \(lazyci) pull [^|;]*?(?:\|\| |>&2 \|\| true; )(.*?) ?\)", re.DOTALL
)
# Replaced on purpose, in settings that an anchor may share; tests of their own look at them.
_REPLACED = ("always-pull", "skip-pull")


def load(text: str) -> Any:
    """The data of a text. PyYAML takes two merge keys in one mapping, as the CI systems do."""
    return yaml.load(text.removeprefix("\ufeff"), Loader=yaml.CSafeLoader)


def meaning(text: str) -> Any:
    """What a CI system reads of a pipeline, lazyci's parts left out.

    The last line break of a text does not count: a block scalar that ended with its file gets one
    when a step follows.
    """
    data = load(text)
    if isinstance(data, dict):
        data = {k: data[k] for k in ("steps", "jobs", "runs", "env", "agents") if k in data}
    return _without(data)


def _without(value: Any) -> Any:
    if isinstance(value, list):
        return [_without(item) for item in value if not _is_ours(item)]
    if isinstance(value, dict):
        result = {key: _without(item) for key, item in value.items() if not _drops(key, item)}
        for key in ("depends_on", "needs"):
            if isinstance(result.get(key), str):
                result[key] = [result[key]]
        return {key: item for key, item in result.items() if item != {} or key != "outputs"}
    return _PULL.sub(r"\1", value).rstrip("\n") if isinstance(value, str) else value


def _drops(key: Any, item: Any) -> bool:
    return (
        str(key).startswith("lazyci-")
        or key in _REPLACED
        or (key == "key" and str(item).startswith("lazyci-step-"))
    )


def _is_ours(item: Any) -> bool:
    if isinstance(item, str):
        return item.startswith("lazyci-convert-")
    if not isinstance(item, dict):
        return False
    names = [item.get("key"), item.get("id"), item.get("step")]
    ours = ("lazyci-convert-", "lazyci-report")
    if any(str(name).startswith(ours) or name == "lazyci" for name in names):
        return True
    return len(item) == 1 and str(next(iter(item))).endswith("/lazyci")
