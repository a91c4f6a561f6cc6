"""Buildkite plugins that pull, build or log in.

What each plugin does is read from its own source: docker 5.13.0, docker-compose 5.14.0 and 4.16.0,
ecr 2.12.0, docker-login 3.0.0, agent-stack-k8s 0.47.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lazyci.config import Settings
from lazyci.document import Document, Node
from lazyci.pipeline.buildkite_steps import LOGIN, Plugin, Step
from lazyci.pipeline.model import Selection
from lazyci.pipeline.render import render
from lazyci.pipeline.scalar import quoted
from lazyci.pipeline.scripts import Find
from lazyci.pipeline.splice import Edit, append_item, insert_before
from lazyci.reference import split

__all__ = [
    "POD_MEANS",
    "credentials",
    "find_plugins",
    "resolve_compose",
    "shared_pull_settings",
]

POD_MEANS = ("kubernetes plugin", "image of the step")
_COMPOSE_RUN = "docker-compose plugin (run)"
# What the docker plugin itself takes for true.
_TRUE = ("true", "on", "1")


def credentials(plugins: list[Plugin]) -> list[dict[str, Any]]:
    """The plugins that log in, as they stand in the build's step."""
    return [plugin.data for plugin in plugins if LOGIN.match(plugin.name) and not plugin.local]


def find_plugins(
    document: Document, settings: Settings, step: Step, plugins: list[Plugin]
) -> Iterator[Find[Step]]:
    """Sites in a step's plugins and in its `image`."""
    image = step.node.get("image")
    if image is not None and image.kind == "scalar" and image.value:
        yield Find("pull", image.start, step, "image of the step", split(image.value))
    for plugin in plugins:
        if plugin.config is None or plugin.local:
            continue
        if plugin.name == "docker":
            yield from _docker(document, settings, step, plugin, plugin.config)
        elif plugin.name == "docker-compose":
            yield from _compose(document, settings, step, plugin, plugin.config)
        elif plugin.name == "kubernetes":
            for node in _pod_images(plugin.config):
                yield Find("pull", node.start, step, "kubernetes plugin", split(node.value))


def _pod_images(config: Node) -> Iterator[Node]:
    holders = [config.get("sidecars")]
    for key in ("podSpec", "podSpecPatch"):
        spec = config.get(key)
        if spec is not None:
            holders += [spec.get("containers"), spec.get("initContainers")]
    for holder in holders:
        for container in holder.children() if holder is not None else ():
            image = container.get("image")
            if image is not None and image.kind == "scalar" and image.value:
                yield image


def _docker(
    document: Document, settings: Settings, step: Step, plugin: Plugin, config: Node
) -> Iterator[Find[Step]]:
    image = config.get("image")
    if image is None or image.kind != "scalar" or not image.value:
        return
    reference = split(_interpolated(document, image.value))
    find = Find("pull", image.start, step, "docker plugin", reference)
    policy = config.effective().get("always-pull")
    always = policy is not None and policy[1].real.value.lower() in _TRUE
    find.problem = _docker_problem(document, settings, plugin, config, policy if always else None)
    find.pull_policy = policy[1] if policy is not None else None
    find.change = "lazyci plugin before it pulls"
    if always:
        find.change += "; always-pull becomes false"

    def edits() -> list[Edit] | None:
        raw = document.text[policy[1].start : policy[1].end] if policy and always else ""
        spelled = document.text[image.start : image.end]
        if "\n" in spelled or image.style in ("|", ">"):
            spelled = quoted(image.value)
        item = _item(settings, spelled, config.text("platform"), raw)
        insertion = insert_before(document, plugin.holder, plugin.index, item)
        if insertion is None:
            return None
        if not raw or policy is None:
            return [insertion]
        return [insertion, Edit(policy[1].start, policy[1].end, "false")]

    find.edits = edits
    yield find


def _docker_problem(
    document: Document,
    settings: Settings,
    plugin: Plugin,
    config: Node,
    policy: tuple[Node, Node] | None,
) -> str:
    """Why a docker plugin must stay as it is; `policy` is its always-pull when that is on."""
    if config.get("load") is not None:
        return "the image comes from a file (`load`)"
    if config.text("expand-image-vars").lower() in _TRUE:
        return "its image is only known at run time (`expand-image-vars`)"
    if policy is not None and (policy[1].kind == "alias" or document.is_shared(policy[1])):
        return "its always-pull is an anchor that other keys use"
    if policy is not None and policy[1].style in ("|", ">"):
        return "its always-pull is a block of text"
    return _no_room(plugin, settings)


def _no_room(plugin: Plugin, settings: Settings) -> str:
    """Why no plugin can be put before this one."""
    if plugin.holder.kind == "mapping":
        return "its plugins are one mapping; write them as a list"
    if plugin.later_login and not settings.pull.plugin.startswith("."):
        return "a plugin after it logs in, and plugins that are cloned run in their order"
    return ""


