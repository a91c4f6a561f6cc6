"""`lazyci.yaml`: what is taken, what is refused and where, and its schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from lazyci.config import Settings, find_settings, json_schema, load_settings, read_settings
from lazyci.data import to_data
from lazyci.errors import ConfigError
from lazyci.reader import parse
from tests.conftest import ROOT

FULL = """\
version: 1
images:
  - match: [reg.example/*, other/*]
    exclude: ["*:latest"]
    format: estargz
    publish: in-place
  - match: third/*
builds:
  - step: build
    image: reg.example/app:$BUILDKITE_COMMIT
    platforms: [linux/amd64]
format: nydus-index
publish: tag
tag-suffix: -fast
pulls: agent
convert:
  queue: cpu
  runs-on: [self-hosted, cpu]
  image: reg.example/lazyci@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  credentials:
    - ecr#v2: {login: true}
  timeout-minutes: 5
pull:
  wait: 30
  plugin: ./plugins/lazyci
  action: ./actions/lazyci
report: true
switch: ["github:team/repo"]
templates: .lazyci
"""

BAD = {
    "imges: []": (1, 1, "unknown key `imges`", "Did you mean `images`?"),
    "images:\n  - mach: a": (2, 5, "unknown key `mach`", "Did you mean `match`?"),
    "pull:\n  qqqq: 1": (2, 3, "unknown key `qqqq`", "Known here: wait, plugin, action."),
    "format: gzip": (1, 9, "Invalid enum value 'gzip'", ""),
    "version: 2": (1, 10, "Invalid enum value 2", ""),
    "report: 'yes'": (1, 9, "Expected `bool`, got `str`", ""),
    "- a": (1, 1, "Expected `object`, got `array`", ""),
    "images:\n  - format: nydus": (2, 5, "missing required field `match`", ""),
    "convert: {image: reg.example/lazyci}": (1, 18, "regex '@sha256", ""),
    "convert: {timeout-minutes: 0}": (1, 28, "Expected `int` >= 1", ""),
    "tag-suffix: _lazy": (1, 13, "regex", ""),
    "pull: {plugin: ./other}": (1, 16, "regex", ""),
    "a: [": (1, 5, "not YAML", ""),
    "format: nydus\nformat: nydus": (2, 1, "stands twice", ""),
}


def test_full_file() -> None:
    settings = read_settings(FULL)
    assert settings.images[0].match == ["reg.example/*", "other/*"]
    assert settings.convert.runs_on == ["self-hosted", "cpu"]
    assert settings.pull.wait == 30
    assert settings.tag_suffix == "-fast"


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "{}", "---\n", "images:\n  # - match: x\n"]
)
def test_empty_files_are_the_defaults(text: str) -> None:
    assert read_settings(text) == Settings()


@pytest.mark.parametrize("text", BAD)
def test_errors_name_the_place_and_the_way_out(text: str) -> None:
    line, column, words, hint = BAD[text]
    with pytest.raises(ConfigError) as caught:
        read_settings(text, "lazyci.yaml")
    assert words in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)
    assert hint in caught.value.hint


def test_the_schema_says_the_same_as_the_code() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    validator.validate(to_data(parse(FULL).root))
    for text in BAD:
        if "a: [" not in text and text.count("format: nydus") < 2:
            assert not validator.is_valid(to_data(parse(text).root)), text


def test_the_schema_ships() -> None:
    shipped = json.loads((ROOT / "lazyci" / "lazyci.schema.json").read_text())
    assert shipped == json_schema()


def test_found_upwards_and_not_beyond_the_repository(tmp_path: Path) -> None:
    inner = tmp_path / "repository" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "lazyci.yaml").write_text("format: estargz")
    (tmp_path / "repository" / ".git").mkdir()
    assert find_settings(inner) is None
    (tmp_path / "repository" / "lazyci.yaml").write_text("format: zstdchunked")
    found = find_settings(inner)
    assert found is not None
    assert load_settings(found).format == "zstdchunked"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml")
