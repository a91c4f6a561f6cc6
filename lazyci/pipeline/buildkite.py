"""Buildkite pipelines: what becomes of their sites, and the edits."""

from __future__ import annotations

from collections.abc import Iterable

from lazyci.config import Settings
from lazyci.data import to_data
from lazyci.document import Document
from lazyci.pipeline import buildkite_plugins as plugins
from lazyci.pipeline.buildkite_sites import Pipeline
from lazyci.pipeline.buildkite_steps import Step, logs_in
from lazyci.pipeline.convert import command_for, reads_matrix
from lazyci.pipeline.model import Conversion, Plan
from lazyci.pipeline.names import STEP_KEY
from lazyci.pipeline.planner import LEFT_TO_AGENT, LEFT_TO_POD, Planner, ancestors
from lazyci.pipeline.render import render
from lazyci.pipeline.scripts import Find, is_quotable
from lazyci.pipeline.splice import Edit, insert_before
from lazyci.reference import Reference

__all__ = ["plan_buildkite"]


def plan_buildkite(document: Document, settings: Settings, plan: Plan, published: set[str]) -> None:
    """Fill a plan for a Buildkite pipeline.

    Args:
        document: The pipeline.
        settings: The user's settings.
        plan: The plan to fill.
        published: Repositories that builds in other files push to.
    """
    _Planner(document, settings, plan, published).fill()


