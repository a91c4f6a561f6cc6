"""A job that passed passes: what lazyci writes into scripts is run by bash, before and after.

`docker` and `lazyci` are stand-ins that write down their calls; what is tested is the shell.
"""

from __future__ import annotations

import json
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from lazyci.config import read_settings
from lazyci.pipeline import rewrite

DOCKER = """#!/bin/sh
echo "docker $*" >> "$CALLS"
case "$1" in
  pull) echo "pulled"; exit "${PULL_STATUS:-0}" ;;
  run) if [ "$2" = -i ]; then cat; fi; echo "ran"; exit "${RUN_STATUS:-0}" ;;
esac
"""
LAZYCI = """#!/bin/sh
echo "lazyci $*" >> "$CALLS"
echo "pulled"
exit "${LAZYCI_STATUS:-0}"
"""
# The lazy pull works; it fails and so the fallback runs; lazyci is broken; it is not there.
LAZY = ("works", "fails", "broken", "missing")


@dataclass
class Run:
    status: int
    output: str
    calls: list[str]


def run(script: str, folder: Path, *, lazy: str = "works", **environment: str) -> Run:
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    programs = {"docker": DOCKER, "lazyci": "#!/nowhere\n" if lazy == "broken" else LAZYCI}
    for name, text in programs.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(stat.S_IRWXU)
    if lazy == "missing":
        (bin_ / "lazyci").unlink()
    calls = folder / "calls"
    calls.write_text("")
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        env={
            "PATH": f"{bin_}:/usr/bin:/bin",
            "CALLS": str(calls),
            "LAZYCI_STATUS": "1" if lazy == "fails" else "0",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=folder,
    )
    return Run(done.returncode, done.stdout, calls.read_text().splitlines())


def rewritten(script: str) -> str:
    text = json.dumps({"steps": [{"command": script}]})
    result = rewrite(text, read_settings("images: [{match: reg/app}]")).text
    command = json.loads(result)["steps"][0]["command"]
    assert isinstance(command, str)
    return command


SCRIPTS = [
    "docker pull reg/app:1; echo done",
    "docker pull reg/app:1 && echo yes || echo no",
    "docker pull reg/app:1 || exit 7; echo after",
    "if docker pull reg/app:1; then echo yes; else echo no; fi",
    "if ! docker pull reg/app:1; then echo no; fi",
    'x=$(docker pull -q reg/app:1); echo "got $x"',
    "docker pull reg/app:1 | tee log.txt; echo ${PIPESTATUS[0]}",
    "docker pull reg/app:1 >/dev/null 2>&1; echo $?",
    "set +e; docker pull reg/app:1; echo status $?",
    "f() { docker pull reg/app:1; }; f; echo ok",
    "for i in 1 2; do docker pull reg/app:1 && break; done; echo $i",
    "while ! docker pull reg/app:1; do break; done; echo end",
    'retry() { "$@" || "$@"; }; retry docker pull reg/app:1; echo ok',
    "trap 'echo bye' EXIT; docker pull reg/app:1",
    'A=1 docker pull reg/app:1; echo "[${A:-}]"',
    "docker run reg/app:1 make; echo done",
    "docker run reg/app:1 && echo yes || echo no",
    'x=$(docker run reg/app:1 id); echo "got $x"',
    "echo in | docker run -i reg/app:1 cat",
    "docker run -i reg/app:1 cat <<EOF\nhere\nEOF\necho after",
    "docker run -i reg/app:1 cat <<< string",
    "docker run -i reg/app:1 < /dev/null > out.txt; cat out.txt",
    "true && docker run reg/app:1 && echo yes",
    "false || docker run reg/app:1; echo $?",
    "! docker run reg/app:1; echo $?",
    "if docker run reg/app:1 test; then echo yes; else echo no; fi",
    "docker run reg/app:1 | cat; echo ${PIPESTATUS[@]}",
    "docker run \\\n  --rm \\\n  reg/app:1 \\\n  make; echo done",
    "case x in x) docker run reg/app:1 ;; esac; echo ok",
    "( docker pull reg/app:1; docker run reg/app:1 ); echo ok",
    "docker pull reg/app:1 # first\ndocker run reg/app:1 # second",
    "time docker pull reg/app:1; echo ok",
    "x=$( docker pull reg/app:1 ); echo $x",
    "(docker pull reg/app:1); (docker run reg/app:1; echo x); echo ok",
    "cat <(docker run reg/app:1); echo `docker run reg/app:1`",
    'echo "a $(docker run reg/app:1) b"',
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("failing", ["", "PULL_STATUS", "RUN_STATUS"])
def test_same_status_and_output(script: str, failing: str, tmp_path: Path) -> None:
    environment = {failing: "3"} if failing else {}
    before = run(script, tmp_path, **environment)
    lazy_script = rewritten(script)
    assert lazy_script != script
    for lazy in LAZY:
        if failing == "PULL_STATUS" and lazy == "works" and "docker pull" in script:
            continue  # A lazy pull that works is not a failing pull.
        after = run(lazy_script, tmp_path, lazy=lazy, **environment)
        assert after.status == before.status, lazy
        if failing != "PULL_STATUS" and not (lazy == "fails" and "docker pull" in script):
            assert after.output == before.output, lazy
        if lazy != "works":
            assert [call for call in after.calls if call.startswith("docker")] == before.calls


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_lazy_pull_comes_first_and_serves(script: str, tmp_path: Path) -> None:
    calls = run(rewritten(script), tmp_path).calls
    lazy = [call for call in calls if call.startswith("lazyci pull")]
    assert lazy
    assert calls.index(lazy[0]) == 0
    assert not any(call.startswith("docker pull") for call in calls)
