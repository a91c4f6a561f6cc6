"""GitHub workflows and composite actions: jobs, steps, and the sites in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lazyci.config import Settings
from lazyci.document import Document, Node
from lazyci.pipeline import expressions as ex
from lazyci.pipeline.embedded import EmbeddedScript
from lazyci.pipeline.github_builds import ActionBuild, metadata_images, read_build, uses
from lazyci.pipeline.model import System
from lazyci.pipeline.scripts import MAX_REFERENCE, Find, find_in_script, named_builds
from lazyci.pipeline.shell import Part, Unknown
from lazyci.reference import split

__all__ = ["CONTAINER_MEANS", "Job", "Place", "Workflow", "hosted_runner"]

_SHELLS = re.compile(r"(?:/\S*/)?(?:ba|da|z)?sh(?:\s|\Z)")
# Actions that run a command of theirs in a shell, several times if need be.
_RETRY = ("nick-fields/retry@", "nick-invision/retry@")
_HOSTED = re.compile(r"(?:ubuntu|windows|macos)-[\w.-]+\Z")
# Sites that the runner pulls before any step.
CONTAINER_MEANS = ("container", "service", "docker:// step")


@dataclass(slots=True, eq=False)
class Job:
    """A job, or the steps of a composite action.

    Attributes:
        name: Its id; empty for a composite action.
        node: Its mapping.
        steps: The sequence of its steps, or None.
    """

    name: str
    node: Node
    steps: Node | None

    @property
    def where(self) -> str:
        return self.name or "action"

    @property
    def needs(self) -> list[str]:
        """Ids of the jobs that it names in `needs`."""
        node = self.node.get("needs")
        return [item.value for item in node.strings()] if node is not None else []


@dataclass(slots=True, eq=False)
class Place:
    """A step of a job, as the owner of a site.

    Attributes:
        job: The job.
        index: The step's place, or -1 for the job itself.
        step: The step, or None for the job itself.
        build: What its action builds, or None.
        outputs: Outputs that its build asks of the job, by their names.
    """

    job: Job
    index: int = -1
    step: Node | None = None
    build: ActionBuild | None = None
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        name = self.step.text("name", "id") if self.step is not None else ""
        return f"{self.job.where} / {name}" if name else self.job.where


def runner_labels(job: Node) -> list[str]:
    """The labels that a job asks its runner for; those of a matrix, when they come from one."""
    node = job.get("runs-on")
    if node is not None and node.kind == "mapping":
        node = node.get("labels")
    labels = [item.value for item in node.strings()] if node is not None else []
    found = re.fullmatch(r"\$\{\{\s*matrix\.([\w-]+)\s*\}\}", labels[0]) if labels else None
    strategy = job.get("strategy")
    matrix = strategy.get("matrix") if strategy is not None else None
    values = matrix.get(found[1]) if found and matrix is not None else None
    return [item.value for item in values.strings()] if values is not None else labels


def hosted_runner(job: Node) -> str:
    """The label of GitHub's own runner that a job asks for, or an empty text."""
    labels = runner_labels(job)
    return labels[0] if labels and all(map(_HOSTED.match, labels)) else ""


