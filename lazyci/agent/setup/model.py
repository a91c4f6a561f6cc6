"""What a setup is asked for, what it plans, and what it writes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Change", "File", "Options", "Plan", "Setting", "Touched", "same"]

FormatName = Literal["nydus", "estargz"]
Engine = Literal["docker", "containerd"]
Kind = Literal["toml", "json", "text", "private"]
State = Literal["created", "merged", "unchanged"]


def same(one: Any, other: Any) -> bool:
    """Whether two values are written alike; for Python, 1 and true are equal."""
    return type(one) is type(other) and bool(one == other)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        format: Image format that the agent loads lazily.
        engine: What pulls and runs images.
        root: Folder that all paths lie below; `/` for this host.
        systemd: Whether a unit starts the snapshotter.
        data_root: Folder for the snapshotter's state and cache; empty: beside the engine's.
        cache_size: Limit of the cache, in bytes; 0: none.
        containerd: Version of containerd, `2.1`; empty: asked from the program.
        ecr: Registries of ECR, as `ACCOUNT.dkr.ecr.REGION.amazonaws.com`.
        apply: Whether files will be written on this host.
        offline: Whether the files are for another host or a later start.
    """

    format: FormatName = "nydus"
    engine: Engine = "docker"
    root: Path = Path("/")
    systemd: bool = True
    data_root: str = ""
    cache_size: int = 0
    containerd: str = ""
    ecr: tuple[str, ...] = ()
    apply: bool = False
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a configuration file.

    Attributes:
        key: Path to the key, one name for each level.
        value: Its value. With `entries`: tables that the list there must hold.
        reason: Why it has this value.
        firm: Whether another value there is replaced; otherwise it is the operator's and stays.
        entries: Whether `value` is added to a list.
    """

    key: tuple[str, ...]
    value: Any
    reason: str
    firm: bool = True
    entries: bool = False

    @property
    def name(self) -> str:
        """The key as people write it."""
        return ".".join(part if "." not in part else f'"{part}"' for part in self.key)


@dataclass(frozen=True, slots=True)
class Touched:
    """A key that was set, with what it takes to set it back.

    Attributes:
        key: Path to the key.
        new: The value that was written.
        old: The value before; None where there was none, as neither JSON's null is set by us.
        entries: Whether `new` was added to a list.
    """

    key: tuple[str, ...]
    new: Any
    old: Any = None
    entries: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """What one file is to hold.

    Attributes:
        path: Where, from the root.
        kind: `toml` and `json` are merged, `text` is whole, `private` is written only when missing
            and never read or shown.
        reason: Why there is such a file.
        settings: The keys of a merged file.
        text: The content of a whole file; what a merged file begins with when it is new.
        mode: Permissions of a new file.
    """

    path: str
    kind: Kind
    reason: str
    settings: tuple[Setting, ...] = ()
    text: str = ""
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one file.

    Attributes:
        file: What it is to hold.
        before: Its bytes now; None where it is missing. Empty for a private file.
        after: Its bytes then.
        touched: The keys that change.
        kept: Settings of the operator that stay, with the value they have.
    """

    file: File
    before: bytes | None
    after: bytes
    touched: tuple[Touched, ...] = ()
    kept: tuple[tuple[Setting, Any], ...] = ()

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def state(self) -> State:
        """What happens to the file."""
        if self.before is None:
            return "created"
        if self.file.kind == "private" or self.before == self.after:
            return "unchanged"
        return "merged"

    def diff(self) -> str:
        """The change as a unified diff; empty for what does not change or is private."""
        if self.state == "unchanged" or self.file.kind == "private":
            return ""
        lines = difflib.unified_diff(
            (self.before or b"").decode().splitlines(keepends=True),
            self.after.decode().splitlines(keepends=True),
            "/dev/null" if self.before is None else f"a{self.path}",
            f"b{self.path}",
        )
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a setup would do.

    Attributes:
        options: What was asked for.
        changes: The files, in the order in which they are written.
        notes: What an operator has to know or do besides.
        restart: Commands that make the new files count, in order.
        start: Commands that start the daemons where systemd does not.
        undo: The command that takes it back.
    """

    options: Options
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    undo: str = ""

    @property
    def pending(self) -> Sequence[Change]:
        """The files that change."""
        return [change for change in self.changes if change.state != "unchanged"]

    def to_json(self) -> dict[str, Any]:
        """The plan as data, for `--output json`."""
        return {
            "format": self.options.format,
            "engine": self.options.engine,
            "files": [_change_json(change) for change in self.changes],
            "notes": list(self.notes),
            "restart": list(self.restart),
            "start": list(self.start),
            "undo": self.undo,
        }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "path": change.path,
        "state": change.state,
        "reason": change.file.reason,
        "mode": f"{change.file.mode:04o}",
        "settings": [
            {"key": each.name, "value": each.value, "reason": each.reason}
            for each in change.file.settings
        ],
        "kept": [{"key": each.name, "value": value} for each, value in change.kept],
        "diff": change.diff(),
    }
