"""Buildkite pipelines: the sites in their steps."""

from __future__ import annotations

import re

from lazyci.config import Settings
from lazyci.document import Document
from lazyci.pipeline import buildkite_plugins as plugins
from lazyci.pipeline.buildkite_steps import COMMAND_KEYS, Step, steps_of
from lazyci.pipeline.embedded import EmbeddedScript
from lazyci.pipeline.scripts import MAX_REFERENCE, Find, find_in_script, named_builds
from lazyci.pipeline.shell import Part, Unknown, Variable

__all__ = ["Pipeline"]

_UPLOAD_DEFAULT = re.compile(r"\$\{\w+:?-[^{}$\"`\\]*\}\Z")
# What the agent sets to something else in each job.
_OF_THE_JOB = re.compile(
    r"BUILDKITE_(?:JOB_ID|STEP_\w+|LABEL|COMMAND|RETRY_\w+|AGENT_\w+|PARALLEL_\w+|TIMEOUT|GROUP_\w+)\Z"
)


class Pipeline:
    """A Buildkite pipeline.

    Args:
        document: Its text.
        settings: The user's settings.

    Attributes:
        steps: Its command steps, in the order of the text.
        by_key: Those that have a key.
        notes: What the user should know.
        unknown_builds: What `builds` of the settings names and is not here.
    """

    def __init__(self, document: Document, settings: Settings) -> None:
        self.document = document
        self.settings = settings
        self.steps = sorted(steps_of(document), key=lambda step: step.node.start)
        self.by_key = {step.key: step for step in self.steps if step.key}
        self.notes: list[str] = []
        self.unknown_builds: set[str] = set()

    def find(self) -> list[Find[Step]]:
        """All sites, step by step."""
        finds: list[Find[Step]] = []
        for step in self.steps:
            finds += plugins.find_plugins(self.document, self.settings, step, step.plugins)
            finds += self._shell(step)
        finds += self._hidden_builds()
        plugins.resolve_compose(finds)
        return finds

    def _shell(self, step: Step) -> list[Find[Step]]:
        nodes = []
        for key in COMMAND_KEYS:
            node = step.node.get(key)
            if node is not None and node.kind == "mapping":
                node = node.first(*COMMAND_KEYS)
            if node is not None:
                nodes += node.strings()
        if not nodes:
            return []
        embedded = EmbeddedScript(self.document, nodes, buildkite=True)
        finds = find_in_script(
            embedded,
            step,
            lambda parts, script: self._resolve(parts, script, step),
            self.settings.pull.wait,
        )
        inside = next((p.name for p in step.plugins if p.name in ("docker", "docker-compose")), "")
        for find in finds:
            if inside and find.role == "pull" and not find.problem:
                find.problem = f"it runs inside the container of the {inside} plugin"
        return finds

    def _resolve(
        self, parts: tuple[Part, ...], script: EmbeddedScript, step: Step, depth: int = 0
    ) -> str | None:
        """A word as a reference that means the same in another step of this pipeline."""
        known = script.script.variables
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
            elif isinstance(part, Unknown):
                name = re.match(r"\$\{(\w+)", part.raw)
                if (
                    text.endswith(("$", "\\"))
                    or not name
                    or name[1] in known
                    or not _UPLOAD_DEFAULT.match(part.raw)
                ):
                    return None
                text += part.raw
            else:
                value = self._variable(part, script, step, depth)
                if value is None:
                    return None
                text += value
            if len(text) > MAX_REFERENCE:
                return None
        return text

    def _variable(
        self, part: Variable, script: EmbeddedScript, step: Step, depth: int
    ) -> str | None:
        known = script.script.variables
        if part.name in known:
            value = known[part.name]
            if value is None or depth > 20:
                return None
            return self._resolve(value, script, step, depth + 1)
        for holder in (step.node, self.document.root.real):
            env = holder.get("env")
            node = env.get(part.name) if env is not None else None
            if node is not None:
                # `$$` in a value is for the shell that reads the value, not for another one.
                known_value = node.kind == "scalar" and "$$" not in node.value
                return node.value if known_value else None
        # Agents set BUILDKITE_* in each job; any other `$X` is replaced when it is uploaded.
        at_run = part.raw.startswith(("$$", "\\$"))
        if at_run and not part.name.startswith("BUILDKITE_"):
            return None
        return None if at_run and _OF_THE_JOB.match(part.name) else part.raw

    def _hidden_builds(self) -> list[Find[Step]]:
        finds: list[Find[Step]] = []
        by_label = {step.where: step for step in self.steps}
        for build in self.settings.builds:
            step = self.by_key.get(build.step) or by_label.get(build.step)
            if step is None:
                self.unknown_builds.add(build.step)
                continue
            finds += named_builds(build, step.node.start, step)
        return finds
