"""The command line, as its users call it: in processes of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lazyci.errors import exit_codes

PIPELINE = """\
# ours
steps:
  - key: build
    command: docker push reg.example/app:$BUILDKITE_COMMIT
  - plugins:
      - docker#v5.2.0:
          image: reg.example/app:$BUILDKITE_COMMIT
          always-pull: true
"""


def lazyci(
    *arguments: str, cwd: Path, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lazyci", *arguments],
        cwd=cwd,
        input=stdin,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".buildkite").mkdir()
    (tmp_path / ".buildkite" / "pipeline.yml").write_text(PIPELINE)
    return tmp_path


def test_the_way_of_a_new_user(repository: Path) -> None:
    path = ".buildkite/pipeline.yml"
    done = lazyci("init", cwd=repository)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "wrote lazyci.yaml"
    assert "wrote .buildkite/plugins/lazyci/hooks/pre-command" in lines
    assert lines[-2:] == [f"  lazyci plan {path}", f"  lazyci generate --write {path}"]
    assert os.access(repository / ".buildkite/plugins/lazyci/hooks/pre-command", os.X_OK)

    plan = lazyci("plan", path, cwd=repository)
    assert b"convert step lazyci-convert-app after it" in plan.stdout
    assert b":4:26  build, docker push, in build" in plan.stdout

    assert lazyci("generate", "--check", path, cwd=repository).returncode == 1
    diff = lazyci("generate", "--diff", path, cwd=repository)
    assert b"+          always-pull: false" in diff.stdout
    assert (repository / path).read_text() == PIPELINE

    written = lazyci("generate", "--write", path, cwd=repository)
    assert b"to take it back: lazyci generate --undo --write" in written.stderr
    assert lazyci("generate", "--check", path, cwd=repository).returncode == 0
    assert "lazyci-convert-app" in (repository / path).read_text()

    assert lazyci("generate", "--undo", "--write", path, cwd=repository).returncode == 0
    assert (repository / path).read_text() == PIPELINE
    assert sorted(p.name for p in (repository / ".buildkite").iterdir()) == [
        "pipeline.yml",
        "plugins",
    ]


def test_init_keeps_what_is_there(repository: Path) -> None:
    (repository / "lazyci.yaml").write_text("format: estargz\n")
    done = lazyci("init", cwd=repository)
    assert done.stdout.startswith(b"kept lazyci.yaml")
    assert (repository / "lazyci.yaml").read_text() == "format: estargz\n"


def test_init_finds_builds_in_scripts(tmp_path: Path) -> None:
    (tmp_path / "generated.yml").write_text(
        "steps:\n  - key: image\n    command: ./build.sh\n  - depends_on: image\n    plugins:\n"
        "      - docker#v5: {image: 'reg.example/app:$BUILDKITE_COMMIT'}\n"
    )
    done = lazyci("init", "generated.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "lazyci.yaml").read_text()
    assert "step: image" in settings
    assert "image: reg.example/app:$BUILDKITE_COMMIT" in settings
    result = lazyci("generate", "generated.yml", cwd=tmp_path)
    assert b"lazyci-convert-app" in result.stdout
    assert b"./.buildkite/plugins/lazyci" in result.stdout


def test_init_where_nothing_is(tmp_path: Path) -> None:
    done = lazyci("init", cwd=tmp_path)
    assert done.returncode == 0
    assert b"No pipeline was found" in done.stdout
    assert lazyci("config", "check", cwd=tmp_path).stdout.strip().endswith(b"valid")


def test_plan_json(repository: Path) -> None:
    done = lazyci("plan", "--output", "json", ".buildkite/pipeline.yml", cwd=repository)
    (plan,) = json.loads(done.stdout)["files"]
    assert plan["system"] == "buildkite"
    assert [site["role"] for site in plan["sites"]] == ["build", "pull"]
    assert plan["conversions"][0]["waits_for"] == ["build"]


def test_a_build_in_one_file_makes_its_image_known_in_another(repository: Path) -> None:
    (repository / "test.yml").write_text("steps:\n  - command: docker pull reg.example/app:1\n")
    alone = lazyci("generate", "test.yml", cwd=repository)
    assert b"lazyci" not in alone.stdout
    both = lazyci("generate", "--diff", ".buildkite/pipeline.yml", "test.yml", cwd=repository)
    assert b"( lazyci pull reg.example/app:1 || docker pull reg.example/app:1 )" in both.stdout


# The filter


def test_filter(tmp_path: Path) -> None:
    done = lazyci("generate", "-", cwd=tmp_path, stdin=PIPELINE.encode())
    assert done.returncode == 0
    assert b"lazyci-convert-app" in done.stdout
    undone = lazyci("generate", "--undo", "-", cwd=tmp_path, stdin=done.stdout)
    assert undone.stdout == PIPELINE.encode()


BROKEN = {
    "not YAML": b"steps: [",
    "no pipeline": b"hello: world\n",
    "not UTF-8": b"steps:\n  - command: \xff\n",
    "several documents": b"steps: []\n---\nsteps: []\n",
    "nothing": b"",
    "binary": bytes(range(256)),
    "deep": b"[" * 10_000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_filter_passes_on_what_it_cannot_read(name: str, tmp_path: Path) -> None:
    done = lazyci("generate", "-", cwd=tmp_path, stdin=BROKEN[name])
    assert done.returncode == 0
    assert done.stdout == BROKEN[name]
    assert b"passed on unchanged" in done.stderr
    strict = lazyci("generate", "--strict", "-", cwd=tmp_path, stdin=BROKEN[name])
    assert strict.returncode in (65, 66)
    assert strict.stdout == b""


@pytest.mark.parametrize(
    ("settings", "template", "code"),
    [
        ("imges: []", "", 78),
        ("templates: t", "- {{ nothing }}", 67),
        ("templates: t", "- label: no key", 67),
        ("templates: t", "key: lazyci-x\n  bad: [", 67),
        ("templates: t", "{% for %}", 67),
        ("templates: t", "{{ ().__class__.__bases__ }}", 67),
        ("templates: t", "# comment first\n- key: lazyci-convert-x", 67),
        ("templates: t", "- key: lazyci-convert-x\n  command: {{ range(10 ** 9) | list }}", 67),
    ],
)
def test_filter_survives_broken_settings(
    settings: str, template: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "lazyci.yaml").write_text(settings)
    (tmp_path / "t" / "buildkite").mkdir(parents=True)
    (tmp_path / "t" / "buildkite" / "convert-step.yml.j2").write_text(template)
    done = lazyci("generate", "-", cwd=tmp_path, stdin=PIPELINE.encode())
    assert done.returncode == 0
    assert done.stdout == PIPELINE.encode()
    strict = lazyci("generate", "--strict", "-", cwd=tmp_path, stdin=PIPELINE.encode())
    assert strict.returncode == code
    assert strict.stdout == b""


def test_templates_can_be_replaced(repository: Path) -> None:
    folder = repository / "mine" / "buildkite"
    folder.mkdir(parents=True)
    (folder / "convert-step.yml.j2").write_text(
        "- key: {{ name }}\n  label: mine\n  depends_on: {{ builds | flow }}\n"
        "  command: {{ command | yaml }}\n"
    )
    (repository / "lazyci.yaml").write_text("templates: mine\n")
    done = lazyci("generate", ".buildkite/pipeline.yml", cwd=repository)
    assert b"label: mine" in done.stdout


def test_filter_leaves_pulls_alone_where_their_plugin_is_missing(repository: Path) -> None:
    """The pipeline is uploaded at once, and a missing plugin would fail its jobs."""
    done = lazyci("generate", "-", cwd=repository, stdin=PIPELINE.encode())
    assert b"plugins/lazyci" not in done.stdout
    assert b"always-pull: true" in done.stdout
    assert b"lazyci-convert-app" in done.stdout
    assert b"is not in this checkout" in done.stderr
    lazyci("init", cwd=repository)
    done = lazyci("generate", "-", cwd=repository, stdin=PIPELINE.encode())
    assert b"plugins/lazyci" in done.stdout


@pytest.mark.parametrize("data", [b"x" * 50_000_000, b"steps: [" + b"a, " * 1_000_000 + b"a]"])
def test_bounded_memory(data: bytes, tmp_path: Path) -> None:
    """Even a line of 50 MB ends in a plain error, within 2 GB of address space and a minute."""
    limit = 2_000_000_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "lazyci", "generate", "-"],
        input=data,
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=60,
        preexec_fn=limited,
    )
    assert done.returncode == 0
    assert done.stdout == data
    assert b"MemoryError" not in done.stderr


def test_filter_survives_wrong_options_and_broken_libraries(tmp_path: Path) -> None:
    for arguments in (("-", "--bogus"), ("-", "--write"), ("-", "more")):
        done = lazyci("generate", *arguments, cwd=tmp_path, stdin=PIPELINE.encode())
        assert (done.returncode, done.stdout) == (0, PIPELINE.encode())
        assert b"passed on unchanged" in done.stderr
    (tmp_path / "yaml.py").write_text("raise ImportError('broken')")
    broken = {"PYTHONPATH": str(tmp_path)}
    done = lazyci("generate", "-", cwd=tmp_path, stdin=PIPELINE.encode(), environment=broken)
    assert (done.returncode, done.stdout) == (0, PIPELINE.encode())


def test_the_unforeseen_is_no_finding(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise RuntimeError('broken')")
    (tmp_path / "p.yml").write_text(PIPELINE)
    broken = {"PYTHONPATH": str(tmp_path)}
    done = lazyci("generate", "--check", "p.yml", cwd=tmp_path, environment=broken)
    assert done.returncode == 70
    assert b"RuntimeError: broken" in done.stderr


def test_the_documented_line_keeps_the_input_without_python(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(PIPELINE)
    line = "lazyci generate - < p > q || cp p q"
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=tmp_path,
        env={"PATH": "/bin:/usr/bin"},
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0
    assert (tmp_path / "q").read_text() == PIPELINE


# Writing


def test_links_and_permissions_stay(repository: Path) -> None:
    real = repository / ".buildkite" / "pipeline.yml"
    real.chmod(0o640)
    (repository / "link.yml").symlink_to(real)
    assert lazyci("generate", "--write", "link.yml", cwd=repository).returncode == 0
    assert (repository / "link.yml").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "lazyci-convert-app" in real.read_text()


def test_nothing_is_written_when_one_file_is_bad(repository: Path) -> None:
    (repository / "bad.yml").write_text("steps: [")
    done = lazyci("generate", "--write", ".buildkite/pipeline.yml", "bad.yml", cwd=repository)
    assert done.returncode == 65
    assert b"bad.yml:1:9: not YAML" in done.stderr
    assert (repository / ".buildkite/pipeline.yml").read_text() == PIPELINE


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text(PIPELINE)
    (tmp_path / "p.yml").chmod(0)
    assert lazyci("plan", "p.yml", cwd=tmp_path).returncode == 65


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for name in ("none.yml", "."):
        done = lazyci("plan", name, cwd=tmp_path)
        assert done.returncode == 65
        assert f"{name}: cannot be read".encode() in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "a", "b"),
        ("generate", "a", "--write", "--diff"),
        ("generate",),
        ("plans",),
        ("plan",),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert lazyci(*arguments, cwd=tmp_path).returncode == 2


def test_a_misspelled_command_gets_a_hint(tmp_path: Path) -> None:
    assert b"Did you mean 'generate'?" in lazyci("generat", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    "command",
    [(), ("init",), ("plan",), ("generate",), ("pull",), ("config",), ("config", "schema")],
)
def test_every_help_has_an_example(command: tuple[str, ...], tmp_path: Path) -> None:
    done = lazyci(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert b"Example:" in done.stdout


def test_the_script_is_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("lazyci")
    done = subprocess.run([script, "--help"], capture_output=True, check=True, cwd=tmp_path)
    assert done.stdout == lazyci("--help", cwd=tmp_path).stdout


def test_exit_codes_are_distinct_and_documented() -> None:
    codes = exit_codes()
    assert codes[0] == "success"
    assert all(codes.values())
    assert set(codes) == {0, 1, 2, 3, 65, 66, 67, 68, 69, 70, 72, 73, 76, 77, 78}


# lazyci pull

DOCKER = """#!/bin/sh
echo "$@"
exit 42
"""


def test_pull_is_docker_pull(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = lazyci(
        "pull",
        "--wait",
        "5",
        "-q",
        "--platform",
        "linux/arm64",
        "reg.example/app:1",
        cwd=tmp_path,
        environment=environment,
    )
    assert done.stdout == b"pull -q --platform linux/arm64 reg.example/app:1\n"
    assert done.returncode == 42


def test_pull_without_docker(tmp_path: Path) -> None:
    done = lazyci("pull", "a", cwd=tmp_path, environment={"PATH": str(tmp_path)})
    assert done.returncode == 127
    assert b"docker is not on the PATH" in done.stderr


def test_a_build_is_missing_only_when_no_file_has_it(repository: Path) -> None:
    (repository / "lazyci.yaml").write_text(
        "builds:\n  - {step: build, image: reg.example/x:1}\n  - {step: none, image: reg.example/y:1}\n"
    )
    (repository / "other.yml").write_text("steps:\n  - command: docker pull reg.example/x:1\n")
    done = lazyci("plan", ".buildkite/pipeline.yml", "other.yml", cwd=repository)
    assert done.stdout.count(b"names a build in `none`") == 2
    assert b"names a build in `build`" not in done.stdout
