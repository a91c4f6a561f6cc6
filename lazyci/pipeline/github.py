"""GitHub workflows and composite actions: what becomes of their sites, and the edits."""

from __future__ import annotations

from collections.abc import Iterable

from lazyci.config import Settings
from lazyci.document import Document
from lazyci.pipeline import expressions as ex
from lazyci.pipeline.convert import command_for
from lazyci.pipeline.github_builds import is_checkout
from lazyci.pipeline.github_jobs import Handover
from lazyci.pipeline.github_sites import CONTAINER_MEANS, Job, Place, Workflow, hosted_runner
from lazyci.pipeline.model import Plan
from lazyci.pipeline.names import IMAGES
from lazyci.pipeline.planner import LEFT_TO_AGENT, LEFT_TO_POD, Planner, ancestors
from lazyci.pipeline.render import render
from lazyci.pipeline.scalar import is_plain_in_block, quoted
from lazyci.pipeline.scripts import Find
from lazyci.pipeline.splice import Edit, insert_before
from lazyci.reference import Reference, split

__all__ = ["plan_github"]

# A variable that is empty, as on pull requests from forks, means off.
_SWITCH = "${{ vars.LAZYCI == 'on' && 'on' || 'off' }}"


def plan_github(document: Document, settings: Settings, plan: Plan, published: set[str]) -> None:
    """Fill a plan for a workflow or an action; arguments as for `plan_buildkite`."""
    _Planner(document, settings, plan, published).fill()


