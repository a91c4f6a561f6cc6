"""How long `lazyci convert` takes beside the regular pull of the same image, and beside its peers.

Side by side in one run on one machine: in each round every contestant runs once, from the same
registry on the loopback, with an empty page cache; then all start again from the same data. The
figures are medians with their spread. Only programs that users run are run.

python tests/bench_convert.py [--image small|cpu|cuda] [--runs N] [--peers N] [--only NAME,...]
                              [--json FILE]

The regular pull and two peers run in an agent (tests/agents/root.py: Linux, root); without one they
are left out, with the reason. `cuda` makes 5.2 GB of image first (about 5 minutes, once). A round
takes about 4 minutes with it, the peers about 15.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# As a script this module finds its own folder, not the package.
sys.path.insert(0, str(ROOT))

from tests.agents import root as agents  # noqa: E402
from tests.clients import install  # noqa: E402
from tests.images import make as images  # noqa: E402
from tests.servers import registry  # noqa: E402

LAZYCI = Path(sys.executable).parent / "lazyci"
FORMATS = ("nydus", "nydus-index", "estargz", "zstdchunked")
IN_AGENT = ("regular", "ctr-remote", "buildkit")
PEERS = ("go-nydus", "go-nydus-index", "buildkit", "ctr-remote")
NAMES = ("regular", *FORMATS, *PEERS)
MB = 1_000_000
SAMPLE_EVERY = 0.1
_REQUEST = re.compile(r'"([A-Z]+) (\S+) HTTP/[\d.]+" \d+ (\d+) ')


class BenchError(Exception):
    """A contestant failed; holds its command and the end of what it printed."""


@dataclass
class Sample:
    """One run: seconds, and bytes (0 where they were not measured)."""

    seconds: float
    read: int = 0
    written: int = 0
    memory: int = 0
    disk: int = 0
    parts: dict[str, float] = field(default_factory=dict)


class Watch:
    """Samples the memory of a process with its children, and what they keep in a folder."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.memory = self.disk = 0
        self._pid, self._folder = pid, folder
        self._seen: set[int] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_EVERY):
            with contextlib.suppress(OSError):
                self._sample()

    def _sample(self) -> None:
        family = _family(self._pid)
        # A process seen for the first time may still share its memory with its parent.
        known = [pid for pid in family if pid in self._seen]
        self._seen.update(family)
        self.memory = max(self.memory, sum(_peak_memory(pid) for pid in known))
        unlinked = sum(_unlinked(pid, self._folder) for pid in known)
        self.disk = max(self.disk, _stored(self._folder) + unlinked)


def _family(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _peak_memory(pid: int) -> int:
    """Return the most resident memory that a process had; 0 for nydus-image, and for one that is gone."""
    with contextlib.suppress(OSError):
        facts = Path(f"/proc/{pid}/status").read_text()
        peak = re.search(r"^VmHWM:\s+(\d+) kB", facts, re.MULTILINE)
        if peak and not facts.startswith("Name:\tnydus-image\n"):
            return int(peak[1]) * 1024
    return 0


def _stored(folder: Path) -> int:
    total = 0
    for inside, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(inside, name)).st_blocks * 512
    return total


def _unlinked(pid: int, folder: Path) -> int:
    """Return the size of the files in a folder that a process holds open though they have no name."""
    total = 0
    with contextlib.suppress(OSError):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(handle).startswith(str(folder)):
                    facts = handle.stat()
                    if stat.S_ISREG(facts.st_mode) and not facts.st_nlink:
                        total += facts.st_blocks * 512
    return total


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        end = (done.stderr or done.stdout).decode(errors="replace")[-2000:]
        raise BenchError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{end}")
    return done.stdout.decode()


def _watched(command: list[str], environment: dict[str, str], folder: Path) -> tuple[Sample, str]:
    """Run a command to its end with its temporary files in a folder; return figures and output."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        with Watch(process.pid, folder) as watch:
            process.wait()
            seconds = time.perf_counter() - started
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            end = errors.read().decode(errors="replace")[-2000:]
            raise BenchError(f"{' '.join(command)}: exit {process.returncode}\n{end}")
        return Sample(seconds, memory=watch.memory, disk=watch.disk), output.read().decode()


def _client(name: str) -> str:
    path = install.installed(name) if name in install.CLIENTS else None
    if path is None:
        raise BenchError(f"{name} is not installed: make clients")
    return str(path)


class Store:
    """One registry with the image, as it is before anything was converted."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.image, self.changed = f"{address}/bench/app:1", f"{address}/bench/app:2"
        self._log = folder / "registry.log"
        self._data = folder / "data"

    @contextlib.contextmanager
    def counted(self, sample: Sample) -> Iterator[None]:
        """Put into a sample what the registry sends and what it stores within the block."""
        place, before = self._log.stat().st_size, self._size()
        yield
        with self._log.open("rb") as log:
            log.seek(place)
            requests = _REQUEST.findall(log.read().decode(errors="replace"))
        sample.read = sum(int(size) for method, _, size in requests if method == "GET")
        sample.written = self._size() - before

    def _size(self) -> int:
        return sum(
            os.lstat(os.path.join(inside, name)).st_size
            for inside, _, files in os.walk(self._data)
            for name in files
        )


