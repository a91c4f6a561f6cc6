"""Buildkite pipelines: their command steps, and the plugins of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lazyci.data import to_data
from lazyci.document import Document, Node
from lazyci.pipeline.names import plugin_name

__all__ = ["COMMAND_KEYS", "LOGIN", "Plugin", "Step", "logs_in", "plugins_of", "steps_of"]

COMMAND_KEYS = ("command", "commands", "script")
_KEY = ("key", "id", "identifier")
# Plugins that log in to a registry or a cloud.
LOGIN = re.compile(
    r"(?:docker-login|ecr|aws-assume-role.*|gcp-workload-identity-federation|azure-login|"
    r"docker-login-gcr|gcr|azure-acr-login|vault-docker-login|oblt-google-auth)\Z"
)


@dataclass(slots=True, eq=False)
class Plugin:
    """One plugin of a step.

    Attributes:
        name: Its name without owner, version and `-buildkite-plugin`.
        version: What follows `#`, or an empty text.
        config: Its settings, or None.
        holder: The list (or mapping) of plugins.
        index: Its place in there.
        spelled: Its name as written.
        local: Whether it is a path in the repository.
        later_login: Whether a plugin after it logs in. Hooks of plugins in the repository, such as
            lazyci's, run after all others all the same.
    """

    name: str
    version: str
    config: Node | None
    holder: Node
    index: int
    spelled: str
    local: bool
    later_login: bool = False

    @property
    def data(self) -> dict[str, Any]:
        return {self.spelled: to_data(self.config) if self.config is not None else None}


def plugins_of(step: Node) -> list[Plugin]:
    """The plugins of a step: a list of names and mappings, or one mapping."""
    holder = step.get("plugins")
    if holder is None:
        return []
    found = []
    if holder.kind == "mapping":
        for index, (key, value) in enumerate(holder.entries):
            found.append(_plugin(key.value, value.real, holder, index))
    for index, item in enumerate(holder.items):
        node = item.real
        if node.kind == "scalar":
            found.append(_plugin(node.value, None, holder, index))
        for name, (_, value) in node.effective().items():
            found.append(_plugin(name, value.real, holder, index))
    login = False
    for plugin in reversed(found):
        plugin.later_login = login
        login = login or bool(LOGIN.match(plugin.name))
    return found


def _plugin(spelled: str, config: Node | None, holder: Node, index: int) -> Plugin:
    name, version = plugin_name(spelled), spelled.partition("#")[2]
    mapping = config if config is not None and config.kind == "mapping" else None
    return Plugin(name, version, mapping, holder, index, spelled, spelled.startswith((".", "/")))


@dataclass(slots=True, eq=False)
class Step:
    """A command step.

    Attributes:
        node: Its mapping.
        where: Its name for people.
        group: The group it stands in, or None.
        plugins: Its plugins.
    """

    node: Node
    where: str
    group: Node | None
    plugins: list[Plugin] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.node.text(*_KEY)

    @property
    def depends_on(self) -> list[str]:
        """Keys of the steps that it names in `depends_on`."""
        node = self.node.get("depends_on")
        if node is None:
            return []
        items = [item.text("step") for item in node.children() if item.kind == "mapping"]
        return [item.value for item in node.strings()] + items

    @property
    def condition(self) -> str:
        """Its `if`, joined with that of its group."""
        own = self.node.text("if").strip()
        outer = self.group.text("if").strip() if self.group else ""
        if self.node.get("branches") is not None:
            # Buildkite takes one of the two; the group's may be left out, as the step is soft.
            outer = ""
        # A comment (`//`) in a condition ends with its line.
        return f"({outer}\n) && ({own}\n)" if own and outer else own or outer


def steps_of(document: Document) -> Iterator[Step]:
    """The command steps that the pipeline runs, those in groups included, each once."""
    root = document.root.real
    steps = root if root.kind == "sequence" else root.get("steps")
    seen: set[int] = set()
    stack: list[tuple[Node | None, Node | None]] = [(steps, None)]
    count = 0
    while stack:
        sequence, group = stack.pop()
        if sequence is None or id(sequence) in seen:
            continue
        seen.add(id(sequence))
        for item in sequence.items:
            node = item.real
            count += 1
            if node.kind != "mapping" or id(node) in seen:
                continue
            if node.get("steps") is not None:
                stack.append((node.get("steps"), node))
                continue
            seen.add(id(node))
            where = node.text(*_KEY, "label", "name") or f"step {count}"
            yield Step(node, where, group, plugins_of(node))


def logs_in(step: Node) -> bool:
    """Whether a step's own commands log in to a registry."""
    nodes = [step.get(key) for key in COMMAND_KEYS]
    scripts = [node.value for found in nodes if found is not None for node in found.strings()]
    return any(re.search(r"\bdocker\s+login\b", script) for script in scripts)
