"""The one table of settings that a setup writes, each with its reason.

The fields were read in nydus-snapshotter 0.16.1 (`config/config.go`,
`config/daemonconfig/fuse.go`), nydusd 2.2.0 (`nydus-api`, `config.rs`), stargz-snapshotter 0.19.1
(`fs/config/config.go`, `service/config.go`) and containerd 1.7.9, 2.0.13 and 2.4.2
(`server/config`, `plugins/transfer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lazyci.agent.setup.model import Options, Setting

__all__ = ["SNAPSHOTTERS", "Place", "Snapshotter", "settings_of", "tables"]


@dataclass(frozen=True, slots=True)
class Snapshotter:
    """What the engines call a snapshotter, and where its parts are.

    Attributes:
        name: Its name in containerd and Docker.
        program: Its program.
        needs: Further programs that it starts.
        socket: Where it listens.
        config: Its configuration.
        unit: Its systemd unit.
        source: Where its programs come from.
    """

    name: str
    program: str
    needs: tuple[str, ...]
    socket: str
    config: str
    unit: str
    source: str


SNAPSHOTTERS = {
    "nydus": Snapshotter(
        "nydus",
        "containerd-nydus-grpc",
        ("nydusd",),
        "/run/containerd-nydus/containerd-nydus-grpc.sock",
        "/etc/lazyci/nydus/snapshotter.toml",
        "lazyci-nydus-snapshotter.service",
        "github.com/containerd/nydus-snapshotter/releases (0.16) and "
        "github.com/dragonflyoss/nydus/releases (2.2 or later)",
    ),
    "estargz": Snapshotter(
        "stargz",
        "containerd-stargz-grpc",
        (),
        "/run/containerd-stargz-grpc/containerd-stargz-grpc.sock",
        "/etc/lazyci/stargz/config.toml",
        "lazyci-stargz-snapshotter.service",
        "github.com/containerd/stargz-snapshotter/releases (0.18 or later)",
    ),
}
NYDUSD_CONFIG = "/etc/lazyci/nydus/nydusd.json"
NYDUSD_START = "/etc/lazyci/nydus/nydusd"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """What the settings depend on besides the options.

    Attributes:
        state: Folder of the snapshotter's state and cache.
        platform: `linux/amd64`, as containerd names it.
        containerd: Version of containerd.
        version: Version of the configuration file's form.
        new: Whether that file is new.
        cri: Whether containerd's CRI plugin is configured there.
        unpacks: Whether the file says already what the transfer service unpacks.
    """

    state: str = "/var/lib/docker/lazyci/nydus"
    platform: str = "linux/amd64"
    containerd: tuple[int, int] = (2, 1)
    version: int = 3
    new: bool = True
    cri: bool = False
    unpacks: bool = False


def tables(options: Options, place: Place) -> dict[str, tuple[Setting, ...]]:
    """All settings by the file that they stand in."""
    snapshotter = SNAPSHOTTERS[options.format]
    files = {
        "/etc/containerd/config.toml": settings_of("containerd", options, place),
        snapshotter.config: settings_of(snapshotter.name, options, place),
    }
    if options.format == "nydus":
        files[NYDUSD_CONFIG] = settings_of("nydusd", options, place)
    if options.engine == "docker":
        files["/etc/docker/daemon.json"] = settings_of("docker", options, place)
    return files


def settings_of(what: str, options: Options, place: Place) -> tuple[Setting, ...]:
    """The settings of one program: `containerd`, `docker`, `nydus`, `nydusd` or `stargz`."""
    makers = {"containerd": _containerd, "docker": _docker, "nydus": _nydus, "nydusd": _nydusd}
    return tuple(makers.get(what, _stargz)(options, place))


def _soft(key: str, value: Any, reason: str) -> Setting:
    """A setting that an operator may tune."""
    return Setting(tuple(key.split(".")), value, reason, firm=False)


def _firm(key: str, value: Any, reason: str) -> Setting:
    """A setting without which nothing is lazy, or nothing works."""
    return Setting(tuple(key.split(".")), value, reason)


def _containerd(options: Options, place: Place) -> list[Setting]:
    snapshotter = SNAPSHOTTERS[options.format]
    name = snapshotter.name
    plugin = f"proxy_plugins.{name}"
    settings = []
    if place.new:
        why = "the form that this containerd reads without migrating it"
        settings.append(_firm("version", place.version, why))
    settings += [
        _firm(f"{plugin}.type", "snapshot", "containerd hands snapshots to this program"),
        _firm(f"{plugin}.address", snapshotter.socket, "where the snapshotter listens"),
    ]
    if place.containerd >= (2, 0):
        why = "the folder whose size containerd reports; the first 1.7 have no such key"
        settings.append(_firm(f"{plugin}.exports.root", place.state, why))
    if place.containerd >= (2, 1):
        settings += _transfer(name, place)
    if options.engine == "containerd" and place.cri:
        settings += _cri(name, place)
    return settings


def _transfer(name: str, place: Place) -> list[Setting]:
    annotations = ("proxy_plugins", name, "exports", "enable_remote_snapshot_annotations")
    entries = [{"platform": place.platform, "snapshotter": name, "differ": "walking"}]
    if not place.unpacks:
        # A list of one's own replaces containerd's default, which every other pull needs.
        usual = {"platform": place.platform, "snapshotter": "overlayfs", "differ": "walking"}
        entries.insert(0, usual)
    return [
        Setting(
            annotations,
            "true",
            "from 2.1 pulls go through the transfer service, which otherwise does not tell the "
            "snapshotter which image a layer is of, so that nothing is lazy",
        ),
        Setting(
            ("plugins", "io.containerd.transfer.v1.local", "unpack_config"),
            entries,
            "the transfer service unpacks only for the snapshotters in this list; overlayfs is "
            "its default and stays",
            entries=True,
        ),
    ]


def _cri(name: str, place: Place) -> list[Setting]:
    tables: dict[int, tuple[str, ...]] = {
        1: ("cri", "containerd"),
        2: ("io.containerd.grpc.v1.cri", "containerd"),
    }
    table = ("plugins", *tables.get(place.version, ("io.containerd.cri.v1.images",)))
    return [
        Setting((*table, "snapshotter"), name, "the CRI's images are loaded lazily, too"),
        Setting(
            (*table, "disable_snapshot_annotations"),
            False,
            "the annotations tell the snapshotter which image a layer is of",
        ),
    ]


def _docker(options: Options, place: Place) -> list[Setting]:
    name = SNAPSHOTTERS[options.format].name
    return [
        _firm(
            "features.containerd-snapshotter",
            True,
            "images lie in containerd's store; the graph drivers cannot be lazy",
        ),
        _firm("storage-driver", name, "the one snapshotter of this daemon; it runs all images"),
    ]


def _nydus(options: Options, place: Place) -> list[Setting]:
    return [
        _firm("version", 1, "the form of this file"),
        _firm("root", place.state, "state and cache lie where the engine's data lies"),
        _firm("address", SNAPSHOTTERS["nydus"].socket, "where containerd looks for it"),
        _firm(
            "daemon_mode",
            "dedicated",
            "one nydusd for each image: one that dies takes no other with it, and only so can "
            "the digests of chunks be checked",
        ),
        _firm("daemon.nydusd_path", NYDUSD_START, "starts nydusd with digests checked"),
        _firm("daemon.nydusd_config", NYDUSD_CONFIG, "what every nydusd begins with"),
        _firm("daemon.fs_driver", "fusedev", "fscache needs patched kernels"),
        _soft(
            "daemon.recover_policy",
            "failover",
            "a new nydusd takes over the mounts of one that died; running containers go on",
        ),
        _soft(
            "daemon.threads_number",
            16,
            "reads that are served at once; each waits for the registry, not for a core",
        ),
        _soft("log.log_to_stdout", True, "the journal or the container's log keeps and rotates it"),
        _soft("metrics.address", "", "no metrics server on a port of the agent"),
        _soft(
            "cache_manager.cache_dir",
            f"{place.state}/cache",
            "on the file system that is meant to hold images",
        ),
        _soft(
            "remote.auth.credential_renewal_interval",
            "1h",
            "a token of ECR lasts 12 hours, a mounted image can live longer",
        ),
        _firm(
            "experimental.enable_index_detect",
            True,
            "finds the nydus manifest beside the ordinary one in the variant's index",
        ),
    ]


def _nydusd(options: Options, place: Place) -> list[Setting]:
    late = "a read that gives up ends in an I/O error in the job, for which there is no fallback"
    return [
        _firm("device.backend.type", "registry", "chunks come from the image's own registry"),
        _soft("device.backend.config.timeout", 30, late),
        _soft("device.backend.config.connect_timeout", 10, late),
        _soft("device.backend.config.retry_limit", 5, late),
        _firm("device.cache.type", "blobcache", "what was read once is read from disk"),
        _firm("mode", "direct", "RAFS v6 is mapped, not copied"),
        _firm(
            "digest_validate",
            False,
            "refused for RAFS v6: nydusd would not start; `validate` of the cache, which "
            f"{NYDUSD_START} sets, checks the chunks instead",
        ),
        _soft("enable_xattr", True, "capabilities of programs are extended attributes"),
        _soft("iostats_files", False, "a counter for each file costs memory"),
        _soft("amplify_io", _MIB, "neighbouring chunks are fetched by one request"),
        _soft(
            "fs_prefetch.enable",
            False,
            "prefetching whole files fetches what no job reads, before what it waits for",
        ),
    ]


def _stargz(options: Options, place: Place) -> list[Setting]:
    return [
        _firm(
            "blob.force_single_range_mode",
            True,
            "ECR serves blobs from S3, which ignores requests for several ranges",
        ),
        _soft(
            "blob.chunk_size",
            _MIB,
            "the default of 50 kB makes a request of nearly every read: 21 to 24 s became 17 s",
        ),
        _soft(
            "no_background_fetch",
            True,
            "fetching the rest of the image competes with what the job waits for",
        ),
        _soft("max_concurrency", 10, "tasks beside the job's own reads; the default is 2"),
        _soft(
            "prefetch_timeout_sec",
            2,
            "a container's start waits for prefetching up to this; the default is 10",
        ),
        _soft(
            "prefetch_async_size",
            _MIB,
            "more than this is prefetched while the container runs already",
        ),
        _soft("no_prometheus", True, "no metrics on a port of the agent"),
        _firm(
            "snapshotter.allow_invalid_mounts_on_restart",
            True,
            "one image whose registry is gone must not keep the snapshotter from starting",
        ),
    ]
