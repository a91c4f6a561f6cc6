"""What lazyci saw in a pipeline and means to do: sites, conversions and the plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lazyci.config import ImageRule, Settings
from lazyci.pipeline.names import CONVERT
from lazyci.pipeline.splice import Edit
from lazyci.reference import Reference

__all__ = ["Conversion", "Plan", "Selection", "Site", "System"]

System = Literal["buildkite", "github-workflow", "github-action"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place that publishes (`build`) or pulls or runs (`pull`) an image.

    Attributes:
        role: `build` or `pull`.
        line: Line, counted from 1.
        column: Column, counted from 1.
        where: The step or job it belongs to.
        means: How it does it, such as `docker push` or `docker plugin`.
        image: The reference, as far as it can be told.
        change: What lazyci does there; empty when it is left alone.
        reason: Why.
    """

    role: Literal["build", "pull"]
    line: int
    column: int
    where: str
    means: str
    image: str
    change: str
    reason: str


@dataclass(slots=True)
class Conversion:
    """One convert step to be added: the images of one build, or of several that push the same.

    Attributes:
        name: Key of the Buildkite step, or id of the GitHub job.
        images: References, in the notation of the pipeline.
        format: Image format.
        in_place: Whether the variant is put under the reference itself.
        platforms: Platforms to convert; all of the image when empty.
        builds: The steps or jobs it waits for.
        sources: Those of them that push the images.
        condition: When it runs, in the pipeline's own notation; empty for always.
        context: What the template needs besides, by the system's own names.
    """

    name: str
    images: list[str]
    format: str
    in_place: bool
    platforms: tuple[str, ...]
    builds: list[str]
    condition: str = ""
    sources: list[str] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)

    def template_context(self) -> dict[str, Any]:
        """What the template of every system sees of it."""
        return {
            "name": self.name,
            "what": self.name.removeprefix(CONVERT),
            "images": self.images,
            "builds": self.builds[0] if len(self.builds) == 1 else self.builds,
            **self.context,
        }


@dataclass(slots=True)
class Plan:
    """The sites of one file and the edits that follow from them.

    Attributes:
        path: The file's name.
        system: `buildkite`, `github-workflow` or `github-action`.
        sites: What was found, in the order of the text.
        conversions: The convert steps to add.
        edits: What changes in the text.
        notes: What the user should know besides.
        published: Repositories that the file's builds push to.
        unknown_builds: Steps or jobs that `builds` of lazyci.yaml names and that are not here.
        needs: Plugins and actions that the changed pipeline expects in the repository.
        absent: Those that are known to be missing there.
    """

    path: str
    system: System
    sites: list[Site] = field(default_factory=list)
    conversions: list[Conversion] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    published: set[str] = field(default_factory=set)
    unknown_builds: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)
    absent: frozenset[str] = frozenset()

    @property
    def all_notes(self) -> list[str]:
        """The notes, those on builds that were not found included."""
        unknown = (
            f"lazyci.yaml names a build in `{n}`, which is not here"
            for n in sorted(self.unknown_builds)
        )
        return [*self.notes, *unknown]

    @property
    def changes(self) -> bool:
        """Whether anything would change."""
        return bool(self.edits)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data for programs."""
        return {
            "path": self.path,
            "system": self.system,
            "changes": self.changes,
            "sites": [asdict(site) for site in self.sites],
            "conversions": [
                {
                    "name": conversion.name,
                    "images": conversion.images,
                    "format": conversion.format,
                    "in_place": conversion.in_place,
                    "platforms": list(conversion.platforms),
                    "waits_for": conversion.builds,
                    "condition": conversion.condition,
                }
                for conversion in self.conversions
            ],
            "notes": self.all_notes,
            "needs": sorted(self.needs),
        }


class Selection:
    """Decides which images become lazy.

    Args:
        settings: The user's settings.
        published: Repositories that builds push to, here or in the other files given.

    Attributes:
        local: References that are built and not pushed.
    """

    def __init__(self, settings: Settings, published: Iterable[str]) -> None:
        self.settings = settings
        self.published = set(published)
        self.local: set[str] = set()

    def rule(self, reference: Reference) -> ImageRule | None:
        """The first rule that matches, or None."""
        for rule in self.settings.images:
            patterns = [rule.match] if isinstance(rule.match, str) else rule.match
            if any(map(reference.matches, patterns)):
                return None if any(map(reference.matches, rule.exclude)) else rule
        return None

    def refuse(self, reference: Reference, *, built: bool = False) -> str:
        """Why an image stays as it is, or an empty text when it becomes lazy.

        Args:
            reference: The image.
            built: Whether this is a build, which needs no other build to exist.
        """
        if reference.digest:
            return "pinned by digest, which names exactly the regular image"
        if reference.text in self.local and reference.repository not in self.published:
            return "built here and never pushed"
        if self.settings.images:
            return "" if self.rule(reference) else "outside the patterns of `images` in lazyci.yaml"
        if built or reference.repository in self.published:
            return ""
        return (
            "no build of it here; name it in lazyci.yaml (`builds`, or `images` if built elsewhere)"
        )

    def format(self, reference: Reference) -> str:
        """The format for an image."""
        rule = self.rule(reference)
        return (rule.format if rule else None) or self.settings.format

    def in_place(self, reference: Reference) -> bool:
        """Whether the variant of an image goes under its own tag."""
        rule = self.rule(reference)
        return ((rule.publish if rule else None) or self.settings.publish) == "in-place"