class Bench:
    """The image, the agent, and the contestants; each returns the samples of one run by name."""

    def __init__(self, image: str, agent: agents.Agent | None, scratch: Path) -> None:
        self.layout, self.changed = images.make(image), images.make(f"{image}-changed")
        self.agent, self._scratch = agent, scratch
        sizes = [layer["size"] for layer in _manifest(self.layout)["layers"]]
        self.size, self.largest = sum(sizes), max(sizes)
        self._pristine = self._push_images()

    def _push_images(self) -> Path:
        """Return a registry's data with both images, kept beside the layouts."""
        target = self.layout.with_name(f"{self.layout.name}-registry")
        if not target.is_dir():
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                with registry(scratch) as address:
                    copy = [_client("skopeo"), "copy", "-q", "--insecure-policy"]
                    copy += ["--preserve-digests", "--dest-tls-verify=false"]
                    for tag, layout in (("1", self.layout), ("2", self.changed)):
                        _run([*copy, f"oci:{layout}:latest", f"docker://{address}/bench/app:{tag}"])
                (scratch / "data").rename(target)
            finally:
                shutil.rmtree(scratch)
        return target

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """Serve the image from a registry of its own, with nothing in the page cache."""
        with tempfile.TemporaryDirectory(prefix="registry-", dir=self._pristine.parent) as made:
            # Hard links: the registry replaces files and never writes into one.
            _run(["cp", "-al", str(self._pristine), f"{made}/data"])
            with registry(Path(made)) as address:
                _drop_caches()
                yield Store(address, Path(made))

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Give an empty folder."""
        with tempfile.TemporaryDirectory(prefix="work-", dir=self._scratch) as made:
            yield Path(made)

    def regular(self) -> dict[str, Sample]:
        """Pull and unpack by containerd, onto overlayfs."""
        agent = self._cold_agent()
        pull = ["ctr", "image", "pull", "--plain-http", "--snapshotter", "overlayfs"]
        with self.store() as store:
            sample = Sample(0)
            with store.counted(sample):
                sample.seconds = _timed(agent.command(*pull, store.image))
        return {"regular": sample}

    def lazyci(self, form: str) -> dict[str, Sample]:
        """Convert without any record, then the image of which only the top layer is another."""
        with self.store() as store, self.folder() as work:
            first = self._convert(form, store, store.image, work)
            _drop_caches()
            again = self._convert(form, store, store.changed, work)
        return {form: first, f"{form} again": again}

    def _convert(self, form: str, store: Store, image: str, work: Path) -> Sample:
        temporary = work / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "LAZYCI": "on",
            "LAZYCI_CACHE": str(work / "cache"),
            "LAZYCI_NYDUS_IMAGE": _client("nydus-image"),
            "TMPDIR": str(temporary),
        }
        command = [str(LAZYCI), "convert", "--format", form, "--output", "json", image]
        counted = Sample(0)
        with store.counted(counted):
            sample, output = _watched(command, environment, temporary)
        sample.read, sample.written = counted.read, counted.written
        result = json.loads(output)["images"][0]
        sample.parts = {name: result[name] for name in ("bytes_in", "bytes_out")}
        if left := list(temporary.iterdir()):
            raise BenchError(f"lazyci left temporary files: {left}")
        return sample

    def go_nydus(self, *options: str) -> dict[str, Sample]:
        """Convert by nydus-snapshotter's library: pull, convert, merge, push."""
        with self.store() as store, self.folder() as work:
            command = [_client("nydusconvert"), "-nydus-image", _client("nydus-image")]
            command += ["-work", str(work), *options, store.image, f"{store.image}-go"]
            counted = Sample(0)
            with store.counted(counted):
                sample, output = _watched(command, {**os.environ, "TMPDIR": str(work)}, work)
            sample.read, sample.written = counted.read, counted.written
            sample.parts = json.loads(output)
        return {"go-nydus-index" if options else "go-nydus": sample}

    def ctr_remote(self) -> dict[str, Sample]:
        """Convert by stargz-snapshotter's ctr-remote: pull, convert, push."""
        agent = self._cold_agent()
        with self.store() as store:
            target = f"{store.image}-ctr-remote"
            parts = {
                "pull": ["pull", "--plain-http", store.image],
                "convert": ["convert", "--estargz", "--oci", store.image, target],
                "push": ["push", "--plain-http", target],
            }
            sample = Sample(0)
            with store.counted(sample):
                for name, arguments in parts.items():
                    command = agent.command("ctr-remote", "image", *arguments)
                    sample.parts[name] = _timed(command)
            sample.seconds = sum(sample.parts.values())
        return {"ctr-remote": sample}

    def buildkit(self) -> dict[str, Sample]:
        """Convert by a build that is only `FROM image`: BuildKit's eStargz export and push."""
        agent = self._cold_agent()
        for name in ("buildkitd", "buildctl"):
            shutil.copy(_client(name), agent.root / "usr/local/bin" / name)
        with self.store() as store:
            context = agent.root / "bench"
            context.mkdir(exist_ok=True)
            (context / "Dockerfile").write_text(f"FROM {store.image}\n")
            config = (
                f'[registry."{store.address}"]\nhttp = true\n[worker.containerd]\nenabled = false\n'
            )
            (context / "buildkitd.toml").write_text(config)
            daemon = agent.start("buildkitd", "buildkitd", "--config", "/bench/buildkitd.toml")
            try:
                agent.wait("buildctl", "debug", "workers", daemon=daemon, name="buildkitd")
                output = f"type=image,name={store.image}-buildkit,push=true,compression=estargz"
                output += ",force-compression=true,oci-mediatypes=true"
                build = ["buildctl", "build", "--frontend", "dockerfile.v0", "--output", output]
                build += ["--local", "context=/bench", "--local", "dockerfile=/bench"]
                sample = Sample(0)
                _drop_caches()
                with store.counted(sample):
                    sample.seconds = _timed(agent.command(*build))
            finally:
                agent.stop(daemon)
                agent.forget("var/lib/buildkit")
        return {"buildkit": sample}

    def _cold_agent(self) -> agents.Agent:
        assert self.agent is not None
        self.agent.cold()
        return self.agent

    def contestant(self, name: str) -> Callable[[], dict[str, Sample]]:
        """Return what runs a contestant once."""
        if name in FORMATS:
            return lambda: self.lazyci(name)
        return {
            "regular": self.regular,
            "go-nydus": self.go_nydus,
            "go-nydus-index": lambda: self.go_nydus("-oci-ref"),
            "ctr-remote": self.ctr_remote,
            "buildkit": self.buildkit,
        }[name]


