"""The real clients take every result, and find nothing in it that they did not find before."""

from __future__ import annotations

import collections
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lazyci.config import load_settings, read_settings
from lazyci.pipeline import rewrite
from tests.conftest import corpus_files, example_files, fixture_files, text_of
from tests.servers import client

EVERYTHING = 'images: [{match: "*"}]\nreport: true\nswitch: ["github:team/app"]\n'
FILES = [*corpus_files(), *example_files(), *fixture_files()]
BIN = Path(sys.executable).parent


def is_buildkite(path: Path) -> bool:
    return "buildkite" in path.parent.name


def is_action(path: Path) -> bool:
    return "jobs:" not in text_of(path)


BUILDKITE = [path for path in FILES if is_buildkite(path)]
WORKFLOWS = [path for path in FILES if not is_buildkite(path) and not is_action(path)]
GITHUB = [path for path in FILES if not is_buildkite(path)]


def results(path: Path) -> list[str]:
    """The text with its own settings, and with every image made lazy."""
    own = path.parent / "lazyci.yaml"
    settings = load_settings(own) if own.is_file() else None
    text = text_of(path)
    in_place = read_settings(EVERYTHING + "publish: in-place\n")
    return [
        rewrite(text, chosen).text for chosen in (settings, read_settings(EVERYTHING), in_place)
    ]


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, **options
    )


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", BUILDKITE, ids=name_of)
def test_buildkite_agent(path: Path) -> None:
    agent = client("buildkite-agent")
    command = [agent, "pipeline", "upload", "--dry-run", "--format", "json", "--no-color"]
    command += ["--log-level", "error", "--apply-if-changed=false", "--reject-parse-warnings"]
    command += ["--agent-access-token", "dummy"]
    for text in results(path):
        # An environment of its own: the caller's variables would be put in.
        done = run(command, input=text, env={"PATH": "/usr/bin:/bin", "BUILDKITE_COMMIT": "c0ffee"})
        assert done.returncode == 0, done.stderr
        steps = [s for s in json.loads(done.stdout)["steps"] if isinstance(s, dict)]
        ours = [
            step for step in steps if str(step.get("key", "")).startswith(("lazyci-c", "lazyci-r"))
        ]
        written = re.findall(r'"?key"?: "?(lazyci-(?:convert|report)[\w-]*)', text)
        assert [step["key"] for step in ours] == written
        for step in ours:
            if step["key"].startswith("lazyci-convert-"):
                assert step["soft_fail"] is True
                assert step["depends_on"]
                assert "$$" not in step["command"]


def schema(path: Path, text: str, tmp_path: Path, name: str) -> int:
    file = tmp_path / path.name
    file.write_text(text)
    done = run([str(BIN / "check-jsonschema"), "--builtin-schema", name, "-o", "json", str(file)])
    return len(json.loads(done.stdout).get("errors", []))


@pytest.mark.parametrize("path", BUILDKITE, ids=name_of)
def test_buildkite_schema(path: Path, tmp_path: Path) -> None:
    before = schema(path, text_of(path), tmp_path, "vendor.buildkite")
    for text in results(path):
        assert schema(path, text, tmp_path, "vendor.buildkite") <= before


@pytest.mark.parametrize("path", GITHUB, ids=name_of)
def test_github_schema(path: Path, tmp_path: Path) -> None:
    name = "vendor.github-actions" if is_action(path) else "vendor.github-workflows"
    before = schema(path, text_of(path), tmp_path, name)
    for text in results(path):
        assert schema(path, text, tmp_path, name) <= before


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_actionlint(path: Path) -> None:
    actionlint = client("actionlint")
    command = [actionlint, "-no-color", "-shellcheck=", "-pyflakes=", "-format", "{{json .}}", "-"]

    def findings(text: str) -> collections.Counter[str]:
        found = json.loads(run(command, input=text).stdout)
        return collections.Counter(f"{item['kind']}: {item['message']}" for item in found)

    before = findings(text_of(path))
    for text in results(path):
        new = findings(text) - before
        # A convert job copies the build's login steps, and what is found in them with them.
        assert not {message for message in new if message not in before}, new


@pytest.mark.parametrize("path", GITHUB, ids=name_of)
def test_zizmor(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    file = tmp_path / "action.yml" if is_action(path) else folder / "w.yml"

    def findings(text: str) -> set[tuple[str, str]]:
        file.write_text(text)
        command = [str(BIN / "zizmor"), "--offline", "--no-progress", "--format", "json", str(file)]
        found = json.loads(run(command).stdout)
        return {
            (item["ident"], location["concrete"]["feature"].strip())
            for item in found
            for location in item["locations"]
            if location["symbolic"]["kind"] == "Primary"
        }

    before = findings(text_of(path))
    kinds = {ident for ident, _ in before}
    for text in results(path):
        new = findings(text) - before
        assert {ident for ident, _ in new} <= kinds, new


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_act_reads_the_workflow(path: Path, tmp_path: Path) -> None:
    act = client("act")
    for text in results(path):
        file = tmp_path / "w.yml"
        file.write_text(text)
        for option in ("--validate", "--list"):
            done = run([act, option, "-W", str(file)], env={"HOME": str(tmp_path), "PATH": "/bin"})
            assert done.returncode == 0, done.stderr
