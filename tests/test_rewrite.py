"""What must hold for every pipeline: untouched bytes, once is twice, undo gives the bytes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from lazyci.config import Settings, read_settings
from lazyci.pipeline import Result, rewrite, undo
from tests.conftest import corpus_files, example_files, fixture_files, text_of
from tests.helpers import load, meaning

EVERYTHING = 'images: [{match: "*"}]\nreport: true\n'
IN_PLACE = 'images: [{match: "*"}]\npublish: in-place\n'
SETTINGS = {"default": "", "everything": EVERYTHING, "in-place": IN_PLACE, "agent": "pulls: agent"}
ALL = list(SETTINGS)
FILES = [*corpus_files(), *example_files(), *fixture_files()]


def variants(text: str) -> dict[str, str]:
    crlf = text.replace("\n", "\r\n")
    return {
        "as it is": text,
        "crlf": crlf,
        "bom": "\ufeff" + text,
        "no final newline": text.rstrip("\n"),
        "blank lines at the end": text + "\n\n\n",
        "comment at the end": text.rstrip("\n") + "\n# the end",
        "end marker": text.rstrip("\n") + "\n...\n",
    }


def outside_of_edits(original: str, result: Result) -> bool:
    """Whether all that lies between the edits stands in the result as it is."""
    mark = original[: 1 if original.startswith("\ufeff") else 0]
    text, offset, at = original[len(mark) :], 0, len(mark)
    for edit in sorted(set(result.plan.edits), key=lambda edit: edit.start):
        between = text[offset : edit.start]
        if result.text[at : at + len(between)] != between:
            return False
        at += len(between) + len(edit.text)
        offset = edit.end
    return result.text[at:] == text[offset:]


def check(text: str, settings: Settings) -> str:
    result = rewrite(text, settings)
    assert undo(result.text) == text
    assert rewrite(result.text, settings).text == result.text
    assert not rewrite(result.text, settings).changed
    assert result.changed == (result.text != text)
    assert meaning(result.text) == meaning(text)
    assert outside_of_edits(text, result)
    return result.text


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_real_files(path: Path, settings: str) -> None:
    text = text_of(path)
    if text.lstrip().startswith("{"):
        check(text, read_settings(SETTINGS[settings]))
        return
    for name, variant in variants(text).items():
        try:
            check(variant, read_settings(SETTINGS[settings]))
        except AssertionError:
            pytest.fail(f"fails with variant: {name}")


def test_there_are_files() -> None:
    assert len(fixture_files()) >= 10
    assert len(example_files()) >= 6


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.suffix == ".yml"],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_undo_after_edits_by_hand(path: Path) -> None:
    """Comments and steps that people add later stay; lazyci's parts go."""
    text = text_of(path)
    result = rewrite(text, read_settings(EVERYTHING)).text

    def edited(source: str) -> str:
        return "# added on top\n" + source.replace("steps:\n", "steps: # by hand\n", 1)

    assert undo(edited(result)) == edited(text)


def test_new_settings_replace_what_old_ones_wrote() -> None:
    text = "steps:\n  - key: b\n    command: docker push reg.example/a:x\n"
    first = rewrite(text, read_settings("format: estargz")).text
    second = rewrite(first, read_settings("format: zstdchunked")).text
    assert "estargz" not in second
    assert second == rewrite(text, read_settings("format: zstdchunked")).text


# Generated pipelines

IMAGE = "reg.example/team/app"
_words = st.sampled_from(["", "$BUILDKITE_COMMIT", "${BUILDKITE_COMMIT}", "v1", "$$BUILDKITE_TAG"])
_images = st.builds(lambda tag: f"{IMAGE}:{tag}" if tag else IMAGE, _words)
_any_image = st.one_of(_images, st.sampled_from(["alpine:3", f"{IMAGE}@sha256:{'a' * 64}", "app"]))
_commands = st.one_of(
    st.builds(lambda image: f"docker push {image}", _any_image),
    st.builds(lambda image: f"docker build -t {image} . && docker push {image}", _any_image),
    st.builds(lambda image: f"docker pull {image}", _any_image),
    st.builds(lambda image: f'docker run --rm -v /a:/b "{image}" make test', _any_image),
    st.builds(lambda image: f"if docker pull {image}; then echo 'a: b # c'; fi", _any_image),
    st.builds(lambda image: f"cat <<EOF\ndocker pull {image}\nEOF", _any_image),
    st.builds(lambda image: f"echo docker pull {image} | tee log", _any_image),
    st.builds(lambda image: f"docker pull -q {image} >/dev/null 2>&1 || exit 1", _any_image),
    st.text(
        alphabet=st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff"),
        max_size=30,
    ),
)


