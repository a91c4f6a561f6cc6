"""`lazyci agent setup`: what is written, kept, refused and taken back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from lazyci.agent.setup import Host, Options, Plan, apply, make_plan, plan_undo, script, undo
from lazyci.agent.setup.record import FOLDER
from lazyci.errors import InputError, ToolError

CONTAINERD = "etc/containerd/config.toml"
DAEMON = "etc/docker/daemon.json"
CREDENTIALS = "etc/lazyci/docker/config.json"
GOLDEN = Path(__file__).with_name("test_agent_setup_plan.txt")
ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
PROGRAMS = ("nydusd", "containerd-nydus-grpc", "containerd-stargz-grpc", "containerd")


def host(programs: tuple[str, ...] = PROGRAMS, **facts: Any) -> Host:
    usual: dict[str, Any] = {
        "system": "Linux",
        "kernel": "6.1.0-18-amd64",
        "machine": "x86_64",
        "uid": 0,
        "has_fuse": True,
        "environment": {},
        "which": lambda name: f"/usr/local/bin/{name}" if name in programs else "",
        "run": lambda *_: "containerd github.com/containerd/containerd/v2 2.1.9 0123abc\n",
    }
    return Host(**{**usual, **facts})


def setup(root: Path, **options: Any) -> Plan:
    plan = make_plan(Options(root=root, **options), host())
    apply(plan)
    return plan


def put(root: Path, path: str, text: str, mode: int = 0o644) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, newline="")
    file.chmod(mode)
    return file


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below a root, with mode and bytes."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in root.rglob("*")
    }


def toml(root: Path, path: str = CONTAINERD) -> dict[str, Any]:
    data: dict[str, Any] = tomlkit.parse((root / path).read_text()).unwrap()
    return data


def states(plan: Plan) -> dict[str, str]:
    return {change.path.lstrip("/"): change.state for change in plan.changes}


# What is written


def test_nydus_and_docker(tmp_path: Path) -> None:
    plan = setup(tmp_path)
    assert list(states(plan)) == [
        "etc/lazyci/nydus/nydusd.json",
        "etc/lazyci/nydus/nydusd",
        "etc/lazyci/nydus/snapshotter.toml",
        CREDENTIALS,
        "etc/systemd/system/lazyci-nydus-snapshotter.service",
        CONTAINERD,
        DAEMON,
        "etc/lazyci/setup.json",
    ]
    assert json.loads((tmp_path / DAEMON).read_text()) == {
        "features": {"containerd-snapshotter": True},
        "storage-driver": "nydus",
    }
    assert toml(tmp_path)["version"] == 3
    snapshotter = toml(tmp_path, "etc/lazyci/nydus/snapshotter.toml")
    assert snapshotter["experimental"] == {"enable_index_detect": True}
    assert snapshotter["root"] == "/var/lib/docker/lazyci/nydus"
    nydusd = json.loads((tmp_path / "etc/lazyci/nydus/nydusd.json").read_text())
    assert nydusd["digest_validate"] is False
    assert nydusd["fs_prefetch"] == {"enable": False}
    unit = (tmp_path / "etc/systemd/system/lazyci-nydus-snapshotter.service").read_text()
    for line in ("Restart=always", "KillMode=process", "Before=containerd.service docker.service"):
        assert line in unit.splitlines()
    assert "Environment=DOCKER_CONFIG=/etc/lazyci/docker" in unit
    assert (tmp_path / CREDENTIALS).stat().st_mode & 0o777 == 0o600
    assert os.access(tmp_path / "etc/lazyci/nydus/nydusd", os.X_OK)
    assert plan.restart[-1].endswith("enable lazyci-nydus-snapshotter.service")


def test_estargz_and_containerd(tmp_path: Path) -> None:
    plan = setup(tmp_path, format="estargz", engine="containerd")
    assert DAEMON not in states(plan)
    config = toml(tmp_path, "etc/lazyci/stargz/config.toml")
    assert config["blob"] == {"force_single_range_mode": True, "chunk_size": 1 << 20}
    assert config["no_background_fetch"] is True
    assert config["snapshotter"] == {"allow_invalid_mounts_on_restart": True}
    unit = tmp_path / "etc/systemd/system/lazyci-stargz-snapshotter.service"
    assert "--root /var/lib/containerd/lazyci/estargz" in unit.read_text()


@pytest.mark.parametrize(
    ("version", "form", "exports", "unpacks"),
    [("1.7", 2, False, False), ("2.0", 3, True, False), ("2.1", 3, True, True)],
)
def test_versions_of_containerd(
    version: str, form: int, exports: bool, unpacks: bool, tmp_path: Path
) -> None:
    setup(tmp_path, containerd=version)
    data = toml(tmp_path)
    plugin = data["proxy_plugins"]["nydus"]
    assert data["version"] == form
    assert plugin["type"] == "snapshot"
    assert ("exports" in plugin) is exports
    assert ("plugins" in data) is unpacks
    if unpacks:
        entries = data["plugins"]["io.containerd.transfer.v1.local"]["unpack_config"]
        assert [each["snapshotter"] for each in entries] == ["overlayfs", "nydus"]
        assert {each["platform"] for each in entries} == {"linux/amd64"}
        assert plugin["exports"]["enable_remote_snapshot_annotations"] == "true"


@pytest.mark.parametrize(
    ("said", "annotated"),
    [
        ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6", False),
        ("containerd github.com/containerd/containerd/v2 v2.0.5 fb4c30d4", False),
        ("containerd github.com/containerd/containerd/v2 2.1.9~ds1 2.1.9", True),
    ],
)
def test_the_version_that_containerd_tells(said: str, annotated: bool, tmp_path: Path) -> None:
    apply(make_plan(Options(root=tmp_path), host(run=lambda *_: said)))
    plugin = toml(tmp_path)["proxy_plugins"]["nydus"]
    assert ("enable_remote_snapshot_annotations" in plugin.get("exports", {})) is annotated


def test_a_list_of_what_is_unpacked_stays(tmp_path: Path) -> None:
    entry = (
        '[[plugins."io.containerd.transfer.v1.local".unpack_config]] # ours\n'
        'platform = "linux/amd64"\nsnapshotter = "overlayfs"\n'
    )
    put(tmp_path, CONTAINERD, f"version = 3\n{entry}")
    setup(tmp_path)
    entries = toml(tmp_path)["plugins"]["io.containerd.transfer.v1.local"]["unpack_config"]
    assert [each["snapshotter"] for each in entries] == ["overlayfs", "nydus"]
    assert entry in (tmp_path / CONTAINERD).read_text()


@pytest.mark.parametrize(
    ("version", "table"),
    [
        (2, ("io.containerd.grpc.v1.cri", "containerd")),
        (3, ("io.containerd.cri.v1.images",)),
    ],
)
def test_cri_only_where_it_is_configured(
    version: int, table: tuple[str, ...], tmp_path: Path
) -> None:
    head = f"version = {version}\n"
    for engine, text, expected in (
        ("containerd", "", False),
        ("containerd", f'[plugins."{table[0]}"]\nsandbox = "x"\n', True),
        ("containerd", f'disabled_plugins = ["cri"]\n[plugins."{table[0]}"]\nx = 1\n', False),
        ("docker", f'[plugins."{table[0]}"]\nsandbox = "x"\n', False),
    ):
        put(tmp_path, CONTAINERD, head + text)
        setup(tmp_path, engine=engine, containerd="2.0")
        found: Any = toml(tmp_path).get("plugins", {})
        for name in table:
            found = found.get(name, {})
        wanted = {"snapshotter": "nydus", "disable_snapshot_annotations": False}
        assert (wanted.items() <= found.items()) is expected


def test_state_lies_where_the_engine_keeps_its_data(tmp_path: Path) -> None:
    put(tmp_path, DAEMON, '{"data-root": "/mnt/fast/docker"}')
    put(tmp_path, CONTAINERD, 'root = "/mnt/slow/containerd"\n')
    name = "etc/lazyci/nydus/snapshotter.toml"
    setup(tmp_path)
    assert toml(tmp_path, name)["root"] == "/mnt/fast/docker/lazyci/nydus"
    setup(tmp_path, engine="containerd")
    assert toml(tmp_path, name)["root"] == "/mnt/slow/containerd/lazyci/nydus"
    setup(tmp_path, data_root="/data")
    assert toml(tmp_path, name)["root"] == "/data/lazyci/nydus"
    for bad in ("relative", "/x" * 40, "/with space"):
        with pytest.raises(ToolError, match="cannot hold"):
            make_plan(Options(root=tmp_path, data_root=bad), host())


def test_tuned_values_stay_and_firm_ones_do_not(tmp_path: Path) -> None:
    path = "etc/lazyci/nydus/snapshotter.toml"
    put(tmp_path, path, "version = 1\ndaemon_mode = 'shared'\n[daemon]\nthreads_number = 4 # few\n")
    plan = setup(tmp_path)
    data = toml(tmp_path, path)
    assert data["daemon"]["threads_number"] == 4
    assert data["daemon_mode"] == "dedicated"
    assert "# few" in (tmp_path / path).read_text()
    change = next(each for each in plan.changes if each.path == f"/{path}")
    assert [(setting.name, value) for setting, value in change.kept] == [
        ("daemon.threads_number", 4)
    ]


# Credentials


def test_credentials_of_ecr(tmp_path: Path) -> None:
    plan = make_plan(Options(root=tmp_path, ecr=(ECR,)), host())
    assert any("docker-credential-ecr-login is not on the PATH" in note for note in plan.notes)
    there = host((*PROGRAMS, "docker-credential-ecr-login"))
    apply(make_plan(Options(root=tmp_path, ecr=(ECR,)), there))
    data = json.loads((tmp_path / CREDENTIALS).read_text())
    assert data == {"credHelpers": {ECR: "ecr-login"}}


def test_credentials_that_are_there_are_neither_read_nor_shown(tmp_path: Path) -> None:
    secret = put(tmp_path, CREDENTIALS, '{"auths": {"r": {"auth": "c2VjcmV0"}}} no JSON', 0o600)
    before = secret.read_bytes()
    plan = make_plan(Options(root=tmp_path), host())
    assert states(plan)[CREDENTIALS] == "unchanged"
    apply(plan)
    assert secret.read_bytes() == before
    told = json.dumps(plan.to_json()) + script(plan) + repr(plan)
    assert "c2VjcmV0" not in told
    assert not any(
        b"c2VjcmV0" in data for name, (_, data) in tree(tmp_path).items() if name != CREDENTIALS
    )


# Twice, and back


def test_twice_changes_nothing(tmp_path: Path) -> None:
    setup(tmp_path)
    before = tree(tmp_path)
    again = setup(tmp_path)
    assert set(states(again).values()) == {"unchanged"}
    assert not again.restart
    assert tree(tmp_path) == before


def test_undo_gives_everything_back(tmp_path: Path) -> None:
    put(tmp_path, DAEMON, '{\n\t"log-driver": "journald"\n}', 0o640)
    put(tmp_path, CONTAINERD, "# ours\nversion = 2\r\n", 0o600)
    before = tree(tmp_path)
    setup(tmp_path)
    setup(tmp_path, format="estargz")
    undo(tmp_path, plan_undo(tmp_path))
    assert tree(tmp_path) == before
    assert plan_undo(tmp_path) == []


def test_mode_and_links_stay(tmp_path: Path) -> None:
    real = put(tmp_path, "etc/docker/real.json", "{}", 0o640)
    (tmp_path / DAEMON).symlink_to("real.json")
    setup(tmp_path)
    assert (tmp_path / DAEMON).is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "nydus" in real.read_text()


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    outside = put(tmp_path, "outside/daemon.json", "{}")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/docker").symlink_to(outside.parent)
    with pytest.raises(InputError, match="leads out of"):
        make_plan(Options(root=root), host())
    assert outside.read_text() == "{}"


def test_undo_of_a_file_that_was_changed_takes_out_only_its_keys(tmp_path: Path) -> None:
    put(tmp_path, DAEMON, '{"storage-driver": "overlay2"}')
    put(tmp_path, CONTAINERD, "version = 3\n")
    setup(tmp_path)
    for path, more in ((CONTAINERD, "[debug]\nlevel = 'info' # new\n"), (DAEMON, "\n")):
        file = tmp_path / path
        file.write_text(file.read_text() + more)
    returns = {each.path.lstrip("/"): each for each in plan_undo(tmp_path)}
    assert returns[CONTAINERD].state == "cleaned"
    undo(tmp_path, plan_undo(tmp_path))
    assert toml(tmp_path) == {"version": 3, "debug": {"level": "info"}}
    assert "# new" in (tmp_path / CONTAINERD).read_text()
    assert json.loads((tmp_path / DAEMON).read_text()) == {"storage-driver": "overlay2"}


def test_undo_leaves_what_is_no_longer_its_own(tmp_path: Path) -> None:
    put(tmp_path, DAEMON, "{}")
    setup(tmp_path)
    put(tmp_path, CREDENTIALS, '{"auths": {"r": {}}}')
    (tmp_path / CONTAINERD).write_text("[broken\n")
    (tmp_path / DAEMON).unlink()
    unit = "etc/systemd/system/lazyci-nydus-snapshotter.service"
    put(tmp_path, unit, "[Unit]\n")
    left = {each.path.lstrip("/"): each for each in plan_undo(tmp_path) if each.state == "left"}
    assert set(left) == {CREDENTIALS, CONTAINERD, DAEMON, unit}
    assert all(each.note for each in left.values())
    undo(tmp_path, plan_undo(tmp_path))
    assert (tmp_path / CREDENTIALS).exists()
    assert (tmp_path / CONTAINERD).read_text() == "[broken\n"
    # Its bytes before are still there to be put back by hand.
    assert [file.read_text() for file in (tmp_path / f"{FOLDER.lstrip('/')}/before").iterdir()] == [
        "{}"
    ]


def test_a_change_between_two_setups_is_not_taken_back(tmp_path: Path) -> None:
    file = put(tmp_path, DAEMON, "{}")
    setup(tmp_path)
    file.write_text(file.read_text().replace("{", '{"debug": true,', 1))
    setup(tmp_path, format="estargz")
    undo(tmp_path, plan_undo(tmp_path))
    assert json.loads(file.read_text()) == {"debug": True}


# Broken off


@pytest.mark.parametrize("fails_at", range(11))
def test_a_crash_between_two_files(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, DAEMON, '{"log-driver": "journald"}', 0o640)
    put(tmp_path, CONTAINERD, "# ours\nversion = 3\n")
    before = tree(tmp_path)
    plan = make_plan(Options(root=tmp_path), host())
    calls = 0
    rename = os.replace

    class Killed(BaseException):
        pass

    def dies(source: Any, target: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > fails_at:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(Killed):
            apply(plan)
    for change in plan.changes:
        file = tmp_path / change.path.lstrip("/")
        now = file.read_bytes() if file.exists() else None
        assert now in (change.before, change.after)
    # A process that is killed cannot take its scratch file with it.
    for scratch in tmp_path.rglob(".*"):
        scratch.unlink()
    if fails_at % 2:
        setup(tmp_path)
    undo(tmp_path, plan_undo(tmp_path))
    after = tree(tmp_path)
    if fails_at < 3:
        # Without a record, only folders and copies of lazyci's own are left.
        after = {name: each for name, each in after.items() if name in before}
    assert after == before


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(Options(root=tmp_path), host())

    def fails(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(InputError, match="No space left"):
            apply(plan)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_file_that_changed_since_the_plan(tmp_path: Path) -> None:
    plan = make_plan(Options(root=tmp_path), host())
    put(tmp_path, DAEMON, "{}")
    with pytest.raises(InputError, match="was changed while"):
        apply(plan)
    assert (tmp_path / DAEMON).read_text() == "{}"
    assert not (tmp_path / CONTAINERD).exists()


def test_a_damaged_record(tmp_path: Path) -> None:
    setup(tmp_path)
    put(tmp_path, f"{FOLDER.lstrip('/')}/setup.json", '{"files": [{}], "folders": []}')
    with pytest.raises(InputError, match="is damaged"):
        plan_undo(tmp_path)


# Refused


@pytest.mark.parametrize(
    ("path", "text", "place"),
    [
        (DAEMON, '{\n  "a" 1\n}', "daemon.json:2:7: not JSON"),
        (DAEMON, "[]", "daemon.json:1:1: not a JSON object"),
        (DAEMON, '{"features": {"buildkit": true}, "features": {}}', "stands twice"),
        (DAEMON, '{"a": 1,\n "features": []}', "daemon.json:2:14: `features` is no object"),
        (CONTAINERD, "version = 2\n[plugins\n", "config.toml:2:9: not TOML"),
        (CONTAINERD, "version = 2\nproxy_plugins = 1\n", "`proxy_plugins` is no table"),
        (CONTAINERD, "a = 1\na = 2\n", "not TOML"),
    ],
)
def test_malformed_files_stop_everything(path: str, text: str, place: str, tmp_path: Path) -> None:
    put(tmp_path, path, text)
    before = tree(tmp_path)
    with pytest.raises(InputError) as caught:
        setup(tmp_path)
    assert place in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("facts", "options", "reason"),
    [
        ({"system": "Darwin"}, {}, "on Linux only"),
        ({"kernel": "3.10.0-1160.el7"}, {}, r"3\.10\.0-1160\.el7 is too old: 4\.0 is needed"),
        ({"has_fuse": False}, {}, "/dev/fuse is missing"),
        ({"uid": 1000}, {"apply": True}, "only root"),
        ({"environment": {"DOCKER_HOST": "unix:///run/user/1000/docker.sock"}}, {}, "rootless"),
        ({"which": lambda name: ""}, {"containerd": "2.1"}, "nydusd are not on the PATH"),
        ({"run": lambda *_: ""}, {}, "version of containerd is not known"),
        ({"run": lambda *_: "containerd x 1.6.20 y"}, {}, "too old"),
    ],
)
def test_refused_hosts(facts: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    # On the host itself: it is refused before anything is read that this machine may lack.
    with pytest.raises(ToolError, match=reason) as caught:
        make_plan(Options(**options), host(**facts))
    assert caught.value.hint


def test_user_namespaces_are_refused(tmp_path: Path) -> None:
    put(tmp_path, DAEMON, '{"userns-remap": "default"}')
    with pytest.raises(ToolError, match="userns-remap"):
        make_plan(Options(root=tmp_path), host())
    make_plan(Options(root=tmp_path, engine="containerd"), host())


def test_another_host_may_lack_what_this_one_must_have(tmp_path: Path) -> None:
    poor = host((), kernel="3.10", has_fuse=False, uid=1000)
    plan = make_plan(Options(root=tmp_path, apply=True, containerd="2.1"), poor)
    assert "containerd-nydus-grpc and nydusd are not on the PATH" in plan.notes[0]
    plan = make_plan(Options(offline=True, containerd="2.1", engine="containerd"), poor)
    assert "not on the PATH" in plan.notes[0]


def test_another_storage_driver_is_told(tmp_path: Path) -> None:
    put(tmp_path, DAEMON, '{"storage-driver": "overlay2", "storage-opts": ["a=b"]}')
    told = " ".join(make_plan(Options(root=tmp_path), host()).notes)
    assert "storage-driver was overlay2" in told
    assert "will not be visible under nydus" in told
    assert "take this setup back" in told
    assert "storage-opts" in told


def test_an_imported_file_that_wins_is_told(tmp_path: Path) -> None:
    put(tmp_path, CONTAINERD, 'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n')
    put(tmp_path, "etc/containerd/conf.d/a.toml", "[proxy_plugins.nydus]\naddress = '/x'\n")
    plan = make_plan(Options(root=tmp_path), host())
    assert any("/etc/containerd/conf.d/a.toml is imported" in note for note in plan.notes)


# Printed


def run_script(text: str, root: Path) -> subprocess.CompletedProcess[str]:
    """The script with its absolute paths below a root."""
    text = re.sub(r"^((?:.* )?(?:expect|put|\[ -e) )/etc", rf"\1{root}/etc", text, flags=re.M)
    text = re.sub(r"(\|\| put )/etc", rf"\1{root}/etc", text)
    return subprocess.run(["sh"], input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("image_format", ["nydus", "estargz"])
@pytest.mark.parametrize("daemon", [None, '{"log-driver": "it\'s"}', '{\n  "a": "$HOME `x`"\n}\n'])
def test_the_script_writes_what_apply_writes(
    image_format: str, daemon: str | None, tmp_path: Path
) -> None:
    roots = [tmp_path / name for name in ("applied", "scripted")]
    for root in roots:
        root.mkdir()
        if daemon is not None:
            put(root, DAEMON, daemon)
    text = script(make_plan(Options(root=roots[0], format=image_format), host()))  # type: ignore[arg-type]
    setup(roots[0], format=image_format)
    for _ in range(2):
        done = run_script(text, roots[1])
        assert done.returncode == 0, done.stderr
    files = [
        {name: each for name, each in tree(root).items() if (root / name).is_file()}
        for root in roots
    ]
    kept = {name for name in files[0] if name.startswith("var/lib/lazyci")}
    assert {name: each for name, each in files[0].items() if name not in kept} == files[1]


def test_the_script_writes_nothing_over_another_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = script(make_plan(Options(root=empty), host()))
    put(tmp_path, DAEMON, '{"debug": true}')
    before = tree(tmp_path)
    done = run_script(text, tmp_path)
    assert done.returncode == 1
    assert "daemon.json is another file" in done.stderr
    assert tree(tmp_path) == before


# nydusd's start

DUMPED = {
    "device": {
        "id": "/3",
        "backend": {
            "type": "registry",
            "config": {"readahead": False, "host": "r:5000", "auth": "eDp5", "proxy": {"a": 1}},
        },
        "cache": {
            "type": "blobcache",
            "config": {"work_dir": "/c", "disable_indexed_map": False},
        },
    },
    "mode": "direct",
    "digest_validate": False,
    "amplify_io": 1048576,
    "fs_prefetch": {"enable": False, "prefetch_all": False},
}


def started(tmp_path: Path, config: str) -> tuple[list[str], str]:
    """The arguments that nydusd gets, and the configuration that they name."""
    setup(tmp_path)
    real = put(tmp_path, "nydusd", '#!/bin/sh\nprintf "%s\\n" "$@"\n', 0o755)
    start = tmp_path / "etc/lazyci/nydus/nydusd"
    start.write_text(start.read_text().replace("/usr/local/bin/nydusd", str(real)))
    file = put(tmp_path, "state/config.json", config, 0o600)
    arguments = ["fuse", "--config", str(file), "--id", "with space"]
    done = subprocess.run([start, *arguments], capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert told[3:5] == ["--id", "with space"]
    return told, done.stderr


def test_nydusd_checks_digests(tmp_path: Path) -> None:
    told, errors = started(tmp_path, json.dumps(DUMPED, separators=(",", ":")))
    assert not errors
    path = Path(told[2])
    assert path.name == "config.json.checked"
    assert path.stat().st_mode & 0o777 == 0o600
    data = json.loads(path.read_text())
    assert data["version"] == 2
    assert data["id"] == "/3"
    assert data["backend"]["registry"]["auth"] == "eDp5"
    assert data["cache"]["validate"] is True
    assert data["cache"]["filecache"]["work_dir"] == "/c"
    assert data["rafs"]["mode"] == "direct"
    assert data["rafs"]["batch_size"] == 1048576


@pytest.mark.parametrize("config", ['{"version":2}', json.dumps(DUMPED, indent=1), ""])
def test_nydusd_starts_with_a_configuration_of_another_form(config: str, tmp_path: Path) -> None:
    told, errors = started(tmp_path, config)
    assert told[2].endswith("state/config.json")
    assert "chunks are not checked" in errors
    assert not Path(f"{told[2]}.checked").exists()


# The command


def lazyci(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lazyci", "agent", "setup", "--root", str(root)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root with an engine and the programs, as an image that is being made."""
    for name in PROGRAMS:
        put(tmp_path, f"usr/local/bin/{name}", "", 0o755)
    put(tmp_path, DAEMON, '{\n    "storage-driver": "overlay2"\n}\n')
    put(tmp_path, CONTAINERD, '# ours\ndisabled_plugins = ["cri"]  # no kubernetes\n')
    return tmp_path


