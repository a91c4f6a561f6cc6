"""Take out of a pipeline what lazyci put in.

There is no record to lose: every injected item is known by its name, and each replaced value
stands in the item that replaced it. Lines edited by hand since then stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from lazyci.document import Document, Node, parse
from lazyci.pipeline.buildkite_plugins import Plugin, plugins_of
from lazyci.pipeline.embedded import EmbeddedScript
from lazyci.pipeline.splice import Edit, apply, remove_items

__all__ = ["MARK", "undo_document", "undo_text"]

# No file that lacks this word holds anything of lazyci's.
MARK = "lazyci"
_STEP_NAMES = ("lazyci-convert-", "lazyci-report")
_SCRIPTS = ("command", "commands", "script", "run")
_BUILD_KEY = "lazyci-build-"
_OUTPUTS = ("lazyci-images-", "lazyci-when-")


def undo_text(text: str, path: str = "<text>") -> str:
    """The text as it was before lazyci.

    Args:
        text: A pipeline, without a byte order mark.
        path: Its name, for messages.

    Raises:
        InputError: The text is not YAML.
    """
    return undo_document(parse(text, path)) if MARK in text else text


def undo_document(document: Document) -> str:
    """The document's text as it was before lazyci."""
    edits: list[Edit] = []
    seen: set[int] = set()
    stack = [document.root]
    while stack:
        node = stack.pop()
        if id(node) in seen or node.kind in ("alias", "scalar"):
            continue
        seen.add(id(node))
        # What lazyci put in goes whole; what stands in it needs no edits of its own.
        stack += [item for item in node.items if not _is_step(item)]
        stack += [value for key, value in node.entries if not key.value.startswith(_STEP_NAMES)]
        edits += _items(document, node)
        if node.kind == "mapping":
            edits += _entries(document, node)
            edits += _scripts(document, node)
    return apply(document.text, edits)


def _items(document: Document, node: Node) -> Iterator[Edit]:
    """Steps and plugins that are items of a sequence."""
    ours = [index for index, item in enumerate(node.items) if _is_step(item)]
    yield from remove_items(document, node, ours)


def _is_step(item: Node) -> bool:
    if item.kind != "mapping":
        return False
    if item.text("key").startswith(_STEP_NAMES):
        return True
    return item.text("id") == "lazyci" and bool(item.text("uses"))


def _entries(document: Document, node: Node) -> Iterator[Edit]:
    for index, (key, value) in enumerate(node.entries):
        name = key.value
        if name == "jobs" and value.kind == "mapping":
            ours = [
                i for i, (job, _) in enumerate(value.entries) if job.value.startswith(_STEP_NAMES)
            ]
            yield from remove_items(document, value, ours)
        elif name == "key" and value.value.startswith(_BUILD_KEY):
            yield from remove_items(document, node, [index])
        elif name == "outputs" and value.kind == "mapping":
            ours = [i for i, (o, _) in enumerate(value.entries) if o.value.startswith(_OUTPUTS)]
            if ours and len(ours) == len(value.entries) and not value.flow:
                yield from remove_items(document, node, [index])
            else:
                yield from remove_items(document, value, ours)
        elif name in ("depends_on", "needs") and value.kind == "sequence":
            yield from _dependencies(document, value)
        elif name == "plugins":
            yield from _plugins(document, node)


def _dependencies(document: Document, value: Node) -> Iterator[Edit]:
    def ours(item: Node) -> bool:
        name = item.value if item.kind == "scalar" else item.text("step")
        return name.startswith(_STEP_NAMES)

    found = [index for index, item in enumerate(value.items) if ours(item)]
    if found and found[0] == 0 and value.flow and len(value.items) == len(found) + 1:
        # lazyci's stand first only where a lone name became a list.
        last = value.items[-1]
        yield Edit(value.start, last.start, "")
        yield Edit(last.end, value.end, "")
    else:
        yield from remove_items(document, value, found)


def _plugins(document: Document, step: Node) -> Iterator[Edit]:
    plugins = plugins_of(step)
    ours = [plugin for plugin in plugins if plugin.name == MARK]
    if not ours:
        return
    yield from remove_items(document, ours[0].holder, [plugin.index for plugin in ours])
    for plugin in ours:
        entry = plugin.config.own("always-pull") if plugin.config is not None else None
        later = [other for other in plugins if other.index > plugin.index and other.name != MARK]
        served = next(
            (other for other in later if other.name in ("docker", "docker-compose")), None
        )
        if entry is not None and served is not None:
            raw = document.text[entry[1].start : entry[1].end]
            yield from _restore(document, served, raw)


def _restore(document: Document, plugin: Plugin, raw: str) -> Iterator[Edit]:
    """Give a plugin its own pull back."""
    if plugin.config is None:
        return
    if plugin.name == "docker":
        entry = plugin.config.effective().get("always-pull")
        if entry is not None and document.text[entry[1].start : entry[1].end] == "false":
            yield Edit(entry[1].start, entry[1].end, raw)
    for index, (key, value) in enumerate(plugin.config.entries):
        if plugin.name == "docker-compose" and key.value == "skip-pull" and value.is_true:
            yield from remove_items(document, plugin.config, [index])


def _scripts(document: Document, node: Node) -> Iterator[Edit]:
    for key, value in node.entries:
        if key.value not in _SCRIPTS:
            continue
        nodes = (
            [n for n in value.strings() if n is not value.target] if value.kind != "alias" else []
        )
        if not any("lazyci pull " in scalar.value for scalar in nodes):
            continue
        embedded = EmbeddedScript(document, nodes, buildkite=key.value != "run")
        for start, end, inner, stop in embedded.script.lazy:
            cuts = (embedded.cut(start, inner), embedded.cut(stop, end))
            yield from itertools.chain(cut for cut in cuts if cut is not None)