def _manifest(layout: Path) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest: dict[str, Any] = json.loads((layout / "blobs" / "sha256" / digest).read_text())
    return manifest


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    _run(command)
    return time.perf_counter() - started


def _drop_caches() -> None:
    if os.geteuid() == 0:
        agents.drop_caches()


Samples = dict[str, list[Sample]]


def _median(samples: Samples, name: str, what: str = "seconds") -> float | None:
    found = samples.get(name)
    return statistics.median(getattr(sample, what) for sample in found) if found else None


def goals(samples: Samples, size: int, largest: int) -> list[dict[str, Any]]:
    """Return each goal of the project with what was measured; None where it was not.

    Args:
        samples: By contestant.
        size: Compressed bytes of all layers of the original.
        largest: Compressed bytes of its largest layer.
    """
    table: list[tuple[str, float | None, str, float, str]] = []

    def ratio(a: str, b: str, sign: str, limit: float) -> None:
        over, under = _median(samples, a), _median(samples, b)
        table.append((f"{a} / {b}", over / under if over and under else None, sign, limit, ""))

    def figure(name: str, what: str, limit: float, unit: float, text: str) -> None:
        value = _median(samples, name, what)
        table.append(
            (f"{name}: {what}", None if value is None else value / unit, "<=", limit / unit, text)
        )

    ratio("nydus", "regular", "<=", 0.5)
    ratio("go-nydus", "nydus", ">=", 2)
    ratio("nydus-index", "regular", "<=", 0.7)
    ratio("estargz", "regular", "<=", 0.8)
    ratio("ctr-remote", "estargz", ">=", 10)
    figure("estargz", "written", 1.10 * size, size, "of the original's size")
    for form in FORMATS:
        if f"{form} again" in samples:
            figure(f"{form} again", "seconds", 3, 1, "s")
            moved = statistics.median(s.read + s.written for s in samples[f"{form} again"]) / MB
            table.append((f"{form} again: moved", moved, "<=", 30, "MB"))
            figure(form, "memory", 400 * MB, MB, "MB")
            figure(form, "disk", largest, MB, "MB")
    return [
        {
            "goal": name,
            "measured": value,
            "limit": f"{sign} {limit:.4g} {unit}".strip(),
            "reached": None
            if value is None
            else (value <= limit if sign == "<=" else value >= limit),
        }
        for name, value, sign, limit, unit in table
    ]