def test_the_plan_that_people_read(image: Path) -> None:
    arguments = ("--containerd-version", "2.1", "--cache-size", "200GB", "--ecr", ECR)
    done = lazyci(*arguments, root=image)
    assert done.returncode == 0, done.stderr
    text = done.stdout.replace(str(image), "ROOT")
    text = text.replace(Host.here(image).platform, "linux/amd64")
    if os.environ.get("LAZYCI_WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_way_of_an_operator(image: Path) -> None:
    before = tree(image)
    version = ("--containerd-version", "1.7")
    assert "nothing was written" in lazyci(*version, root=image).stdout
    assert tree(image) == before
    done = lazyci(*version, "--apply", root=image)
    assert f"to take it back: lazyci agent setup --undo --apply --root {image}" in done.stdout
    assert "nothing is to be done" in lazyci(*version, "--apply", root=image).stdout
    data = json.loads(lazyci(*version, "--output", "json", root=image).stdout)
    assert {file["state"] for file in data["files"]} == {"unchanged"}
    assert "nothing was changed" in lazyci("--undo", root=image).stdout
    done = lazyci("--undo", "--apply", root=image)
    assert "systemctl disable lazyci-nydus-snapshotter.service" in done.stdout
    assert tree(image) == before
    assert "no setup to take back" in lazyci("--undo", root=image).stdout


def test_without_systemd_the_commands_are_told(image: Path) -> None:
    done = lazyci("--no-systemd", "--containerd-version", "2.1", root=image)
    assert "dockerd --containerd /run/containerd/containerd.sock &" in done.stdout
    assert "systemctl" not in done.stdout
    assert ".service" not in done.stdout


def test_the_command_tells_what_is_wrong(image: Path) -> None:
    done = lazyci(root=image)
    assert done.returncode == ToolError.exit_code
    assert "--containerd-version" in done.stderr
    put(image, DAEMON, "{")
    done = lazyci("--containerd-version", "2.1", "--apply", root=image)
    assert done.returncode == InputError.exit_code
    assert f"{DAEMON}:1:2: not JSON" in done.stderr
    assert not (image / "etc/lazyci").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--print", "--apply"),
        ("--ecr", "ghcr.io"),
        ("--cache-size", "much"),
        ("--cache-size", "5iB"),
        ("--format", "zstdchunked"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], image: Path) -> None:
    assert lazyci(*arguments, root=image).returncode == 2


@pytest.mark.parametrize("command", [("agent",), ("agent", "setup")])
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    line = [sys.executable, "-m", "lazyci", *command, "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "Example:" in done.stdout
