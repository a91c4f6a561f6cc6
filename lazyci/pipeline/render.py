"""Templates: lazyci's own, or the user's of the same name."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazyci.data import Verbatim, to_data
from lazyci.document import Node
from lazyci.errors import InputError, TemplateError
from lazyci.pipeline.names import ACTION_STEP, PLUGIN_NAME, is_step_name, plugin_name
from lazyci.pipeline.scalar import is_plain_in_block, plain_or_quoted
from lazyci.reader import parse

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

__all__ = ["render", "render_text", "template_folder"]

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./#-]*\Z")


def template_folder() -> Path:
    """The folder of lazyci's own templates: in the wheel, or beside the package in a checkout."""
    inside = Path(str(resources.files("lazyci"))) / "templates"
    return inside if inside.is_dir() else inside.parent.parent / "templates"


def _flow(value: Any) -> str:
    """Data as one line of YAML that JSON readers could nearly read, too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Verbatim):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return plain_or_quoted(value) if isinstance(value, str) else json.dumps(value)


def _block(value: Any, indent: int) -> str:
    """Data as block YAML whose first line stands where the caller is, the others at `indent`."""
    pad = "\n" + " " * indent
    if isinstance(value, dict) and value:
        return pad.join(f"{_key(k)}:{_below(v, indent)}" for k, v in value.items())
    return _flow(value)


def _below(value: Any, indent: int) -> str:
    if isinstance(value, dict) and value:
        return "\n" + " " * (indent + 2) + _block(value, indent + 2)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        pad = "\n" + " " * (indent + 2)
        return pad + pad.join(f"- {_block(item, indent + 4)}" for item in value)
    return f" {_yaml(value)}"


def _key(key: str) -> str:
    plain = _PLAIN_KEY.match(key) and is_plain_in_block(key)
    return key if plain else json.dumps(key, ensure_ascii=False)


def _yaml(value: Any) -> str:
    """A scalar in block context, where braces and quotes inside it mean nothing."""
    if isinstance(value, Verbatim) or (isinstance(value, str) and is_plain_in_block(value)):
        return str(value)
    return _flow(value)


@lru_cache(maxsize=4)
def _environment(folders: tuple[str, ...]) -> SandboxedEnvironment:
    # Imported here: a file without sites needs no template.
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    # The result is YAML, whose quoting the filters do; HTML's would break it.
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        autoescape=False,
        auto_reload=False,
    )
    environment.filters.update(yaml=_yaml, flow=_flow, block=_block)
    return environment


def render(template: str, overrides: str | None, /, **context: Any) -> str:
    """Render a template for a pipeline and check that the result is one block of YAML.

    Args:
        template: The path below `templates/`.
        overrides: Folder of the user's own templates, or None.
        context: What the template sees.

    Returns:
        A block sequence or mapping without indentation, no line break at its end.

    Raises:
        TemplateError: The template cannot be read or rendered, or renders something else.
    """
    text, path = render_text(template, overrides, **context)
    _check(text, path, template)
    return text


def render_text(template: str, overrides: str | None, /, **context: Any) -> tuple[str, str]:
    """Render a template; the result unchecked, and the path of the template for messages."""
    folders = ((overrides,) if overrides else ()) + (str(template_folder()),)
    path = next((f"{f}/{template}" for f in folders if Path(f, template).is_file()), template)
    try:
        return _environment(folders).get_template(template).render(context).strip("\n"), path
    # Whatever a user's expression raises is the template's fault.
    except Exception as error:
        line = getattr(error, "lineno", None) or 0
        raise TemplateError(
            f"cannot be rendered: {error}", path=path, line=line, column=1 if line else 0
        ) from None


def _check(text: str, path: str, template: str) -> None:
    """Refuse what is no block collection, or what undo would not know again."""
    try:
        root = parse(text, path).root
    except InputError as error:
        raise TemplateError(
            f"what it renders is {error.message}",
            path=path,
            line=error.line,
            column=error.column,
            hint=f"It rendered:\n{text}",
        ) from None
    if root.kind not in ("sequence", "mapping") or root.flow or not (root.items or root.entries):
        raise TemplateError(
            "it must render a block sequence or mapping", path=path, hint=f"It rendered:\n{text}"
        )
    if root.start != 0 or root.end != len(text.rstrip()):
        raise TemplateError(
            "what it renders must begin with its first item and end with its last", path=path
        )
    names = [_name_of(item) for item in root.items] or [key.value for key, _ in root.entries]
    for name in names:
        known = plugin_name(name) == PLUGIN_NAME if "plugin" in template else is_step_name(name)
        if not known and not (template == "github/pull-step.yml.j2" and name == ACTION_STEP):
            raise TemplateError(
                f"an item is named {name!r}",
                path=path,
                hint="`lazyci generate --undo` finds items by the name that the template is given.",
            )


def _name_of(item: Node) -> str:
    data = to_data(item)
    if not isinstance(data, dict):
        return ""
    # A plugin item is known by its name, which is its only key.
    only = next(iter(data)) if len(data) == 1 else ""
    return str(data.get("key") or data.get("id") or only)
