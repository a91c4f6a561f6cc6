"""How long the rewriting takes beside a bare load of the same file by ruamel.yaml.

Both run in turn in one process, and both as processes of their own; the figures are ratios of
medians, with the spread of the single pairs. `python tests/bench_rewrite.py [FILE]`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ruamel.yaml import YAML

from lazyci.config import Settings, read_settings
from lazyci.pipeline import rewrite

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("LAZYCI_CORPUS", ROOT.parent / "shared" / "corpus"))
EVERYTHING = read_settings('images: [{match: "*"}]')
GOAL_LOAD, GOAL_PROCESS = 1.5, 2.5


def seconds(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def pairs(a: Callable[[], object], b: Callable[[], object], runs: int) -> dict[str, float]:
    """Medians of both, called in turn, and the ratio with its spread."""
    a()
    b()
    measured = [(seconds(a), seconds(b)) for _ in range(runs)]
    ratios = [first / second for first, second in measured]
    return {
        "lazyci_ms": 1000 * statistics.median(first for first, _ in measured),
        "load_ms": 1000 * statistics.median(second for _, second in measured),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def load(text: str) -> object:
    """A bare load, as `YAML().load` does it."""
    return YAML().load(text)


def large(jobs: int, size: int = 0) -> str:
    """A pipeline of many jobs that pull the image which it builds."""
    steps = ["steps:", "- key: build", "  command: docker push reg.example/app:$BUILDKITE_COMMIT"]
    filler = "x" * max(0, size // max(jobs, 1) - 350)
    for job in range(jobs):
        steps += [
            f"- label: job {job}",
            f"  key: job-{job}",
            "  depends_on: build",
            "  commands:",
            f"  - cd tests && pytest -v -s part_{job}",
            f"  - echo {filler}",
            "  plugins:",
            "  - docker#v5.2.0:",
            "      image: reg.example/app:$BUILDKITE_COMMIT",
            "      always-pull: true",
            "      environment:",
            "      - HF_TOKEN",
        ]
    return "\n".join(steps) + "\n"


def process(path: Path, text: str) -> dict[str, float]:
    """The filter as a process beside importing ruamel.yaml and loading the file."""
    code = "import sys; from ruamel.yaml import YAML; YAML().load(sys.stdin)"
    folder = path.parent

    def run(*command: str) -> Callable[[], object]:
        return lambda: subprocess.run(
            command, input=text.encode(), capture_output=True, check=True, cwd=folder
        )

    lazyci = run(sys.executable, "-m", "lazyci", "generate", "-")
    return pairs(lazyci, run(sys.executable, "-c", code), 11)


def main() -> int:
    """Measure, print a table and JSON; 1 when a goal is missed."""
    given = sys.argv[1:] or [str(CORPUS / "buildkite" / "vllm-generated.yml")]
    path = Path(given[0])
    if not path.is_file():
        path = ROOT / "pipelines" / "buildkite-vllm" / "before.yml"
    text = path.read_text(encoding="utf-8")
    rows: dict[str, dict[str, float]] = {}
    for name, settings in (("no settings", Settings()), ("every image", EVERYTHING)):
        rows[f"{path.name}, {name}"] = pairs(
            partial(rewrite, text, settings), partial(load, text), 15
        )
    rows[f"{path.name}, as a process"] = process(path, text)
    sizes = []
    for jobs, size in ((50, 0), (500, 0), (500, 1_000_000), (500, 10_000_000)):
        big = large(jobs, size)
        taken = min(seconds(partial(rewrite, big)) for _ in range(3))
        sizes.append({"jobs": jobs, "MB": len(big) / 1e6, "ms": 1000 * taken})
    for name, row in rows.items():
        print(
            f"{name:40} lazyci {row['lazyci_ms']:7.1f} ms  load {row['load_ms']:7.1f} ms  "
            f"ratio {row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})"
        )
    for entry in sizes:
        print(f"{entry['jobs']:4} jobs, {entry['MB']:6.2f} MB  {entry['ms']:8.1f} ms")
    print(json.dumps({"rows": rows, "sizes": sizes}))
    met = all(
        row["ratio"] <= (GOAL_PROCESS if "process" in name else GOAL_LOAD)
        for name, row in rows.items()
    )
    small, medium, big_one = (entry["ms"] for entry in sizes[1:])
    per_mb = ((medium - small) / 0.825, (big_one - medium) / 9)
    print(f"each further MB: {per_mb[0]:.0f} ms up to 1 MB, {per_mb[1]:.0f} ms up to 10 MB")
    met = met and per_mb[1] <= 2 * max(per_mb[0], 10)
    goals = f"ratio <= {GOAL_LOAD}, as a process <= {GOAL_PROCESS}, linear"
    print(f"goals ({goals}): {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
