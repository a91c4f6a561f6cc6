"""The wheel works alone: templates, plugin, action and schema are inside, the source is away."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PIPELINE = "steps:\n  - key: b\n    command: docker push reg.example/a:1\n"
WORKFLOW = (
    "on: push\njobs:\n  a:\n    runs-on: gpu\n    steps:\n      - uses: actions/checkout@v4\n"
    "      - run: docker push reg.example/a:1\n  b:\n    runs-on: gpu\n    steps:\n"
    "      - uses: actions/checkout@v4\n      - run: docker pull reg.example/a:1\n"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "templates").rglob("*"):
        if path.is_file():
            assert f"lazyci/templates/{path.relative_to(ROOT / 'templates')}" in names
    assert "lazyci/templates/github/action/action.yml" in names
    assert {"lazyci/py.typed", "lazyci/lazyci.schema.json"} <= names
    assert not [name for name in names if name.startswith(("tests", "pipelines", "docs"))]


def test_works_with_the_source_out_of_sight(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    site = next((home / "lib").glob("python*")) / "site-packages"
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    offline = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run([*pip, *offline], check=True)
    # The dependencies are this environment's; lazyci is the wheel's.
    own = next((Path(sys.executable).parent.parent / "lib").glob("python*"))
    (site / "dependencies.pth").write_text(str(own / "site-packages"))
    repository = tmp_path / "repository"
    (repository / ".github" / "workflows").mkdir(parents=True)
    (repository / ".buildkite").mkdir()
    (repository / ".git").mkdir()
    (repository / ".github" / "workflows" / "w.yml").write_text(WORKFLOW)
    (repository / "p.yml").write_text(PIPELINE)

    def lazyci(*arguments: str) -> str:
        done = subprocess.run(
            [home / "bin" / "lazyci", *arguments],
            cwd=repository,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [home / "bin" / "python", "-c", "import lazyci; print(lazyci.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=repository,
    )
    assert where.stdout.startswith(str(site))
    assert "wrote .github/actions/lazyci/action.yml" in lazyci("init")
    assert (repository / ".buildkite/plugins/lazyci/hooks/pre-command").stat().st_mode & 0o111
    assert "lazyci-convert-a-1" in lazyci("generate", "p.yml")
    assert "lazyci.yaml" in lazyci("config", "schema")
