"""What several tests share: real pipelines, and clients that may be missing."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
# Real, public pipelines that are not part of the repository.
CORPUS = Path(os.environ.get("LAZYCI_CORPUS", ROOT.parent / "shared" / "corpus"))

settings.register_profile(
    "lazyci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lazyci")


def corpus_files() -> list[Path]:
    return sorted(CORPUS.glob("*/*.yml"))


def example_files() -> list[Path]:
    return sorted((ROOT / "pipelines").glob("*/before.*"))


def fixture_files() -> list[Path]:
    return sorted((ROOT / "tests" / "fixtures").glob("*/*.*"))


def text_of(path: Path) -> str:
    return path.read_bytes().decode()
