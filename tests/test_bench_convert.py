"""The benchmark of conversion measures what it says, on the small image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.bench_convert import ROOT, Sample, goals, summary, table
from tests.servers import client


def test_goals_are_compared_by_medians() -> None:
    samples = {
        "regular": [Sample(60), Sample(70), Sample(200)],
        "nydus": [Sample(30), Sample(36), Sample(10)],
        "nydus again": [Sample(2, read=20_000_000, written=20_000_000)],
    }
    found = {row["goal"]: (row["measured"], row["reached"]) for row in goals(samples, 100, 90)}
    assert found["nydus / regular"] == (30 / 70, True)
    assert found["nydus again: seconds"] == (2, True)
    assert found["nydus again: moved"] == (40, False)
    assert found["ctr-remote / estargz"] == (None, None)


def test_table_shows_the_spread() -> None:
    rows = summary(
        {"regular": [Sample(1), Sample(2), Sample(4)], "nydus": [Sample(1, memory=10**7)]}
    )
    assert rows[1]["ratio_to_regular"] == 0.5
    assert "2.00 (1.00..4.00)" in table(rows)
    assert "10.0" in table(rows).splitlines()[-1]


def test_small_image(tmp_path: Path) -> None:
    for name in ("registry", "skopeo", "nydus-image"):
        client(name)
    command = [sys.executable, str(ROOT / "tests" / "bench_convert.py"), "--image", "small"]
    command += ["--runs", "1", "--only", "nydus,nydus-index,estargz,zstdchunked"]
    command += ["--json", str(tmp_path / "result.json")]
    environment = {**os.environ, "LAZYCI_IMAGES": str(tmp_path / "images")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    found = {row["name"]: row for row in result["summary"]}
    # The registry sent the whole image, and the second time the new layer only.
    size = result["image"]["compressed"]
    for form in ("nydus", "estargz"):
        assert size <= found[form]["read"] < 1.1 * size
        assert found[f"{form} again"]["read"] < 0.3 * size
        assert found[form]["written"] > 0.5 * size
