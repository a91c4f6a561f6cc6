"""Commands load only what they use: a pull must not wait for libraries of other commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_HEAVY = {
    "boto3",
    "botocore",
    "docker",
    "github",
    "jinja2",
    "tree_sitter",
    "yaml",
    "ruamel",
    "msgspec",
}
PIPELINE = "steps:\n  - command: make\n"


def loaded(code: str, stdin: str = "", path: str | None = None) -> set[str]:
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **({"PATH": path} if path else {})},
    )
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}


def call(*arguments: str) -> str:
    return f"from lazyci.cli import main; main({list(arguments)!r})"


def test_help_loads_click_alone() -> None:
    assert not loaded(call("--help")) & _HEAVY


def test_a_regular_pull_loads_little() -> None:
    heavy = _HEAVY | {"pycurl", "zstandard"}
    assert not loaded(call("pull", "app"), path="/nowhere") & heavy - {"msgspec"}


@pytest.mark.parametrize("arguments", [("generate", "-"), ("plan", "-")])
def test_rewriting_loads_what_it_needs(arguments: tuple[str, ...]) -> None:
    modules = loaded(call(*arguments), PIPELINE)
    assert not modules & {"boto3", "botocore", "docker", "github"}
    # No shell that speaks of images, no step to add: neither parser nor templates.
    assert not modules & {"tree_sitter", "jinja2", "ruamel"}


def test_the_library_knows_no_click() -> None:
    code = (
        "import lazyci.pipeline, lazyci.config, lazyci.pipeline.github, lazyci.pipeline.buildkite"
    )
    assert "click" not in loaded(code)
