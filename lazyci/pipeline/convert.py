"""Convert steps: which builds share one, what it is called and what it runs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lazyci.config import Settings
from lazyci.pipeline.model import Conversion, Selection
from lazyci.pipeline.names import CONVERT
from lazyci.reference import Reference

__all__ = ["Conversions", "command_for", "reads_matrix"]

# Handed to the container by name, so that their values never stand on a command line.
_PASSED_ON = (
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAZYCI",
)
_MATRIX = re.compile(r"\{\{\s*matrix")


def command_for(
    conversion: Conversion, settings: Settings, references: Iterable[str], dollar: str = "$"
) -> str:
    """The shell line of a convert step.

    Args:
        conversion: What is converted.
        settings: The user's settings.
        references: The images as shell words without their quotes.
        dollar: How a dollar sign is written that the shell shall see.
    """
    words = ["lazyci", "convert", "--format", conversion.format]
    if conversion.in_place:
        words.append("--in-place")
    elif settings.tag_suffix != "-lazy":
        words += ["--tag-suffix", settings.tag_suffix]
    for platform in conversion.platforms:
        words += ["--platform", platform]
    words += [f'"{reference}"' for reference in references]
    if settings.convert.image:
        passed = [f"--env {name}" for name in (*_PASSED_ON, *conversion.context.get("env", ()))]
        words = [
            # As the agent's own user: only that one may read the credentials.
            'docker run --rm --user "$(id -u):$(id -g)" --env HOME=/tmp',
            f'--volume "{dollar}{{DOCKER_CONFIG:-{dollar}HOME/.docker}}:/docker-config:ro"',
            "--env DOCKER_CONFIG=/docker-config",
            *passed,
            settings.convert.image,
            *words,
        ]
    # A step that CI itself ends may hold or skip those that wait for it; this one fails in time.
    limit = f"timeout {settings.convert.timeout_minutes}m"
    return " ".join([limit, *words])


def reads_matrix(values: object) -> bool:
    """Whether something of a Buildkite step differs from one leg of its matrix to the next."""
    return bool(_MATRIX.search(str(values)))


class Conversions:
    """Collects builds into convert steps: one per image and platform set.

    Args:
        selection: Says how each image is converted.
        taken: Keys or job ids that are in use.
    """

    def __init__(self, selection: Selection, taken: Iterable[str]) -> None:
        self.selection = selection
        self.taken = set(taken)
        self.all: list[Conversion] = []
        self._by_image: dict[tuple[str, tuple[str, ...]], Conversion] = {}
        self._by_build: dict[tuple[str, str, bool, tuple[str, ...]], Conversion] = {}

    def add(
        self,
        reference: Reference,
        image: str,
        build: str,
        platforms: tuple[str, ...],
        condition: str,
        name: str = "",
    ) -> Conversion:
        """Add a build.

        Args:
            reference: The image.
            image: The same in the notation that the convert step needs.
            build: Key of the step or id of the job that pushes it.
            platforms: Platforms that are converted; all when empty.
            condition: When the build runs.
            name: What to call it when the reference has no name in it.

        Returns:
            The conversion that serves it, new or shared.
        """
        known = self._by_image.get((reference.text, platforms))
        if known is not None:
            if build not in known.sources:
                known.sources.append(build)
                known.builds.append(build)
            if known.condition != condition:
                # Either build may make the image, so neither's condition may stop the step.
                known.condition = ""
            return known
        format_, in_place = self.selection.format(reference), self.selection.in_place(reference)
        group = (build, format_, in_place, platforms)
        conversion = self._by_build.get(group)
        if conversion is None or conversion.condition != condition:
            unique = self.unique(f"{CONVERT}{name or reference.slug}")
            conversion = Conversion(
                unique, [], format_, in_place, platforms, [build], condition, [build]
            )
            self._by_build[group] = conversion
            self.all.append(conversion)
        conversion.images.append(image)
        self._by_image[(reference.text, platforms)] = conversion
        return conversion

    def unique(self, name: str) -> str:
        """A key or job id that nothing else has."""
        candidate, number = name, 2
        while candidate in self.taken:
            candidate, number = f"{name}-{number}", number + 1
        self.taken.add(candidate)
        return candidate

    def serving(self, reference: Reference) -> list[Conversion]:
        """Conversions of an image, whatever the platform."""
        return [c for (text, _), c in self._by_image.items() if text == reference.text]
