"""What a repository's pipelines build and pull: the beginning of its `lazyci.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lazyci.config import Settings
from lazyci.document import Document
from lazyci.pipeline.buildkite_steps import steps_of
from lazyci.pipeline.github_sites import Workflow
from lazyci.pipeline.model import Plan
from lazyci.pipeline.rewrite import rewrite
from lazyci.reader import parse
from lazyci.reference import Reference, split

__all__ = ["Discovery", "HiddenBuild", "discover", "pipeline_files"]

_PATTERNS = (
    ".buildkite/*.yml",
    ".buildkite/*.yaml",
    ".buildkite/*.json",
    "buildkite.yml",
    "buildkite.yaml",
    ".github/workflows/*.yml",
    ".github/workflows/*.yaml",
    ".github/actions/*/action.yml",
    ".github/actions/*/action.yaml",
)
# Tags that differ from build to build: such an image is built by this very pipeline.
_PER_BUILD = re.compile(
    r"BUILDKITE_(?:COMMIT|BUILD_ID|BUILD_NUMBER)|github\.(?:sha|run_id|run_number)|head\.sha"
)


@dataclass(frozen=True, slots=True)
class HiddenBuild:
    """A build that stands in a script, as guessed: the step or job, and the image it pushes."""

    step: str
    image: str


@dataclass(slots=True)
class Discovery:
    """What several pipelines hold.

    Attributes:
        plans: The plan of each, made without settings.
        repositories: Repositories that they push to, or that a hidden build pushes to.
        builds: Builds that stand in scripts, as guessed.
    """

    plans: list[Plan] = field(default_factory=list)
    repositories: list[str] = field(default_factory=list)
    builds: list[HiddenBuild] = field(default_factory=list)


def pipeline_files(root: Path) -> list[Path]:
    """Files below a repository's root that may be pipelines."""
    found = {path for pattern in _PATTERNS for path in root.glob(pattern) if path.is_file()}
    ours = root / ".github" / "actions" / "lazyci"
    return sorted(path for path in found if ours not in path.parents)


def discover(texts: Iterable[tuple[str, str]]) -> Discovery:
    """Read pipelines for what they build and pull.

    Args:
        texts: Path and text of each.

    Raises:
        InputError: One of them is no pipeline.
    """
    result = Discovery()
    guesses: list[tuple[HiddenBuild, Reference]] = []
    for path, text in texts:
        plan = rewrite(text, path=path).plan
        result.plans.append(plan)
        result.repositories += sorted(plan.published)
        waits = _waits(parse(text.removeprefix("\ufeff"), path), plan)
        for site in plan.sites:
            reference = split(site.image)
            if site.role != "pull" or site.change or not _PER_BUILD.search(reference.tag):
                continue
            result.repositories.append(reference.repository)
            for name in waits.get(site.where.partition(" / ")[0], [])[:1]:
                guesses.append((HiddenBuild(name, reference.raw), reference))
    result.repositories = list(dict.fromkeys(result.repositories))
    published = {name for plan in result.plans for name in plan.published}
    for guess, reference in guesses:
        hidden = reference.repository not in published
        if hidden and guess not in result.builds and not _mirror(reference, result.repositories):
            result.builds.append(guess)
    return result


def _mirror(reference: Reference, repositories: list[str]) -> bool:
    """Whether a repository is another one behind a pull-through cache, which takes no push."""
    paths = [other.partition("/")[2] for other in repositories if other != reference.repository]
    return any(path and reference.repository.endswith(f"/{path}") for path in paths)


def _waits(document: Document, plan: Plan) -> dict[str, list[str]]:
    """Names of steps or jobs to the names of those that they wait for."""
    if plan.system == "buildkite":
        return {step.where: step.depends_on for step in steps_of(document)}
    workflow = Workflow(document, Settings(), plan.system)
    return {job.name: job.needs for job in workflow.jobs}