class _Planner(Planner[Step]):
    def __init__(
        self, document: Document, settings: Settings, plan: Plan, published: set[str]
    ) -> None:
        self.pipeline = Pipeline(document, settings)
        super().__init__(document, settings, plan, published, self.pipeline.by_key)
        # Keys for steps that had none.
        self.new_keys: dict[int, str] = {}
        # Conversions in place that a step waits for.
        self.waiting: dict[int, tuple[Step, list[str]]] = {}
        # Keys of the steps whose pulls are lazy.
        self.pulling: list[str] = []

    def fill(self) -> None:
        finds = self.pipeline.find()
        # Which repositories the builds push to must be known before the first pull is judged.
        for find in finds:
            if find.role == "build" and find.reference is not None:
                known = self.selection.local if find.problem else self.plan.published
                known.add(find.reference.text if find.problem else find.reference.repository)
        self.selection.published |= self.plan.published
        shared = plugins.shared_pull_settings(finds, self.selection)
        for find in sorted(finds, key=lambda find: find.offset):
            if find.role == "build":
                self.build(find)
        for find in finds:
            if find.role == "pull":
                self.pull(find, shared)
        self.append_steps()
        self.plan.notes += self.pipeline.notes
        self.plan.unknown_builds |= self.pipeline.unknown_builds
        self.plan.sites.sort(key=lambda site: (site.line, site.column))

    # Deciding

    def build(self, find: Find[Step]) -> None:
        step, reference = find.owner, find.reference
        problem = find.problem
        if reference is not None:
            problem = problem or self.selection.refuse(reference, built=True)
            if not problem and not is_quotable(reference.raw):
                problem = "its reference holds characters that a shell would read"
        skip = step.node.get("skip")
        if not problem and skip is not None and to_data(skip):
            problem = "its step is skipped"
        key = step.key
        if not problem and not key and reference is not None:
            key = self.new_key(step, reference)
            problem = "" if key else "its step has no `key` and cannot be given one; give it one"
        if problem or reference is None:
            self.site(find, "", problem)
            return
        conversion = self.conversions.add(
            reference, reference.raw, key, find.platforms, step.condition
        )
        self.context(conversion, step)
        self.site(find, f"convert step {conversion.name} after it", "it publishes this image")

    def new_key(self, step: Step, reference: Reference) -> str:
        # The same step may hold several sites; it gets one key.
        if id(step) in self.new_keys:
            return self.new_keys[id(step)]
        if self.document.is_shared(step.node) or step.node.first("key", "id", "identifier"):
            return ""
        name = self.conversions.unique(f"{STEP_KEY}{reference.slug}")
        edit = insert_before(self.document, step.node, 1, f"key: {name}")
        if edit is None:
            return ""
        self.plan.edits.append(edit)
        self.new_keys[id(step)] = name
        return name

    def context(self, conversion: Conversion, step: Step) -> None:
        queue = self.settings.convert.queue
        agents = step.node.get("agents")
        branches = step.node.get("branches")
        matrix = step.node.get("matrix")
        changed = step.node.get("if_changed")
        login = self.settings.convert.credentials or plugins.credentials(step.plugins)
        if not login and logs_in(step.node):
            self.pipeline.notes.append(
                f"step {step.where} logs in by shell, which {conversion.name} does not: set "
                "`convert.credentials`, unless its agents are logged in"
            )
        context = {
            "agents": {"queue": queue} if queue else to_data(agents) if agents else None,
            "branches": _words(to_data(branches)) if branches else "",
            "if_changed": to_data(changed) if changed else None,
            "matrix": to_data(matrix) if matrix else None,
            "plugins": login,
        }
        if not conversion.context:
            conversion.context = context
            return
        # A second build of the image: what holds for one of them alone must not stop the step.
        first = conversion.context
        for key in ("branches", "if_changed"):
            first[key] = first[key] if first[key] == context[key] else None
        first["plugins"] = first["plugins"] + [x for x in login if x not in first["plugins"]]

    def pull(self, find: Find[Step], shared: dict[int, str]) -> None:
        reference = find.reference
        problem = find.problem
        if reference is not None and (not problem or find.edits is None):
            problem = self.selection.refuse(reference) or problem
        if reference is not None and not problem and self.settings.pulls == "agent":
            pod = find.means in plugins.POD_MEANS
            problem = LEFT_TO_POD if pod else LEFT_TO_AGENT
        if problem or reference is None:
            self.site(find, "", problem)
            return
        if find.means in plugins.POD_MEANS:
            self.pod(find, reference)
            return
        problem = shared.get(id(find), "")
        if "plugin" in find.means and self.settings.pull.plugin in self.plan.absent:
            problem = (
                f"{self.settings.pull.plugin} is not in this checkout; `lazyci init` writes it"
            )
        edits = find.edits() if find.edits and not problem else None
        if edits is None:
            self.site(find, "", problem or "its place in the text leaves no room for an edit")
            return
        self.plan.edits += edits
        if self.settings.report:
            # The report waits for it, and so needs its key.
            key = find.owner.key or self.new_key(find.owner, reference)
            self.pulling += [key] if key else []
        if "plugin" in find.means:
            self.plan.needs.add(self.settings.pull.plugin)
        self.site(find, find.change, "its image has a lazy variant")

    def pod(self, find: Find[Step], reference: Reference) -> None:
        """The kubelet pulls before any step runs: only the reference itself can be lazy."""
        if not self.selection.in_place(reference):
            self.site(
                find, "", "nothing runs before a pod's pull; `publish: in-place` can make it lazy"
            )
            return
        serving = self.conversions.serving(reference)
        if not serving:
            self.site(find, "", "published in place elsewhere; nothing to change here")
            return
        step = find.owner
        builds = {name for conversion in serving for name in conversion.builds}
        if not self.can_wait(step):
            self.site(
                find, "", "it must wait for the conversion: give its step a `depends_on` of its own"
            )
        elif step.key and step.key in self.dependencies_of(builds) | builds:
            self.site(find, "", "the build of its image waits for it")
        else:
            names = [conversion.name for conversion in serving]
            self.waiting.setdefault(id(step), (step, []))[1].extend(names)
            self.site(find, f"waits for {names[0]}", "the image is converted in place")

    def dependencies_of(self, keys: Iterable[str]) -> set[str]:
        """Keys of all steps that these wait for by `depends_on`."""
        by_key = self.pipeline.by_key
        return ancestors(keys, lambda key: by_key[key].depends_on if key in by_key else ())

    def can_wait(self, step: Step) -> bool:
        # Without a list of its own the step waits by its place, which an explicit one would undo.
        value = self.own_value(step.node, "depends_on")
        if value is None:
            return False
        lone = value.kind == "scalar" and value.value not in ("", "~", "null")
        return bool(value.items) or (lone and value.style not in ("|", ">"))

    def wait_for(self, step: Step, names: list[str]) -> list[Edit]:
        """Add conversions to a step's `depends_on`; undo knows them by their names.

        A lone scalar becomes a list with lazyci's entries first; in a list they come last. So undo
        can tell which it was.
        """
        value = self.own_value(step.node, "depends_on")
        if value is None:
            return []
        if value.kind == "scalar":
            quote = '"' if self.document.is_json else ""
            raw = self.document.text[value.start : value.end]
            ours = (
                f"{{{quote}step{quote}: {quote}{name}{quote}, {quote}allow_failure{quote}: true}}"
                for name in names
            )
            return [Edit(value.start, value.end, f"[{', '.join([*ours, raw])}]")]
        blocks = (f"- {{step: {name}, allow_failure: true}}" for name in names)
        return self.appended(value, blocks)

    # Adding

    def append_steps(self) -> None:
        root = self.document.root.real
        steps = root if root.kind == "sequence" else root.get("steps")
        if steps is None:
            return
        templates = self.settings.templates
        for step, names in self.waiting.values():
            self.plan.edits += self.wait_for(step, list(dict.fromkeys(names)))
        for conversion in self.conversions.all:
            context = conversion.context
            if not reads_matrix([conversion.images, context["agents"], context["plugins"]]):
                context["matrix"] = None
            block = render(
                "buildkite/convert-step.yml.j2",
                templates,
                condition=conversion.condition,
                command=command_for(conversion, self.settings, conversion.images, "$$"),
                timeout_minutes=self.settings.convert.timeout_minutes,
                **conversion.template_context(),
            )
            self.append(steps, block)
        self.plan.conversions = self.conversions.all
        after = [*self.pulling, *(conversion.name for conversion in self.conversions.all)]
        if self.settings.report and after:
            queue = self.settings.convert.queue
            agents = {"queue": queue} if queue else None
            block = render(
                "buildkite/report-step.yml.j2",
                templates,
                agents=agents,
                after=list(dict.fromkeys(after)),
            )
            self.append(steps, block)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