@st.composite
def _steps(draw: st.DrawFn, depth: int = 0) -> Any:
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return "wait"
    if kind == 1 and depth == 0:
        return {"group": "g", "steps": draw(st.lists(_steps(depth=1), min_size=1, max_size=3))}
    step: dict[str, object] = {"label": draw(st.sampled_from(["a", ":x: build: all", "# no"]))}
    if kind < 5:
        step["command"] = draw(st.one_of(_commands, st.lists(_commands, max_size=3)))
    if draw(st.booleans()):
        step["plugins"] = draw(
            st.lists(
                st.one_of(
                    st.builds(
                        lambda image, pull: {
                            "docker#v5.2.0": {"image": image, "always-pull": pull}
                        },
                        _any_image,
                        st.booleans(),
                    ),
                    st.just({"ecr#v2": {"login": True}}),
                    st.just("artifacts#v1"),
                ),
                max_size=3,
            )
        )
    if draw(st.booleans()):
        step["depends_on"] = draw(st.sampled_from([[], "a", ["a", "b"]]))
    return step


_pipelines = st.builds(lambda steps: {"steps": steps}, st.lists(_steps(), min_size=1, max_size=6))


def _dump(data: object, *, indent: int, flow: bool, width: int) -> str:
    import io

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = flow
    yaml.width = width
    yaml.indent(mapping=indent, sequence=indent + 2 if indent > 2 else 2, offset=indent - 2)
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


@given(_pipelines, st.sampled_from([2, 4]), st.booleans(), st.sampled_from([40, 80, 4096]))
def test_generated_yaml(data: object, indent: int, flow: bool, width: int) -> None:
    text = _dump(data, indent=indent, flow=flow, width=width)
    try:
        load(text)
    except yaml.YAMLError:
        assume(condition=False)  # ruamel.yaml folds some flow collections to no YAML.
    check(text, Settings())
    check(text.replace("\n", "\r\n"), read_settings(EVERYTHING))


@given(_pipelines, st.sampled_from([None, 2, 4]))
def test_generated_json(data: object, indent: int | None) -> None:
    check(json.dumps(data, indent=indent), read_settings(EVERYTHING))


_expressions = st.sampled_from(
    ["${{ github.sha }}", "v1", "${{ matrix.tag }}", "${{ needs.a.outputs.t }}", "${{ env.TAG }}"]
)
_gh_images = st.builds(lambda tag: f"ghcr.io/{IMAGE}:{tag}", _expressions)
_gh_steps = st.one_of(
    st.just({"uses": "actions/checkout@v4"}),
    st.builds(
        lambda image, push: {
            "uses": "docker/build-push-action@v6",
            "with": {"tags": image, "push": push},
        },
        _gh_images,
        st.sampled_from([True, False, "${{ github.event_name != 'pull_request' }}"]),
    ),
    st.builds(lambda image: {"run": f"docker pull {image}\nmake test"}, _gh_images),
    st.builds(lambda image: {"name": "x", "run": f"docker run {image}"}, _gh_images),
    st.builds(lambda command: {"run": command}, _commands),
)


@st.composite
def _workflows(draw: st.DrawFn) -> Any:
    jobs: dict[str, object] = {}
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)):
        job: dict[str, object] = {"runs-on": draw(st.sampled_from(["ubuntu-latest", "gpu"]))}
        if draw(st.booleans()) and jobs:
            job["needs"] = draw(st.sampled_from([list(jobs), next(iter(jobs))]))
        if draw(st.booleans()):
            job["container"] = draw(
                st.one_of(_gh_images, st.builds(lambda i: {"image": i}, _gh_images))
            )
        if draw(st.booleans()):
            job["strategy"] = {"matrix": {"tag": ["x", "y"]}}
        if draw(st.booleans()):
            job["outputs"] = {"t": "1"}
        job["steps"] = draw(st.lists(_gh_steps, min_size=1, max_size=4))
        jobs[name] = job
    return {"on": "push", "env": {"TAG": "v1"}, "jobs": jobs}


@given(
    _workflows(),
    st.sampled_from([2, 4]),
    st.sampled_from([80, 4096]),
    st.sampled_from(list(SETTINGS)),
)
def test_generated_workflows(data: object, indent: int, width: int, settings: str) -> None:
    check(_dump(data, indent=indent, flow=False, width=width), read_settings(SETTINGS[settings]))
