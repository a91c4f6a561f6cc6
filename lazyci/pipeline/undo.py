"""Take out of a pipeline what lazyci put in.

There is no record to lose: every injected item is known by its name, and each replaced value
stands in the item that replaced it. Lines edited by hand since then stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lazyci.document import Document, Node
from lazyci.pipeline.buildkite_steps import Plugin, plugins_of
from lazyci.pipeline.embedded import EmbeddedScript
from lazyci.pipeline.names import (
    ACTION_STEP,
    OUTPUTS,
    PLUGIN_NAME,
    STEP_KEY,
    is_step_name,
    plugin_name,
)
from lazyci.pipeline.splice import Edit, apply, remove_items
from lazyci.reader import parse

__all__ = ["MARK", "scalars_without_lazyci", "undo_document", "undo_text"]

# No file that lacks this word holds anything of lazyci's.
MARK = "lazyci"
_SCRIPTS = ("command", "commands", "script", "run")


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
    root = document.root.real
    buildkite = root.get("jobs") is None and root.get("runs") is None
    for node in _walk(document.root):
        ours = [index for index, item in enumerate(node.items) if _is_step(item)]
        edits += remove_items(document, node, ours)
        if node.kind == "mapping":
            edits += _entries(document, node)
            edits += _scripts(document, node, buildkite=buildkite)
    return apply(document.text, _merged(document.text, edits))


def scalars_without_lazyci(root: Node) -> list[str]:
    """Values of all scalars in the order of the text, those of lazyci's items left out."""
    found: list[str] = []
    stack = [root]
    while stack:
        node = stack.pop()
        if node.kind == "scalar":
            found.append(node.value)
        elif node.kind == "mapping":
            kept = [(k, v) for k, v in node.entries if not _is_entry(k, v)]
            stack += [part for entry in reversed(kept) for part in reversed(entry)]
        stack += [item for item in reversed(node.items) if not _is_item(item)]
    return found


def _walk(root: Node) -> Iterator[Node]:
    """Collections from the outside inwards; what lazyci put in goes whole, so it is not entered."""
    stack = [root]
    while stack:
        node = stack.pop()
        if node.kind in ("mapping", "sequence"):
            yield node
            stack += [item for item in node.items if not _is_step(item)]
            stack += [value for key, value in node.entries if not is_step_name(key.value)]


def _merged(text: str, edits: Iterable[Edit]) -> list[Edit]:
    """Edits with deletions that touch made one: both may claim the line break between them."""
    result: list[Edit] = []
    for edit in sorted(set(edits)):
        last = result[-1] if result else None
        if last is not None and not edit.text and not last.text and edit.start <= last.end:
            result[-1] = Edit(last.start, max(last.end, edit.end), "")
        else:
            result.append(edit)
    last = result[-1] if result else None
    if last is not None and last.end == len(text) and not (last.text or text.endswith("\n")):
        # No line break ends the file, so none ended what stood there before.
        result[-1] = Edit(len(text[: last.start].rstrip("\r\n")), last.end, "")
    return result


def _is_step(item: Node) -> bool:
    """A Buildkite step of lazyci's, or the step that calls its action."""
    if item.kind != "mapping":
        return False
    return is_step_name(item.text("key")) or (
        item.text("id") == ACTION_STEP and MARK in item.text("uses")
    )


def _is_plugin(item: Node) -> bool:
    if item.kind != "mapping" or len(item.entries) != 1:
        return False
    (name, config) = item.entries[0]
    ours = plugin_name(name.value) == PLUGIN_NAME and config.kind == "mapping"
    return ours and config.own("image") is not None


def _is_dependency(item: Node) -> bool:
    return is_step_name(item.value if item.kind == "scalar" else item.text("step"))


def _is_item(item: Node) -> bool:
    return _is_step(item) or _is_plugin(item) or _is_dependency(item)


def _is_entry(key: Node, value: Node) -> bool:
    return (
        is_step_name(key.value)
        or key.value.startswith(OUTPUTS)
        or (key.value == "key" and value.value.startswith(STEP_KEY))
        or (key.value == "skip-pull" and value.is_true)
        or (key.value == "outputs" and value.kind == "mapping" and _all_ours(value))
    )


def _all_ours(outputs: Node) -> bool:
    names = [key.value for key, _ in outputs.entries]
    return bool(names) and all(name.startswith(OUTPUTS) for name in names)


def _entries(document: Document, node: Node) -> Iterator[Edit]:
    for index, (key, value) in enumerate(node.entries):
        name = key.value
        if name == "jobs" and value.kind == "mapping":
            ours = [i for i, (job, _) in enumerate(value.entries) if is_step_name(job.value)]
            yield from remove_items(document, value, ours)
        elif name == "key" and value.value.startswith(STEP_KEY) and index:
            # As the first key it cannot be lazyci's, which puts it below another.
            yield from remove_items(document, node, [index])
        elif name == "outputs" and value.kind == "mapping":
            if _all_ours(value):
                yield from remove_items(document, node, [index])
            else:
                ours = [i for i, (o, _) in enumerate(value.entries) if o.value.startswith(OUTPUTS)]
                yield from remove_items(document, value, ours)
        elif name in ("depends_on", "needs") and value.kind == "sequence":
            yield from _dependencies(document, value)
        elif name == "plugins" and value.kind == "sequence":
            yield from _plugins(document, node)


def _dependencies(document: Document, value: Node) -> Iterator[Edit]:
    found = [index for index, item in enumerate(value.items) if _is_dependency(item)]
    if found and found[0] == 0 and value.flow and len(value.items) == len(found) + 1:
        # lazyci's stand first only where a lone name became a list.
        last = value.items[-1]
        yield Edit(value.start, last.start, "")
        yield Edit(last.end, value.end, "")
    else:
        yield from remove_items(document, value, found)


def _plugins(document: Document, step: Node) -> Iterator[Edit]:
    plugins = plugins_of(step)
    ours = [plugin for plugin in plugins if plugin.name == PLUGIN_NAME and _has_image(plugin)]
    if not ours:
        return
    yield from remove_items(document, ours[0].holder, [plugin.index for plugin in ours])
    for plugin in ours:
        entry = plugin.config.own("always-pull") if plugin.config is not None else None
        served = next((other for other in plugins[plugins.index(plugin) :] if _pulls(other)), None)
        if entry is not None and served is not None:
            raw = document.text[entry[1].start : entry[1].end]
            yield from _restore(document, served, raw)


def _has_image(plugin: Plugin) -> bool:
    return plugin.config is not None and plugin.config.own("image") is not None


def _pulls(plugin: Plugin) -> bool:
    return plugin.name in ("docker", "docker-compose") and not plugin.local


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


def _scripts(document: Document, node: Node, *, buildkite: bool) -> Iterator[Edit]:
    for key, value in node.entries:
        if key.value not in _SCRIPTS or value.kind == "alias":
            continue
        nodes = value.strings()
        if not any("lazyci pull " in scalar.value for scalar in nodes):
            continue
        embedded = EmbeddedScript(document, nodes, buildkite=buildkite)
        for start, end, inner, stop in embedded.script.lazy:
            cuts = (embedded.cut(start, inner), embedded.cut(stop, end))
            yield from (cut for cut in cuts if cut is not None)
