"""`lazyci.yaml`: what a repository says about its images.

The classes below are the only description of the file: its JSON Schema, its checks and the
reference page are made from them.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from lazyci.data import to_data
from lazyci.document import Document, Node
from lazyci.errors import ConfigError, InputError
from lazyci.reader import decode, parse

__all__ = [
    "Build",
    "Convert",
    "Format",
    "ImageRule",
    "Publish",
    "Pull",
    "Settings",
    "find_settings",
    "json_schema",
    "load_settings",
    "read_settings",
]

FILE_NAME = "lazyci.yaml"

Format = Literal["nydus", "nydus-index", "estargz", "zstdchunked"]
Publish = Literal["tag", "in-place"]
# The plugin is found again by its name when its entries are taken out.
_NAMED_LAZYCI = r"(^|/)lazyci(-buildkite-plugin)?(\.git)?(#.+)?$"
_Platform = Annotated[str, msgspec.Meta(pattern="^[a-z0-9]+(/[a-z0-9.]+){0,3}$")]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    pass


def _described(description: str, **limits: Any) -> Any:
    return msgspec.Meta(description=description, **limits)


class ImageRule(_Base, frozen=True):
    """Which images become lazy, and how. The first rule that matches an image counts."""

    match: Annotated[
        _Text | list[_Text],
        _described(
            "Glob patterns of references (`registry/repository`, or with `:tag`) it is for."
        ),
    ]
    exclude: Annotated[list[_Text], _described("Glob patterns of references to leave out.")] = []
    format: Annotated[
        Format | None, _described("Image format; the file's `format` by default.")
    ] = None
    publish: Annotated[
        Publish | None, _described("`tag` or `in-place`; the file's `publish` by default.")
    ] = None


class Build(_Base, frozen=True):
    """A build that the pipeline's text does not show, because it stands in a script."""

    step: Annotated[
        _Text, _described("Key or label of the Buildkite step, or id of the GitHub job.")
    ]
    image: Annotated[
        _Text | list[_Text],
        _described(
            "References that it pushes, written as in the pipeline (variables and expressions too)."
        ),
    ]
    platforms: Annotated[list[_Platform], _described("Platforms to convert; all by default.")] = []


class Convert(_Base, frozen=True):
    """The step that converts an image after its build."""

    queue: Annotated[
        _Text | None,
        _described("Buildkite queue to convert in; the build's own agents by default."),
    ] = None
    runs_on: Annotated[
        _Text | list[_Text] | dict[str, Any] | None,
        _described("GitHub runner to convert on; the build's own by default."),
    ] = None
    image: Annotated[
        Annotated[str, msgspec.Meta(pattern="@sha256:[0-9a-f]{64}$")] | None,
        _described(
            "Image to run `lazyci convert` from, pinned by digest; lazyci on the PATH by default."
        ),
    ] = None
    credentials: Annotated[
        list[dict[str, Any]],
        _described("Plugins or steps that log in to the registry, instead of the build's own."),
    ] = []
    timeout_minutes: Annotated[
        int, _described("Minutes until the conversion is given up.", ge=1, le=1440)
    ] = 60


class Pull(_Base, frozen=True):
    """The pull on test agents."""

    wait: Annotated[
        Literal["auto"] | Annotated[int, msgspec.Meta(ge=0, le=3600)],
        _described(
            "Seconds to wait for a variant that is being made; `auto`: as long as that pays."
        ),
    ] = "auto"
    plugin: Annotated[
        Annotated[str, msgspec.Meta(pattern=_NAMED_LAZYCI)],
        _described(
            "Buildkite plugin that pulls; a path in the repository cannot fail a job by its clone."
        ),
    ] = "./.buildkite/plugins/lazyci"
    action: Annotated[_Text, _described("GitHub action that prepares the job.")] = (
        "./.github/actions/lazyci"
    )


