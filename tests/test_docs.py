"""Pages and examples are what the code makes of them now; links lead somewhere."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lazyci.pipeline
from tests.conftest import ROOT

PAGES = [
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("pipelines/**/*.md")]
    if path.is_file()
]


def test_generated_files_are_in_step() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "sync.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


def test_the_example_of_the_library_runs() -> None:
    assert doctest.testmod(lazyci.pipeline).attempted > 0
    assert doctest.testmod(lazyci.pipeline).failed == 0


def test_every_example_says_what_it_is() -> None:
    folders = [path.parent for path in ROOT.glob("pipelines/*/before.*")]
    assert len(folders) >= 6
    for folder in folders:
        assert (folder / "README.md").is_file()
        assert (folder / "lazyci.yaml").is_file()
        assert list(folder.glob("after.*"))


def test_make_targets_are_documented() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split():
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
