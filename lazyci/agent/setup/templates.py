"""The templates of whole files, from `templates/agent/`."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

from lazyci.errors import TemplateError

__all__ = ["render"]


def render(name: str, **context: str) -> str:
    """Render a template.

    Args:
        name: Its file name below `templates/agent/`.
        context: What it sees.

    Returns:
        The text, with a line break at its end.

    Raises:
        TemplateError: It cannot be rendered.
    """
    # Imported here: other commands of the agent use no templates.
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2 import TemplateError as Failure
    from jinja2.sandbox import SandboxedEnvironment

    inside = Path(str(resources.files("lazyci"))) / "templates"
    folder = (inside if inside.is_dir() else inside.parent.parent / "templates") / "agent"
    # Units and scripts are no HTML; `shell` quotes where quoting is needed.
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters["shell"] = shlex.quote
    try:
        return environment.get_template(name).render(context)
    except Failure as error:
        raise TemplateError(f"cannot be rendered: {error}", path=str(folder / name)) from None