class Settings(_Base, frozen=True):
    """The whole file. Every key may be left out."""

    version: Annotated[Literal[1], _described("Version of this file's form.")] = 1
    images: Annotated[
        list[ImageRule],
        _described("Which images become lazy; without it, those that the pipeline itself pushes."),
    ] = []
    builds: Annotated[list[Build], _described("Builds that stand in scripts.")] = []
    format: Annotated[Format, _described("Image format.")] = "nydus"
    publish: Annotated[
        Publish,
        _described(
            "`tag`: the variant has a tag of its own; `in-place`: it stands under the original tag."
        ),
    ] = "tag"
    tag_suffix: Annotated[
        str,
        _described("What the variant's tag ends in.", pattern="^-[A-Za-z0-9_.-]+$", max_length=32),
    ] = "-lazy"
    pulls: Annotated[
        Literal["pipeline", "agent"],
        _described(
            "`pipeline`: pull sites are rewritten; `agent`: hooks on the agents serve them."
        ),
    ] = "pipeline"
    convert: Annotated[Convert, _described("The convert step.")] = Convert()
    pull: Annotated[Pull, _described("The pull on test agents.")] = Pull()
    report: Annotated[bool, _described("Whether a report step ends the pipeline.")] = False
    switch: Annotated[
        list[Annotated[str, msgspec.Meta(pattern="^(file|s3|ssm|github|buildkite):.+$")]],
        _described(
            "Stores of the off switch, as URLs. `github:…` hands `vars.LAZYCI` to GitHub jobs, "
            "where anything but `on` is off; this version reads no other store."
        ),
    ] = []
    templates: Annotated[
        _Text | None,
        _described("Folder, beside this file, whose templates replace lazyci's of the same name."),
    ] = None


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `lazyci.yaml`."""
    (root,), definitions = msgspec.json.schema_components([Settings], ref_template="#/$defs/{name}")
    del root
    top = definitions.pop("Settings")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": FILE_NAME,
        **{key: value for key, value in top.items() if key != "title"},
        "$defs": definitions,
    }


def find_settings(start: Path) -> Path | None:
    """`lazyci.yaml` in a folder or the nearest one above it, up to the repository's root."""
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
        if (folder / ".git").exists():
            return None
    return None


def load_settings(path: Path) -> Settings:
    """Read and check a settings file; its folder of templates counts from the file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or does not fit the schema, or there is
            no such folder.
    """
    try:
        text = decode(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except InputError as error:
        raise ConfigError(
            error.message, path=str(path), line=error.line, column=error.column, hint=error.hint
        ) from None
    settings = read_settings(text, str(path))
    if settings.templates is None:
        return settings
    folder = path.parent / settings.templates
    if not folder.is_dir():
        raise ConfigError(f"`templates`: there is no folder {settings.templates}", path=str(path))
    return msgspec.structs.replace(settings, templates=str(folder))


def read_settings(text: str, path: str = FILE_NAME) -> Settings:
    """Check the text of a settings file; arguments and errors as for `load_settings`."""
    try:
        document = parse(text.removeprefix("\ufeff"), path)
    except InputError as error:
        if not text.strip() or all(
            line.lstrip().startswith("#") or not line.strip() for line in text.splitlines()
        ):
            return Settings()
        raise ConfigError(
            error.message, path=path, line=error.line, column=error.column, hint=error.hint
        ) from None
    data = to_data(document.root)
    if isinstance(data, dict):
        # A key whose entries are all commented out is as good as absent.
        data = {key: value for key, value in data.items() if value is not None}
    try:
        return msgspec.convert({} if data is None else data, Settings)
    except msgspec.ValidationError as error:
        raise _explain(document, str(error)) from None


def _explain(document: Document, message: str) -> ConfigError:
    """msgspec says `… - at `$.images[0].match``; the user wants file:line:column."""
    problem, _, path = message.partition(" - at `")
    node, fields = document.root, Settings
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path.rstrip("`")):
        node, fields = _step(node, fields, name, index)
    hint = "docs/configuration.md lists what is allowed; `lazyci config schema` prints it."
    unknown = re.search(r"unknown field `(.*)`", problem)
    if unknown:
        entry = node.real.own(unknown[1])
        node = entry[0] if entry else node
        names = list(fields.__struct_encode_fields__) if fields is not None else []
        near = difflib.get_close_matches(unknown[1], names, 1, 0.5)
        problem = f"unknown key `{unknown[1]}`"
        hint = f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(names)}."
    line, column = document.position(node.start)
    return ConfigError(problem, path=document.path, line=line, column=column, hint=hint)


_INSIDE: dict[str, Any] = {"images": ImageRule, "builds": Build, "convert": Convert, "pull": Pull}


def _step(node: Node, fields: Any, name: str, index: str) -> tuple[Node, Any]:
    if index:
        items = node.real.items
        return (items[int(index)] if int(index) < len(items) else node), fields
    return node.get(name) or node, _INSIDE.get(name)
