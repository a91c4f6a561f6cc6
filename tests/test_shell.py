"""What is read in shell: commands of docker, and what only looks like one."""

from __future__ import annotations

import pytest

from lazyci.pipeline.dockercli import DockerCall, read_command
from lazyci.pipeline.shell import Unknown, Variable, read_script


def calls(text: str, *, buildkite: bool = True) -> list[DockerCall]:
    commands = read_script(text, buildkite=buildkite).commands
    return [call for call in map(read_command, commands) if call is not None]


def images(call: DockerCall) -> list[str]:
    return [
        "".join(part if isinstance(part, str) else part.raw for part in word.parts)
        for word in call.images
    ]


@pytest.mark.parametrize(
    ("text", "verb", "names"),
    [
        ("docker pull a/b:c", "pull", ["a/b:c"]),
        ("docker image pull a", "pull", ["a"]),
        ("docker pull --platform linux/arm64 -q 'a/b'", "pull", ["a/b"]),
        ("sudo -E docker pull a", "pull", ["a"]),
        ("time docker pull a", "pull", ["a"]),
        ("A=1 B=2 docker pull a", "pull", ["a"]),
        ("retry docker pull a", "pull", ["a"]),
        ("./ci/retry_3 docker pull a", "pull", ["a"]),
        ("timeout 5m docker pull a", "pull", ["a"]),
        ("/usr/bin/docker pull a", "pull", ["a"]),
        ("docker --debug --log-level=info pull a", "pull", ["a"]),
        ("docker \\\n  pull \\\n  a", "pull", ["a"]),
        ("if ! docker pull a; then exit 1; fi", "pull", ["a"]),
        ("f() { docker pull a; }", "pull", ["a"]),
        ("x=$(docker pull -q a)", "pull", ["a"]),
        ("cd x && docker pull a || true", "pull", ["a"]),
        ("case x in y) docker pull a ;; esac", "pull", ["a"]),
        ("docker run --rm a cmd --flag b", "run", ["a"]),
        ("docker run -it -v /a:/b -e A=B -w /x a cmd", "run", ["a"]),
        ("docker run -itv/a:/b a", "run", ["a"]),
        ("docker run -p80:80 --name=x --gpus all a", "run", ["a"]),
        ('docker run -e "A=$B" --env-file f a sh -c "docker pull q"', "run", ["a"]),
        ("docker container run -d -- a", "run", ["a"]),
        ("docker create --init a", "run", ["a"]),
        ("docker push a:b", "push", ["a:b"]),
        ("docker build -t a -t b:c . --push", "build", ["a", "b:c"]),
        ("docker build --tag=a .", "build", ["a"]),
        ("docker buildx build --output type=image,name=a,push=true .", "build", ["a"]),
        (
            'docker buildx build --output "type=image,\\"name=a,b\\",push=true" .',
            "build",
            ["a", "b"],
        ),
        ("docker buildx build -o type=registry -ta .", "build", ["a"]),
        ("docker buildx imagetools create -t a b c", "index", ["a"]),
        ("docker manifest push --purge a", "index", ["a"]),
        ("docker buildx bake --push --set '*.tags=a'", "bake", ["a"]),
        ("buildctl build --output type=image,name=a,push=true", "build", ["a"]),
        ("docker tag a b", "tag", ["a", "b"]),
        ("docker pull $$REPO:${BUILDKITE_TAG}", "pull", ["$$REPO:${BUILDKITE_TAG}"]),
        ('docker pull "a\\$X-é"', "pull", ["a$$X-é"]),
    ],
)
def test_calls(text: str, verb: str, names: list[str]) -> None:
    found = calls(text)
    assert [call.verb for call in found] == [verb]
    assert images(found[0]) == names
    assert not found[0].problem


@pytest.mark.parametrize(
    "text",
    [
        "# docker pull a",
        "echo docker pull a",
        "echo 'docker pull a'",
        'printf "%s" "docker pull a"',
        "cat <<EOF\ndocker pull a\nEOF",
        "cat <<-'EOF'\n\tdocker pull a\n\tEOF",
        "ssh host docker pull a",
        "bash -c 'docker pull a'",
        "git commit -m 'docker pull a'",
        "xdocker pull a",
        "docker-pull a",
        "docker ps",
        "docker login reg.example",
        "docker image prune -f",
        "docker pull",
        "docker",
        "A='docker pull a'",
        "mydocker=docker",
    ],
)
def test_no_calls(text: str) -> None:
    assert calls(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("docker pull -a a", "--all-tags"),
        ("docker push --all-tags a", "--all-tags"),
        ("docker run --pull always a", "--pull always"),
        ("docker run --pull=never a", "--pull never"),
        ("docker --context other pull a", "--context"),
        ("docker -H tcp://x pull a", "-H"),
        ("exec docker run a", "exec"),
        ("docker compose up", "compose file"),
        ("docker buildx bake --push", "bake file"),
        (
            "docker buildx build --push --output type=image,name=a,push-by-digest=true,push=true .",
            "by digest",
        ),
    ],
)
def test_problems(text: str, words: str) -> None:
    (call,) = calls(text)
    assert words in call.problem


def test_unquoted_variable_may_hold_options() -> None:
    assert calls("docker run $$OPTS a")[0].ambiguous
    assert not calls('docker run "$$IMAGE" a')[0].ambiguous


def test_variables() -> None:
    script = read_script(
        "A=1\nexport B=$A-x C='y z'\nif t; then D=1; fi\nE=1\nE=2\nfor F in 1; do :; done\n"
        "read G\nH=$(date)\nI=1 cmd\nJ+=x\nK=a && echo $K\nL=a || true\nM=${N:-x}"
    )
    assert script.variables == {
        "A": ("1",),
        "B": (Variable("A", "$A"), "-x"),
        "C": ("y z",),
        "D": None,
        "E": None,
        "F": None,
        "G": None,
        "H": (Unknown("$(date)"),),
        "J": None,
        "K": ("a",),
        "L": None,
        "M": (Unknown("${N:-x}"),),
    }


def test_expressions_are_words() -> None:
    (call,) = calls('docker pull r/${{ inputs.a || "b c" }}:${{ matrix.x }}', buildkite=False)
    assert images(call) == ['r/${{ inputs.a || "b c" }}:${{ matrix.x }}']
    (call,) = calls("docker pull r:{{ matrix.x }}")
    assert images(call) == ["r:{{ matrix.x }}"]


def test_unreadable_shell_is_said() -> None:
    assert read_script("if then docker pull a").unreadable
    assert not read_script("docker pull a").unreadable