def summary(samples: Samples) -> list[dict[str, Any]]:
    """Return one row per contestant: medians, spread, and the ratio to the regular pull."""
    regular = _median(samples, "regular")
    rows = []
    for name, runs in samples.items():
        seconds = [sample.seconds for sample in runs]
        median = statistics.median(seconds)
        row: dict[str, Any] = {
            "name": name,
            "runs": len(runs),
            "seconds": {"median": median, "min": min(seconds), "max": max(seconds)},
            "ratio_to_regular": median / regular if regular else None,
            "watched": name not in IN_AGENT,
        }
        for what in ("read", "written", "memory", "disk"):
            row[what] = _median(samples, name, what)
        names = runs[0].parts
        row["parts"] = {part: statistics.median(run.parts[part] for run in runs) for part in names}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text; bytes are those of the registry, in MB."""
    lines = [
        f"{'contestant':18}{'runs':>5}{'seconds (min..max)':>26}{'of regular':>11}"
        f"{'sent':>9}{'stored':>9}{'memory':>8}{'disk':>8}"
    ]
    for row in rows:
        seconds, share = row["seconds"], row["ratio_to_regular"]
        spread = f"{seconds['median']:.2f} ({seconds['min']:.2f}..{seconds['max']:.2f})"
        line = f"{row['name']:18}{row['runs']:>5}{spread:>26}"
        line += f"{share:>11.2f}" if share else f"{'-':>11}"
        for what, width in (("read", 9), ("written", 9), ("memory", 8), ("disk", 8)):
            # Those that run in the agent are not watched.
            figure = f"{row[what] / MB:.1f}" if row["watched"] or width == 9 else "-"
            line += f"{figure:>{width}}"
        lines.append(line)
    return "\n".join(lines)


def goal_table(rows: list[dict[str, Any]]) -> str:
    """Return the goals as text."""
    words = {True: "reached", False: "MISSED", None: "not measured"}
    lines = []
    for row in rows:
        measured = "-" if row["measured"] is None else f"{row['measured']:.3g}"
        lines.append(f"{row['goal']:26}{measured:>8}  {row['limit']:34}{words[row['reached']]}")
    return "\n".join(lines)


def measure(bench: Bench, names: list[str], runs: int, peers: int) -> tuple[Samples, list[str]]:
    """Run the contestants in turn, peers in the first rounds only; return samples and failures."""
    samples: Samples = {}
    failures: dict[str, str] = {}
    for number in range(max(runs, peers)):
        for name in names:
            if number >= (peers if name in PEERS else runs) or name in failures:
                continue
            try:
                result = bench.contestant(name)()
            except (BenchError, agents.AgentError) as error:
                failures[name] = f"{name}: {error}"
                print(f"{name}: FAILED", file=sys.stderr, flush=True)
                continue
            for key, sample in result.items():
                samples.setdefault(key, []).append(sample)
                print(f"round {number + 1}: {key} {sample.seconds:.2f} s", file=sys.stderr)
    order = [name + suffix for name in NAMES for suffix in ("", " again")]
    return {name: samples[name] for name in order if name in samples}, list(failures.values())


def _names(options: argparse.Namespace) -> list[str]:
    wanted = options.only.split(",") if options.only else list(NAMES)
    if not options.peers:
        wanted = [name for name in wanted if name not in PEERS]
    reason = agents.unavailable()
    if reason and any(name in IN_AGENT for name in wanted):
        print(f"{', '.join(IN_AGENT)} are left out: {reason}", file=sys.stderr)
        wanted = [name for name in wanted if name not in IN_AGENT]
    return [name for name in NAMES if name in wanted]


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "clients": {name: client.version for name, client in install.CLIENTS.items()},
        "agent": agents.PACKAGES,
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure lazyci convert beside pull and peers.")
    parser.add_argument("--image", choices=list(images.IMAGES), default="cuda")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--peers", type=int, default=0, metavar="N", help="runs of each peer")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples here")
    options = parser.parse_args()
    if unknown := set((options.only or NAMES[0]).split(",")) - set(NAMES):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(NAMES)}")
    names = _names(options)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lazyci-bench-")))
        needs_agent = any(name in IN_AGENT for name in names)
        agent = stack.enter_context(agents.agent(scratch)) if needs_agent else None
        bench = Bench(options.image, agent, scratch)
        samples, failures = measure(bench, names, options.runs, options.peers)
    rows, reached = summary(samples), goals(samples, bench.size, bench.largest)
    result = {
        "image": {"name": options.image, "compressed": bench.size, "largest_layer": bench.largest},
        "machine": _machine(),
        "summary": rows,
        "goals": reached,
        "samples": {name: [asdict(run) for run in runs] for name, runs in samples.items()},
        "failures": failures,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{options.image}: {bench.size / MB:.0f} MB compressed, {os.cpu_count()} cores\n")
    print(table(rows), goal_table(reached), *failures, sep="\n\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
