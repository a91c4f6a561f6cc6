"""The Buildkite plugin and the GitHub action, as they run on an agent."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

HOOK = ROOT / "templates" / "buildkite" / "plugin" / "hooks" / "pre-command"
ACTION = ROOT / ".github" / "actions" / "pull" / "action.yml"
DOCKER = '#!/bin/sh\necho "docker $*" >> "$CALLS"\nexit "${DOCKER_STATUS:-0}"\n'
LAZYCI = '#!/bin/sh\necho "lazyci $*" >> "$CALLS"\nexit "${LAZYCI_STATUS:-0}"\n'


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A folder with stand-ins for docker and lazyci that write down their calls."""
    for name, text in (("docker", DOCKER), ("lazyci", LAZYCI), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(agent: Path, command: list[str], **environment: str) -> tuple[int, list[str], str]:
    calls = agent / "calls"
    calls.write_text("")
    done = subprocess.run(
        command,
        env={"PATH": f"{agent}:/usr/bin:/bin", "CALLS": str(calls), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, calls.read_text().splitlines(), done.stderr + done.stdout


def hook(agent: Path, **environment: str) -> tuple[int, list[str], str]:
    return run(agent, [str(HOOK)], BUILDKITE_PLUGIN_LAZYCI_IMAGE="reg/a:1", **environment)


ALWAYS = {"BUILDKITE_PLUGIN_LAZYCI_ALWAYS_PULL": "true"}


def test_lazy_pull(agent: Path) -> None:
    assert hook(agent)[:2] == (0, ["lazyci pull --if-missing reg/a:1"])
    assert hook(agent, **ALWAYS)[:2] == (0, ["lazyci pull reg/a:1"])


def test_options(agent: Path) -> None:
    status, calls, _ = hook(
        agent,
        BUILDKITE_PLUGIN_LAZYCI_WAIT="30",
        BUILDKITE_PLUGIN_LAZYCI_PLATFORM="linux/arm64",
    )
    (call,) = calls
    assert status == 0
    assert call == "lazyci pull --if-missing --wait 30 --platform linux/arm64 reg/a:1"


def test_missing_lazyci_does_nothing(agent: Path) -> None:
    (agent / "lazyci").unlink()
    status, calls, output = hook(agent)
    assert (status, calls) == (0, [])
    assert "not installed" in output


def test_missing_lazyci_pulls_where_the_step_always_pulled(agent: Path) -> None:
    (agent / "lazyci").unlink()
    assert hook(agent, **ALWAYS)[:2] == (0, ["docker pull reg/a:1"])


@pytest.mark.parametrize("broken", ["exit status", "no interpreter"])
def test_broken_lazyci(agent: Path, broken: str) -> None:
    if broken == "no interpreter":
        (agent / "lazyci").write_text("#!/nowhere\n")
    assert hook(agent, LAZYCI_STATUS="1")[0] == 0
    status, calls, _ = hook(agent, LAZYCI_STATUS="1", **ALWAYS)
    assert (status, calls[-1]) == (0, "docker pull reg/a:1")


def test_off_means_regular(agent: Path) -> None:
    assert hook(agent, LAZYCI="off")[:2] == (0, [])
    assert hook(agent, LAZYCI="off", **ALWAYS)[:2] == (0, ["docker pull reg/a:1"])


def test_a_pull_that_fails_fails_as_before(agent: Path) -> None:
    status, calls, _ = hook(agent, LAZYCI_STATUS="1", DOCKER_STATUS="18", **ALWAYS)
    assert status == 18
    assert calls.count("docker pull reg/a:1") == 3


def test_no_image(agent: Path) -> None:
    assert run(agent, [str(HOOK)])[:2] == (0, [])


def action(agent: Path, tmp_path: Path, **environment: str) -> tuple[int, list[str], str, str]:
    (step,) = yaml.safe_load(ACTION.read_text())["runs"]["steps"]
    exported = tmp_path / "github-env"
    exported.write_text("")
    given = {"LAZYCI_IMAGES": "", "LAZYCI_INPUT": "on", "LAZYCI_WAIT": "auto", **environment}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return *run(agent, command, GITHUB_ENV=str(exported), **given), exported.read_text()


def test_action_pulls_what_it_is_given(agent: Path, tmp_path: Path) -> None:
    status, calls, _, exported = action(agent, tmp_path, LAZYCI_IMAGES="reg/a:1\nreg/b:2\n")
    assert status == 0
    assert calls == ["lazyci pull --wait auto reg/a:1", "lazyci pull --wait auto reg/b:2"]
    assert exported == ""


def test_action_without_images(agent: Path, tmp_path: Path) -> None:
    assert action(agent, tmp_path)[:2] == (0, [])


@pytest.mark.parametrize("value", ["off", "", "false", "nonsense"])
def test_action_switched_off(agent: Path, tmp_path: Path, value: str) -> None:
    status, calls, _, exported = action(
        agent, tmp_path, LAZYCI_INPUT=value, LAZYCI_IMAGES="reg/a:1"
    )
    assert (status, calls) == (0, ["docker pull reg/a:1"])
    assert exported == "LAZYCI=off\n"


def test_action_never_fails_the_job(agent: Path, tmp_path: Path) -> None:
    status, _, output, _ = action(
        agent, tmp_path, LAZYCI_IMAGES="reg/a:1", LAZYCI_STATUS="1", DOCKER_STATUS="1"
    )
    assert status == 0
    assert "::warning::lazyci: reg/a:1 could not be pulled" in output
    (agent / "lazyci").unlink()
    assert action(agent, tmp_path, LAZYCI_IMAGES="reg/a:1")[:2] == (0, ["docker pull reg/a:1"])


def test_hook_is_executable() -> None:
    assert os.access(HOOK, os.X_OK)
