"""Builds in GitHub steps: what an action publishes, under which names, and when."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lazyci.document import Node
from lazyci.pipeline.expressions import EXPRESSION

__all__ = ["ActionBuild", "is_checkout", "is_login", "metadata_images", "read_build", "uses"]

_LOGIN = re.compile(
    r"(?i)(?:docker/login-action|aws-actions/(?:configure-aws-credentials|amazon-ecr-login)|"
    r"google-github-actions/(?:auth|setup-gcloud)|azure/(?:login|docker-login))(?:@|\Z)"
)
_STEP_TAGS = re.compile(r"steps\.([\w-]+)\.outputs\.(?:tags|json)")


@dataclass(slots=True)
class ActionBuild:
    """What an action builds.

    Attributes:
        means: The action.
        references: References, one a text; expressions may stand in them.
        push: The value of `push`, or what stands for it: a text that is `true`, `false` or an
            expression.
        problem: Why it has no convert step, or an empty text.
        place: The node to point at.
    """

    means: str
    place: Node
    references: list[str] = field(default_factory=list)
    push: str = "false"
    problem: str = ""


def uses(step: Node) -> str:
    """The action of a step, or an empty text."""
    return step.text("uses")


def is_checkout(step: Node) -> bool:
    """Whether a step puts this very repository into the working folder."""
    options = step.get("with")
    elsewhere = options is not None and (options.text("path") or options.text("repository"))
    return uses(step).startswith("actions/checkout@") and not elsewhere


def is_login(step: Node) -> bool:
    """Whether a step logs in to a registry or a cloud."""
    return bool(_LOGIN.match(uses(step)))


def read_build(step: Node) -> ActionBuild | None:
    """What a step's action builds, or None for any other step."""
    name = uses(step).partition("@")[0].lower()
    options = step.get("with")
    entry = step.effective().get("uses")
    if entry is None or name not in ("docker/build-push-action", "docker/bake-action"):
        return None
    build = ActionBuild(name, entry[1].real)
    if options is None:
        build.problem = "it pushes nothing"
        return build
    build.push = options.text("push").strip() or "false"
    if name == "docker/bake-action":
        _read_bake(build, options)
    else:
        _read_build_push(build, options)
    if not build.problem and build.push == "false":
        build.problem = "it pushes nothing"
    return build


def _read_bake(build: ActionBuild, options: Node) -> None:
    for line in options.text("set").splitlines():
        target, equals, value = line.strip().partition("=")
        if equals and target.endswith((".tags", ".tags+")):
            build.references.append(value.strip())
        if equals and target.endswith(".output") and "type=registry" in value:
            build.push = "true"
    if not build.references and build.push != "false":
        build.problem = "its images are named in a bake file; name them in lazyci.yaml (`builds`)"


def _read_build_push(build: ActionBuild, options: Node) -> None:
    build.references = list(_list(options.text("tags")))
    for output in options.text("outputs").splitlines():
        masked, values = _mask(output)
        fields = dict(part.strip().strip('"').partition("=")[::2] for part in _commas(masked))
        if fields.get("push-by-digest") == "true":
            build.problem = "it is pushed by digest; the merged manifest is what gets converted"
            return
        pushed = "true" if fields.get("type") == "registry" else fields.get("push", "")
        if pushed:
            build.push = _unmask(pushed, values)
            names = fields.get("name", "").strip('"').split(",")
            build.references += [_unmask(name, values) for name in names if name]
    if build.push != "false" and not build.references:
        build.problem = "it names no tag"


def _commas(text: str) -> list[str]:
    """Fields of a CSV line, quotes kept in place."""
    return re.findall(r'(?:[^,"]|"[^"]*")+', text)


def _mask(text: str) -> tuple[str, list[str]]:
    values: list[str] = []

    def keep(found: re.Match[str]) -> str:
        values.append(found.group())
        return f"\0{len(values) - 1}\0"

    return EXPRESSION.sub(keep, text), values


def _unmask(text: str, values: list[str]) -> str:
    return re.sub("\0(\\d+)\0", lambda found: values[int(found[1])], text)


def _list(text: str) -> Iterator[str]:
    """Entries of an input that takes a list: one a line, or between commas."""
    masked, values = _mask(text)
    for line in masked.splitlines():
        for item in line.split(","):
            if item.strip():
                yield _unmask(item.strip(), values)


def metadata_images(text: str, step_by_id: Callable[[str], Node | None]) -> list[str]:
    """Repositories behind `steps.X.outputs.tags` when X is docker/metadata-action."""
    found: list[str] = []
    for name in _STEP_TAGS.findall(text):
        step = step_by_id(name)
        if step is None or not uses(step).lower().startswith("docker/metadata-action"):
            continue
        options = step.get("with")
        for image in _list(options.text("images")) if options is not None else ():
            # `name=…,enable=…` is the long form; commas already parted it.
            image = image.removeprefix("name=")
            if "=" not in image:
                found.append(image)
    return found