class _Planner(Planner[Place]):
    def __init__(
        self, document: Document, settings: Settings, plan: Plan, published: set[str]
    ) -> None:
        self.workflow = Workflow(document, settings, plan.system)
        super().__init__(document, settings, plan, published, self.workflow.by_name)
        self.handover = Handover(self.workflow, settings)
        # Jobs that publish images, and where in a job the first lazy pull stands.
        switched = any(store.startswith("github:") for store in settings.switch)
        self.switch = _SWITCH if switched else ""
        self.building: set[str] = set()
        self.pulling: dict[str, int] = {}
        # Conversions in place that a job waits for.
        self.waiting: dict[str, list[str]] = {}

    def fill(self) -> None:
        finds = self.workflow.find()
        self.learn(finds)
        for find in finds:
            if find.role == "build":
                self.build(find)
        for find in finds:
            if find.role == "pull":
                self.pull(find)
        self.append_all()
        self.plan.notes += dict.fromkeys(self.workflow.notes)
        self.plan.unknown_builds |= self.workflow.unknown_builds
        self.plan.sites.sort(key=lambda site: (site.line, site.column))

    def learn(self, finds: list[Find[Place]]) -> None:
        """Which repositories the builds push to must be known before the first pull is judged."""
        for find in finds:
            if find.role != "build" or find.reference is None:
                continue
            if find.problem:
                self.selection.local.add(find.reference.text)
            else:
                self.building.add(find.owner.job.name)
                self.plan.published.update(self.workflow.repositories(find))
        self.selection.published |= self.plan.published

    # Deciding

    def build(self, find: Find[Place]) -> None:
        place, reference = find.owner, find.reference
        job = place.job
        problem = find.problem
        if reference is not None and not problem:
            refusals = [
                self.selection.refuse(
                    split(name) if name != reference.repository else reference, built=True
                )
                for name in self.workflow.repositories(find)
            ]
            problem = refusals[0] if all(refusals) else ""
        if not problem and not job.name:
            problem = "a composite action holds no jobs; name its build where it is used (`builds`)"
        image = condition = ""
        if not problem and reference is not None:
            image, problem = self.handover.portable(place, reference.raw, IMAGES)
        if not problem and image != (reference.raw if reference else ""):
            hidden = [name for name in self.workflow.repositories(find) if "secrets." in name]
            problem = "it reads a secret, and GitHub drops outputs that do" if hidden else ""
        if not problem:
            condition, problem = self.handover.condition(place)
        if problem or reference is None:
            self.handover.drop(place)
            self.site(find, "", problem or "its reference is only known at run time")
            return
        self.handover.keep(place)
        conversion = self.conversions.add(
            reference,
            image,
            job.name,
            find.platforms,
            condition,
            job.name if reference.slug == "image" else "",
        )
        for name in ex.jobs_read(f"{image} ${{{{ {condition} }}}}"):
            if name not in conversion.builds:
                conversion.builds.append(name)
        self.handover.fill(conversion, place)
        self.site(find, f"job {conversion.name} after it", "it publishes this image")

    def pull(self, find: Find[Place]) -> None:
        reference, problem = find.reference, find.problem
        if reference is not None and (not problem or find.edits is None):
            problem = self.refuse(reference) or problem
        if reference is not None and not problem and self.settings.pulls == "agent":
            early = find.means in CONTAINER_MEANS
            problem = LEFT_TO_POD if early else LEFT_TO_AGENT
        if problem or reference is None:
            self.site(find, "", problem)
            return
        if find.means in CONTAINER_MEANS:
            self.in_container(find, reference)
            return
        job = find.owner.job
        if job.node.get("container") is not None:
            self.site(find, "", "it runs inside the job's container, where lazyci is not")
            return
        edits = find.edits() if find.edits else None
        if edits is None:
            self.site(find, "", "its place in the text leaves no room for an edit")
            return
        if not self.prepare(find.owner) and self.switch:
            self.site(find, "", "nothing is checked out before it, so the switch cannot reach it")
            return
        self.plan.edits += edits
        self.site(find, find.change, "its image has a lazy variant")

    def refuse(self, reference: Reference) -> str:
        problem = self.selection.refuse(reference)
        # An output of a job that builds images names one of them.
        named = any(job in self.building for job in ex.jobs_read(reference.repository))
        return "" if named and not self.settings.images else problem

    def prepare(self, place: Place) -> bool:
        """Have the action stand before the first step of a job that pulls; False if it cannot."""
        job, action = place.job, self.settings.pull.action
        if not job.name or job.steps is None or self.document.is_shared(job.steps):
            return False
        before = list(job.steps.children())[: place.index]
        checked_out = any(map(is_checkout, before))
        if action.startswith("./") and not checked_out:
            self.workflow.notes.append(
                f"job {job.name} checks nothing out, so lazyci must be on its runner's PATH"
            )
            return False
        self.pulling[job.name] = min(place.index, self.pulling.get(job.name, place.index))
        return True

    def in_container(self, find: Find[Place], reference: Reference) -> None:
        """The runner pulls before any step runs: only the reference itself can be lazy."""
        runner = hosted_runner(find.owner.job.node)
        if runner:
            self.site(find, "", f"{runner} is GitHub's own runner, whose Docker cannot load lazily")
            return
        if not self.selection.in_place(reference):
            self.site(
                find,
                "",
                "the runner pulls it before any step; `publish: in-place` can make it lazy",
            )
            return
        serving = self.conversions.serving(reference)
        if not serving:
            self.site(find, "", "published in place elsewhere; nothing to change here")
            return
        job = find.owner.job
        builds = {name for conversion in serving for name in conversion.builds}
        if any(conversion.condition for conversion in serving):
            self.site(find, "", "its conversion has a condition, so waiting could skip this job")
        elif not builds <= self.needs_of([job.name]):
            # One that it does not wait for may be skipped, and would have it skipped, too.
            self.site(
                find, "", "it does not wait for all builds of its image: name them in `needs`"
            )
        elif job.name in self.needs_of(builds) | builds:
            self.site(find, "", "the build of its image waits for it")
        elif not self.can_wait(job):
            self.site(find, "", "its `needs` come from an anchor or are written unusually")
        else:
            names = [conversion.name for conversion in serving]
            self.waiting.setdefault(job.name, []).extend(names)
            self.site(find, f"waits for {names[0]}", "the image is converted in place")

    def needs_of(self, names: Iterable[str]) -> set[str]:
        """All jobs that these wait for."""
        by_name = self.workflow.by_name
        return ancestors(names, lambda name: by_name[name].needs if name in by_name else ())

    def can_wait(self, job: Job) -> bool:
        value = self.own_value(job.node, "needs")
        if value is None:
            return False
        return bool(value.items) or (
            value.kind == "scalar" and bool(value.value) and not value.style
        )

    def wait_for(self, job: Job, names: list[str]) -> list[Edit]:
        """Add conversions to a job's `needs`: first when it was a lone name, else last."""
        value = self.own_value(job.node, "needs")
        if value is None:
            return []
        if value.kind == "scalar":
            return [Edit(value.start, value.end, f"[{', '.join([*names, value.value])}]")]
        return self.appended(value, (f"- {name}" for name in names))

    # Adding

    def append_all(self) -> None:
        templates = self.settings.templates
        for name, index in self.pulling.items():
            block = render(
                "github/pull-step.yml.j2",
                templates,
                action=self.settings.pull.action,
                switch=self.switch,
            )
            job = self.workflow.by_name[name]
            edit = insert_before(self.document, job.steps, index, block) if job.steps else None
            if edit is not None:
                self.plan.edits.append(edit)
                self.plan.needs.add(self.settings.pull.action)
        for name, waits in self.waiting.items():
            unique = list(dict.fromkeys(waits))
            self.plan.edits += self.wait_for(self.workflow.by_name[name], unique)
        for name, outputs in self.handover.outputs.items():
            self.add_outputs(self.workflow.by_name[name], outputs)
        jobs = self.workflow.root.get("jobs")
        if jobs is None:
            return
        for conversion in self.conversions.all:
            lines = "\n".join(conversion.images)
            env = {"LAZYCI_IMAGES": lines if len(conversion.images) > 1 else conversion.images[0]}
            if self.switch:
                env["LAZYCI"] = self.switch
            block = render(
                "github/convert-job.yml.j2",
                templates,
                condition=Handover.condition_of(conversion),
                env=env,
                command=command_for(conversion, self.settings, ["$LAZYCI_IMAGES"]),
                timeout_minutes=self.settings.convert.timeout_minutes,
                **conversion.template_context(),
            )
            self.append(jobs, block)
        self.plan.conversions = self.conversions.all
        if self.settings.report and self.plan.edits:
            lazy = [*self.pulling, *(c.name for c in self.conversions.all)]
            runs_on = self.settings.convert.runs_on or "ubuntu-latest"
            if lazy:
                block = render(
                    "github/report-job.yml.j2",
                    templates,
                    jobs=lazy,
                    runs_on=runs_on,
                    called=self.workflow.is_called,
                )
                self.append(jobs, block)

    def add_outputs(self, job: Job, outputs: dict[str, str]) -> None:
        blocks = [f"{name}: {_in_block(value)}" for name, value in outputs.items()]
        existing = job.node.own("outputs")
        if existing is not None:
            self.plan.edits += self.appended(existing[1], blocks)
            return
        lines = "\n".join(f"  {block}" for block in blocks)
        edit = insert_before(self.document, job.node, 1, f"outputs:\n{lines}")
        if edit is not None:
            self.plan.edits.append(edit)


def _in_block(value: str) -> str:
    return value if is_plain_in_block(value) else quoted(value)
