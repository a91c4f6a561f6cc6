"""Writes what is made from the code: reference pages, the schema, the examples' results.

`python docs/sync.py` writes them, `python docs/sync.py --check` says which are out of step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from lazyci.cli import main as cli
from lazyci.config import find_settings, json_schema, load_settings
from lazyci.errors import exit_codes
from lazyci.pipeline import rewrite
from lazyci.sample import MEANING, Rung

ROOT = Path(__file__).resolve().parent.parent
_GENERATED = "<!-- Made by docs/sync.py from the code; change it there. -->"


def _help(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    settings: Any = {**command.context_settings, "terminal_width": 88}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield f"## `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _help(found, child, context)


def cli_page() -> str:
    """The command line reference."""
    return f"# Commands\n\n{_GENERATED}\n\n" + "\n".join(_help(cli, "lazyci", None))


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [_type(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _table(schema: dict[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, value in schema["properties"].items():
        default = value.get("default", "required" if key in schema.get("required", ()) else None)
        shown = "required" if default == "required" else f"`{json.dumps(default)}`"
        if isinstance(default, dict):
            shown = ""
        text = value.get("description", "").replace("|", "\\|")
        rows.append(f"| `{key}` | {_type(value)} | {shown} | {text} |")
    return "\n".join(rows)


def configuration_page() -> str:
    """The reference of `lazyci.yaml`."""
    schema = json_schema()
    parts = [
        f"# `lazyci.yaml`\n\n{_GENERATED}\n",
        "lazyci looks for `lazyci.yaml` where it is called, then in the folders above up to the\n"
        "repository's root. No file at all works too: then every image that the pipelines push\n"
        "becomes lazy. `lazyci config schema` prints the JSON Schema, `lazyci config check`\n"
        "checks the file. Unknown keys are errors.\n",
        _table(schema),
    ]
    for name, definition in schema["$defs"].items():
        parts.append(f"\n## {name}\n\n{definition.get('description', '')}\n")
        parts.append(_table(definition))
    return "\n".join(parts) + "\n"


def rungs_page() -> str:
    """The table of the pull ladder's rungs."""
    rows = "\n".join(f"| `{rung.value}` | {MEANING[rung]} |" for rung in Rung)
    return (
        f"# The rungs of the pull ladder\n\n{_GENERATED}\n\n"
        "`lazyci pull` names the rung that served on standard error, and in its sample. All but\n"
        "the first three are the regular pull.\n\n"
        f"| rung | meaning |\n|---|---|\n{rows}\n"
    )


def exit_codes_page() -> str:
    """The table of exit codes."""
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in exit_codes().items())
    return (
        f"# Exit codes\n\n{_GENERATED}\n\n"
        "`lazyci generate -` exits 0 whatever happens, unless `--strict` is given. `lazyci pull`\n"
        "has the exit codes of `docker pull`.\n\n"
        f"| code | meaning |\n|---|---|\n{rows}\n"
    )


def examples() -> Iterator[tuple[Path, str]]:
    """The results of the ready pipelines: each `before` file gives an `after` file."""
    for before in sorted(ROOT.glob("pipelines/*/before.*")):
        folder = before.parent
        found = find_settings(folder)
        settings = load_settings(found) if found is not None and found.parent == folder else None
        result = rewrite(before.read_text(encoding="utf-8"), settings, path=before.name)
        yield folder / f"after{before.suffix}", result.text


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated file, with its content."""
    yield ROOT / "docs" / "commands.md", cli_page()
    yield ROOT / "docs" / "configuration.md", configuration_page()
    yield ROOT / "docs" / "exit-codes.md", exit_codes_page()
    yield ROOT / "docs" / "rungs.md", rungs_page()
    schema = json.dumps(json_schema(), indent=2) + "\n"
    yield ROOT / "lazyci" / "lazyci.schema.json", schema
    yield from examples()


def main() -> int:
    """Write or check all of them; 1 when a check fails."""
    stale = []
    for path, text in pages():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8", newline="")
    for name in stale:
        print(f"{'out of step' if '--check' in sys.argv else 'wrote'}: {name}")
    if stale and "--check" in sys.argv:
        print("run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