def _interpolated(document: Document, text: str) -> str:
    """A text with the pipeline's own `env` put in, as it is at upload."""
    env = document.root.real.get("env")

    def value(found: re.Match[str]) -> str:
        node = env.get(found[1] or found[2]) if env is not None else None
        return node.value if node is not None and node.kind == "scalar" else found.group()

    return re.sub(r"(?<!\$)\$(?:(\w+)|\{(\w+)\})", value, text)


def _item(settings: Settings, image: str, platform: str, always_pull: str) -> str:
    """The entry of lazyci's plugin; image and always-pull as they are spelled in YAML."""
    wait = settings.pull.wait
    return render(
        "buildkite/pull-plugin.yml.j2",
        settings.templates,
        plugin=settings.pull.plugin,
        image=image,
        platform=platform,
        always_pull=always_pull,
        wait="" if wait == "auto" else str(wait),
    )


def _compose(
    document: Document, settings: Settings, step: Step, plugin: Plugin, config: Node
) -> Iterator[Find[Step]]:
    for service, image, node in _pushed(config):
        find = Find(
            "build",
            node.start,
            step,
            f"docker-compose plugin ({service})",
            split(image) if image else None,
        )
        if not image:
            find.problem = "its image is named in the compose file"
        yield find
    run = config.get("run")
    if run is not None and run.kind == "scalar":
        image = config.text("run-image")
        reference = split(image) if image else None
        find = Find("pull", run.start, step, _COMPOSE_RUN, reference, shown=run.value)
        if config.get("pull") is not None:
            find.problem = "its `pull` names more images, which skip-pull would leave out"
        elif _no_room(plugin, settings):
            find.problem = _no_room(plugin, settings)
        elif config.text("skip-pull").lower() in ("false", "off", "0", "no"):
            find.problem = "its skip-pull is set to false"
        find.edits = lambda: _compose_edits(document, settings, plugin, config, find)
        yield find


def _pushed(config: Node) -> Iterator[tuple[str, str, Node]]:
    """Service and reference of what the plugin pushes."""
    for node in config.get("push").strings() if config.get("push") else ():  # type: ignore[union-attr]
        service, _, target = node.value.partition(":")
        yield service, target, node
    repository, build = config.text("image-repository"), config.get("build")
    if repository and build is not None:
        names = [node.value for node in (config.get("image-name") or build).strings()]
        for index, node in enumerate(build.strings()):
            tag = (
                names[index]
                if config.get("image-name") and index < len(names)
                else (f"$BUILDKITE_PIPELINE_SLUG-{node.value}-build-$BUILDKITE_BUILD_NUMBER")
            )
            yield node.value, f"{repository}:{tag}", node


def resolve_compose(finds: list[Find[Step]]) -> None:
    """Give each `run` the image that a build of the same service pushes."""
    pushed = {}
    for find in finds:
        if find.role == "build" and find.means.startswith("docker-compose plugin ("):
            pushed[find.means.partition("(")[2][:-1]] = find.reference
    for find in finds:
        if find.means == _COMPOSE_RUN:
            find.reference = find.reference or pushed.get(find.shown)
            find.change = "lazyci plugin before it pulls; skip-pull becomes true"
            if find.reference is None and not find.problem:
                find.problem = "its image is named in the compose file, not here"


def _compose_edits(
    document: Document, settings: Settings, plugin: Plugin, config: Node, find: Find[Step]
) -> list[Edit] | None:
    major = re.match(r"v?(\d+)", plugin.version)
    if document.is_shared(config) or (major and int(major[1]) < 4) or find.reference is None:
        find.problem = "its settings are shared by an anchor, or its version knows no skip-pull"
        return None
    skips = config.get("skip-pull")
    # The compose plugin would have pulled for itself.
    block = _item(settings, quoted(find.reference.raw), "", "" if skips is not None else "true")
    insertion = insert_before(document, plugin.holder, plugin.index, block)
    if insertion is None:
        return None
    if skips is not None:
        return [insertion]
    skip = append_item(document, config, "skip-pull: true")
    return [insertion, skip] if skip is not None else None


def shared_pull_settings(finds: list[Find[Step]], selection: Selection) -> dict[int, str]:
    """Docker sites whose `always-pull` serves other images, too, and so cannot become false."""
    users: dict[int, list[tuple[Find[Step], bool]]] = {}
    for find in finds:
        if find.pull_policy is not None and find.reference is not None:
            lazy = not find.problem and not selection.refuse(find.reference)
            users.setdefault(id(find.pull_policy), []).append((find, lazy))
    reason = "its always-pull comes from an anchor that serves other images, too"
    return {
        id(find): reason
        for group in users.values()
        if not all(lazy for _, lazy in group)
        for find, lazy in group
        if lazy
    }
