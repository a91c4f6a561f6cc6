"""How long a container takes from nothing to the end of its first work: lazily and not.

Side by side in one run on one machine, interleaved: in each round every contestant runs once, on an
agent of its own that holds nothing, with an empty page cache; then once more on the same agent
(warm). `lazyci pull` is in the way of all of them. Linux, root; the images are those of
tests/images/make.py.

python tests/bench_start.py [--image cpu|cuda] [--runs N] [--latency MS] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# As a script this module finds its own folder, not the package.
sys.path.insert(0, str(ROOT))

from tests.agents import root as agents  # noqa: E402
from tests.clients.install import installed  # noqa: E402
from tests.e2e.agents import LAZYCI, DockerAgent, docker_agent  # noqa: E402
from tests.images import make as images  # noqa: E402
from tests.servers import registry, toxiproxy  # noqa: E402

# Contestant: the agent's kind, and the variant's format; without one the pull is regular.
CONTESTANTS = {
    "regular": ("nydus", ""),
    "nydus": ("nydus", "nydus"),
    "nydus-index": ("nydus", "nydus-index"),
    "estargz": ("estargz", "estargz"),
}
# For the CUDA image, without delay.
GOALS = {"nydus": 0.15, "estargz": 0.30}
WORK = "import torch; a = torch.rand(500, 500); print((a @ a).shape)"
MB = 1_000_000
_SENT = re.compile(r'"GET /v2/\S+/blobs/\S+ HTTP/[\d.]+" \d+ (\d+) ')


@dataclass
class Start:
    """One cold start, and the one after it: seconds, and megabytes of blobs that the agent read."""

    rung: str
    pull: float
    run: float
    total: float
    warm: float
    read: float


class Bench:
    """The image in a registry of each format, made once."""

    def __init__(self, image: str, scratch: Path) -> None:
        self._scratch = scratch
        layout = images.make(image)
        self._pristine = layout.with_name(f"{layout.name}-registry")
        if not self._pristine.is_dir():
            raise agents.AgentError(
                f"tests/bench_convert.py --image {image} makes {self._pristine}"
            )
        self._made: dict[str, Path] = {}

    @contextlib.contextmanager
    def _registry(self, data: Path) -> Iterator[tuple[str, Path]]:
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            subprocess.run(["cp", "-al", str(data), f"{folder}/data"], check=True)
            with registry(Path(folder)) as address:
                yield address, Path(folder)

    def _data(self, form: str) -> Path:
        """The registry's data with the variant of a format."""
        if not form:
            return self._pristine
        if form not in self._made:
            with self._registry(self._pristine) as (address, folder):
                environment = {
                    **os.environ,
                    "LAZYCI_CACHE": str(folder / "cache"),
                    "LAZYCI_NYDUS_IMAGE": str(installed("nydus-image")),
                }
                subprocess.run(
                    [str(LAZYCI), "convert", "--format", form, f"{address}/bench/app:1"],
                    env=environment, check=True, capture_output=True,
                )  # fmt: skip
                self._made[form] = self._scratch / f"data-{form}"
                subprocess.run(["cp", "-al", f"{folder}/data", str(self._made[form])], check=True)
        return self._made[form]

    def start(self, name: str, latency: int) -> Start:
        """One contestant's run."""
        kind, form = CONTESTANTS[name]
        with contextlib.ExitStack() as stack:
            address, folder = stack.enter_context(self._registry(self._data(form)))
            agent = stack.enter_context(docker_agent(kind, folder))
            if latency:
                proxy = stack.enter_context(toxiproxy(folder)).add(address)
                proxy.toxic("latency", latency=latency)
                address = proxy.address
            agents.drop_caches()
            return _start(agent, f"{address}/bench/app:1", bool(form), folder)


def _start(agent: DockerAgent, image: str, lazily: bool, folder: Path) -> Start:
    before = _sent(folder)
    began = time.monotonic()
    sample = agent.pull(image, lazily=lazily)
    pulled = time.monotonic()
    agent.run(image, "python3", "-c", WORK)
    ended = time.monotonic()
    read = _sent(folder) - before
    agent.run(image, "python3", "-c", WORK)
    warm = time.monotonic() - ended
    return Start(sample["rung"], pulled - began, ended - pulled, ended - began, warm, read / MB)


def _sent(folder: Path) -> int:
    text = (folder / "registry.log").read_text(errors="replace")
    return sum(map(int, _SENT.findall(text)))


def table(found: dict[str, list[Start]], goals: dict[str, float]) -> str:
    """Medians, with the spread of the whole, and the ratio to the regular pull in the same round."""
    rows = [
        "contestant    rung                 pull    run  total (min..max)      of regular  warm   MB"
    ]
    for name, starts in found.items():
        totals = [one.total for one in starts]
        pairs = zip(starts, found["regular"], strict=False)
        ratio = statistics.median(one.total / other.total for one, other in pairs)
        pull, run, warm, read = (
            statistics.median(getattr(one, field) for one in starts)
            for field in ("pull", "run", "warm", "read")
        )
        rows.append(
            f"{name:<13} {starts[-1].rung:<18} {pull:>6.1f} {run:>6.1f} "
            f"{statistics.median(totals):>6.1f} ({min(totals):.1f}..{max(totals):.1f}) "
            f"{ratio:>12.2f} {warm:>6.1f} {read:>6.0f}"
        )
        if name in goals:
            rows[-1] += f"   <= {goals[name]}: {'reached' if ratio <= goals[name] else 'MISSED'}"
    return "\n".join(rows)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure cold starts.")
    parser.add_argument("--image", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency", type=int, default=0, help="milliseconds for each answer")
    parser.add_argument("--only", default=",".join(CONTESTANTS), metavar="NAME,...")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples here")
    options = parser.parse_args()
    names = ["regular", *(name for name in options.only.split(",") if name != "regular")]
    found: dict[str, list[Start]] = {name: [] for name in names}
    scratch = Path(tempfile.mkdtemp(prefix="start-", dir=images.make(options.image).parent))
    try:
        bench = Bench(options.image, scratch)
        for number in range(options.runs):
            for name in names:
                found[name].append(bench.start(name, options.latency))
                print(f"round {number + 1}: {name} {found[name][-1].total:.1f} s", file=sys.stderr)
    except agents.AgentError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch)
    print(f"{options.image}, {os.cpu_count()} cores, {options.latency} ms per answer")
    print(table(found, GOALS if options.image == "cuda" and not options.latency else {}))
    if options.json:
        samples = {name: [asdict(one) for one in starts] for name, starts in found.items()}
        options.json.write_text(json.dumps(samples, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