class Workflow:
    """A workflow, or a composite action.

    Args:
        document: Its text.
        settings: The user's settings.
        system: Which of the two it is.

    Attributes:
        root: Its root node.
        jobs: Its jobs; one without a name for an action.
        by_name: The jobs by their ids.
        notes: What the user should know.
        unknown_builds: What `builds` of the settings names and is not here.
    """

    def __init__(self, document: Document, settings: Settings, system: System) -> None:
        self.document = document
        self.settings = settings
        self.system = system
        self.root = document.root.real
        self.jobs = list(self._read_jobs())
        self.by_name = {job.name: job for job in self.jobs}
        self.notes: list[str] = []
        self.unknown_builds: set[str] = set()

    @property
    def is_called(self) -> bool:
        """Whether other workflows call this one."""
        events = self.root.get("on")
        if events is None:
            return False
        return any(n.value == "workflow_call" for n in events.strings()) or (
            "workflow_call" in events.effective()
        )

    def lookup(self, name: str, *holders: Node | None) -> str | None:
        """What the `env` of these, innermost first, or that of the workflow sets a variable to."""
        for holder in (*holders, self.root):
            env = holder.get("env") if holder is not None else None
            node = env.get(name) if env is not None else None
            if node is not None and node.kind == "scalar":
                return node.value
        return None

    def substitute(self, text: str, *holders: Node | None) -> str:
        """A text with `${{ env.X }}` put in; arguments as for `lookup`."""
        return ex.substitute_env(text, lambda name: self.lookup(name, *holders))

    def find(self) -> list[Find[Place]]:
        """All sites, in the order of the jobs."""
        finds: list[Find[Place]] = []
        for job in self.jobs:
            if job.node.text("uses"):
                self.notes.append(
                    f"job {job.name} calls {job.node.text('uses')}: that file holds its own sites"
                )
            finds += self._containers(job)
            for index, step in enumerate(job.steps.children() if job.steps is not None else ()):
                finds += self._step(Place(job, index, step))
        return [*finds, *self._hidden_builds()]

    def _read_jobs(self) -> Iterator[Job]:
        if self.system == "github-action":
            runs = self.root.get("runs")
            if runs is not None:
                yield Job("", runs, runs.get("steps"))
            return
        jobs = self.root.get("jobs")
        for name, (_, node) in (jobs.effective() if jobs is not None else {}).items():
            if node.real.kind == "mapping":
                yield Job(name, node.real, node.real.get("steps"))

    def _containers(self, job: Job) -> Iterator[Find[Place]]:
        container = job.node.get("container")
        if container is not None:
            image = container if container.kind == "scalar" else container.get("image")
            if image is not None and image.kind == "scalar" and image.value:
                yield self._container(job, image, "container")
        services = job.node.get("services")
        for _, value in (services.effective() if services is not None else {}).values():
            image = value.real.get("image")
            if image is not None and image.kind == "scalar" and image.value:
                yield self._container(job, image, "service")

    def _container(self, job: Job, image: Node, means: str) -> Find[Place]:
        reference = split(self.substitute(image.value.strip()))
        return Find("pull", image.start, Place(job), means, reference)

    def _step(self, place: Place) -> list[Find[Place]]:
        step = place.step
        if step is None or step.kind != "mapping":
            return []
        if uses(step).startswith("docker://"):
            entry = step.effective()["uses"][1].real
            reference = split(uses(step).removeprefix("docker://"))
            return [Find("pull", entry.start, place, "docker:// step", reference)]
        build = read_build(step)
        if build is not None:
            return self._action_build(place, build)
        options_of = step.get("with")
        retried = uses(step).lower().startswith(_RETRY) and options_of is not None
        run = options_of.get("command") if retried and options_of is not None else step.get("run")
        if run is None or run.kind != "scalar":
            return []
        embedded = EmbeddedScript(self.document, [run], buildkite=False)
        finds = find_in_script(
            embedded,
            place,
            lambda parts, script: self._resolve(parts, script, place),
            self.settings.pull.wait,
        )
        problem = self._foreign_shell(place)
        for find in finds:
            if problem and not find.problem:
                find.problem = problem
        return finds

    def _foreign_shell(self, place: Place) -> str:
        step, job = place.step, place.job
        options = step.get("with") if step is not None else None
        shell = step.text("shell") if step is not None else ""
        # An action that retries takes the shell among its inputs.
        shell = shell or (options.text("shell") if options is not None else "")
        for holder in (job.node, self.root):
            defaults = holder.get("defaults")
            run = defaults.get("run") if defaults is not None else None
            shell = shell or (run.text("shell") if run is not None else "")
        if shell and not _SHELLS.match(shell):
            return f"its shell is `{shell}`"
        windows = any("windows" in label.lower() for label in runner_labels(job.node))
        if not shell and windows:
            return "its shell is PowerShell, Windows' default"
        return ""

    def _action_build(self, place: Place, build: ActionBuild) -> list[Find[Place]]:
        place.build = build
        texts = [
            self.substitute(text, place.step, place.job.node) for text in build.references
        ] or [""]
        finds = []
        for text in texts:
            reference = split(text) if text else None
            if reference is not None and not reference.tag and "${{" not in text:
                reference = split(f"{text}:latest")
            finds.append(
                Find(
                    "build",
                    build.place.start,
                    place,
                    build.means,
                    reference,
                    build.problem,
                )
            )
        return finds

    def _resolve(
        self, parts: tuple[Part, ...], script: EmbeddedScript, place: Place, depth: int = 0
    ) -> str | None:
        """A word as a reference with expressions in place of variables."""
        known = script.script.variables
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            if isinstance(part, Unknown):
                return None
            value: str | None
            if part.name in known:
                inner = known[part.name]
                if inner is None or depth > 20:
                    return None
                value = self._resolve(inner, script, place, depth + 1)
            else:
                value = self.lookup(part.name, place.step, place.job.node)
                value = ex.from_shell(part.name) if value is None else value
            if value is None:
                return None
            text += value
            if len(text) > MAX_REFERENCE:
                return None
        return self.substitute(text, place.step, place.job.node)

    def _hidden_builds(self) -> Iterator[Find[Place]]:
        for build in self.settings.builds:
            job = self.by_name.get(build.step)
            if job is None:
                self.unknown_builds.add(build.step)
                continue
            yield from named_builds(build, job.node.start, Place(job))

    def repositories(self, find: Find[Place]) -> list[str]:
        """What a build publishes to; behind an expression, what metadata-action was given."""
        text = find.reference.text if find.reference else ""
        steps = find.owner.job.steps

        def by_id(name: str) -> Node | None:
            items = steps.children() if steps is not None else ()
            return next((item for item in items if item.text("id") == name), None)

        return metadata_images(text, by_id) or [find.reference.repository if find.reference else ""]
