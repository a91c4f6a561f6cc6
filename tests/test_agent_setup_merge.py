"""Merging into files of others: whatever stands there stays, and comes back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyci.agent.setup import (
    Options,
    Setting,
    apply,
    jsonfile,
    make_plan,
    plan_undo,
    tomlfile,
    undo,
)
from lazyci.errors import InputError
from tests.test_agent_setup import CONTAINERD, DAEMON, host, put, tree

WANTED = (
    Setting(("features", "containerd-snapshotter"), True, ""),
    Setting(("storage-driver",), "nydus", ""),
)
PLUGIN = (
    Setting(("proxy_plugins", "nydus", "type"), "snapshot", ""),
    Setting(("proxy_plugins", "nydus", "address"), "/run/x.sock", ""),
    Setting(
        ("plugins", "io.containerd.transfer.v1.local", "unpack_config"),
        [{"a": "b"}],
        "",
        entries=True,
    ),
)

KEYS = st.sampled_from(
    ["features", "storage-driver", "log-driver", "data-root", "a", 'with "quote"', "é", "x.y"]
)
SCALARS = st.one_of(
    st.booleans(), st.integers(-5, 5), st.text(max_size=6), st.none(), st.floats(-1, 1)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
INDENTS = st.sampled_from([None, 1, 2, 4, "\t"])


@st.composite
def daemons(draw: st.DrawFn) -> str:
    data = draw(st.dictionaries(KEYS, VALUES, max_size=5))
    # Docker takes an object there and no other driver than a text.
    if not isinstance(data.get("features"), dict):
        data.pop("features", None)
    if not isinstance(data.get("storage-driver"), str):
        data.pop("storage-driver", None)
    data.pop("data-root", None)
    text = json.dumps(data, indent=draw(INDENTS), ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return draw(st.sampled_from(["", "\n", " "])) + text + draw(st.sampled_from(["", "\n"]))


def expected(data: dict[str, Any]) -> dict[str, Any]:
    features = {**data.get("features", {}), "containerd-snapshotter": True}
    return {**data, "features": features, "storage-driver": "nydus"}


@given(daemons())
def test_json_keeps_every_other_key(text: str) -> None:
    before = json.loads(text)
    merged, touched = jsonfile.merge(text, WANTED, "f")
    assert json.loads(merged) == expected(before)
    # The order of what was there, and the text of each value.
    assert [key for key in json.loads(merged) if key in before] == list(before)
    assert jsonfile.merge(merged, WANTED, "f") == (merged, [])
    back, left = jsonfile.put_back(merged, touched, "f")
    assert not left
    back_data = json.loads(back)
    if before.get("features") == {}:
        back_data.setdefault("features", {})
    assert back_data == before


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (
            "",
            '{\n  "features": {\n    "containerd-snapshotter": true\n  },\n  "storage-driver": "nydus"\n}\n',
        ),
        (
            "{}",
            '{\n  "features": {\n    "containerd-snapshotter": true\n  },\n  "storage-driver": "nydus"\n}',
        ),
        (
            '{"a": 1e2}',
            '{"a": 1e2, "features": {"containerd-snapshotter": true}, "storage-driver": "nydus"}',
        ),
        (
            '{\n\t"features": { "buildkit": true },\n\t"a": [1,\n2]\n}\n',
            '{\n\t"features": { "buildkit": true, "containerd-snapshotter": true },\n\t"a": [1,\n2],\n\t"storage-driver": "nydus"\n}\n',
        ),
        (
            '{\r\n    "storage-driver": "overlay2"\r\n}\r\n',
            '{\r\n    "storage-driver": "nydus",\r\n    "features": {\r\n        "containerd-snapshotter": true\r\n    }\r\n}\r\n',
        ),
        (
            '{\n  "features": {\n    "containerd-snapshotter": false\n  },\n  "storage-driver": "nydus"\n}',
            '{\n  "features": {\n    "containerd-snapshotter": true\n  },\n  "storage-driver": "nydus"\n}',
        ),
        (
            '{"features": {"containerd-snapshotter": 1}, "storage-driver": "nydus"}',
            '{"features": {"containerd-snapshotter": true}, "storage-driver": "nydus"}',
        ),
    ],
)
def test_json_is_laid_out_as_it_was(text: str, result: str) -> None:
    assert jsonfile.merge(text, WANTED, "f")[0] == result


def test_json_put_back_tells_what_has_another_value() -> None:
    merged, touched = jsonfile.merge('{"a": 1}', WANTED, "f")
    changed = merged.replace('"nydus"', '"stargz"')
    text, left = jsonfile.put_back(changed, touched, "f")
    assert json.loads(text) == {"a": 1, "storage-driver": "stargz"}
    assert left == ["storage-driver"]


BLOCKS = [
    "# first\nversion = 2\n",
    'disabled_plugins = ["cri"]  # no kubernetes\n',
    "imports = [\n  'a.toml', # one\n  'b.toml',\n]\n",
    "oom_score = 0\n\n\n# two\n",
    "proxy_plugins.other.type = 'snapshot' # dotted\n",
    "proxy_plugins = {}\n",
]
TABLES = [
    "[debug] # x\n  level = 'info'\n",
    "[proxy_plugins]\n# none yet\n",
    "[proxy_plugins.stargz]\n  type = 'snapshot' # theirs\n  address = '/y'\n",
    "[proxy_plugins.nydus]\n  type = 'diff'\n  # before\n  address = '/run/x.sock'\n",
    "[plugins]\n",
    '[plugins."io.containerd.grpc.v1.cri".containerd]\n  snapshotter = "overlayfs" # cri\n',
    "[plugins.'io.containerd.transfer.v1.local']\n  max_concurrent_downloads = 3\n",
    "[[plugins.'io.containerd.transfer.v1.local'.unpack_config]] # list\n  a = 'c'\n",
    "[timeouts]\n'io.containerd.timeout.shim' = '3s'\n",
]


@st.composite
def containerds(draw: st.DrawFn) -> str:
    tops = draw(st.lists(st.sampled_from(BLOCKS), unique=True, max_size=4))
    tables = draw(st.lists(st.sampled_from(TABLES), unique=True, max_size=6))
    text = "".join(tops + tables)
    if draw(st.booleans()):
        text = text.rstrip("\n")
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    try:
        tomlfile.load(text, "f")
    except InputError:
        return "# two of these blocks exclude each other\n"
    return text


def comments(text: str) -> list[str]:
    return sorted(line.partition("#")[2].strip() for line in text.splitlines() if "#" in line)


@settings(max_examples=200)
@given(containerds())
def test_toml_keeps_every_other_key_and_comment(text: str) -> None:
    before = tomlfile.load(text, "f")
    try:
        merged, touched = tomlfile.merge(text, PLUGIN, "f")
    except InputError:
        # tomlkit would write something else, which is seen and refused.
        assert "# dotted" in text
        return
    data = tomlkit.parse(merged).unwrap()
    assert comments(merged) == comments(text)
    wanted = json.loads(json.dumps(before))
    wanted.setdefault("proxy_plugins", {}).setdefault("nydus", {}).update(
        {"type": "snapshot", "address": "/run/x.sock"}
    )
    local = wanted.setdefault("plugins", {}).setdefault("io.containerd.transfer.v1.local", {})
    local.setdefault("unpack_config", []).append({"a": "b"})
    assert data == wanted
    assert tomlfile.merge(merged, PLUGIN, "f") == (merged, [])
    try:
        back, left = tomlfile.put_back(merged, touched, "f")
    except InputError:
        # A table in several pieces, of which tomlkit would lose one.
        assert "# none yet" in text
        return
    assert not left
    assert without_empty(tomlfile.load(back, "f")) == without_empty(before)
    assert set(comments(back)) == set(comments(text))


def without_empty(data: Any) -> Any:
    """Tables that became empty may go."""
    if not isinstance(data, dict):
        return data
    kept = {key: without_empty(value) for key, value in data.items()}
    return {key: value for key, value in kept.items() if value != {}}


@settings(max_examples=20, deadline=None)
@given(
    daemons(),
    containerds(),
    st.lists(st.sampled_from(["nydus", "estargz"]), min_size=1, max_size=3),
    st.sampled_from(["docker", "containerd"]),
    st.sampled_from(["1.7", "2.0", "2.1"]),
)
def test_apply_and_undo_give_the_same_bytes(
    daemon: str, containerd: str, formats: list[Any], engine: Any, version: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        put(root, DAEMON, daemon, 0o640)
        put(root, CONTAINERD, containerd)
        before = tree(root)
        for name in formats:
            options = Options(format=name, engine=engine, root=root, containerd=version)
            try:
                apply(make_plan(options, host()))
            except InputError:
                assert "# dotted" in containerd
                break
            applied = tree(root)
            again = make_plan(options, host())
            assert not again.pending
            apply(again)
            assert tree(root) == applied
        undo(root, plan_undo(root))
        assert tree(root) == before
