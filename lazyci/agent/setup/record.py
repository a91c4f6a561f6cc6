"""The record of a setup on its host: what was there before, so that it can be taken back.

It lies with the files' old bytes in /var/lib/lazyci/agent, readable by root only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lazyci.agent.setup.model import Change, Touched
from lazyci.agent.setup.paths import inside, read
from lazyci.errors import InputError
from lazyci.files import write_whole

__all__ = ["FOLDER", "Entry", "Record", "digest"]

FOLDER = "/var/lib/lazyci/agent"
_RECORD = f"{FOLDER}/setup.json"
_VERSION = 1


@dataclass(slots=True)
class Entry:
    """One file that a setup wrote.

    Attributes:
        path: Where, from the root.
        kind: How it is written; see `File.kind`.
        before: Digest of its bytes before the first setup; empty where it was missing.
        after: Digests of what setups wrote there.
        mode: Permissions before; those of the new file where it was missing.
        changed: Whether somebody else changed it between two setups.
        touched: The keys that were set.
    """

    path: str
    kind: str
    before: str
    after: list[str] = field(default_factory=list)
    mode: int = 0o644
    changed: bool = False
    touched: list[Touched] = field(default_factory=list)


@dataclass(slots=True)
class Record:
    """All files that setups wrote below one root.

    Attributes:
        files: One entry for each, in the order in which they were first written.
        folders: Folders that were made for them, outermost first.
    """

    files: list[Entry] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, root: Path) -> Record:
        """The record below a root; an empty one where there is none.

        Raises:
            InputError: It cannot be read or is damaged.
        """
        data = read(root, _RECORD)
        if data is None:
            return cls()
        try:
            said = json.loads(data)
            files = [_entry(each) for each in said["files"]]
            return cls(files, list(said["folders"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"the record of the setup is damaged: {error}",
                path=str(inside(root, _RECORD)),
                hint=f"The bytes before are in {FOLDER}/before; put them back by hand.",
            ) from None

    def save(self, root: Path) -> None:
        """Write it, or remove it when it holds nothing."""
        place = inside(root, _RECORD)
        if not self.files:
            place.unlink(missing_ok=True)
            return
        data = {"version": _VERSION, **asdict(self)}
        write_whole(place, (json.dumps(data, indent=2) + "\n").encode(), 0o600)

    def add(self, root: Path, changes: Iterable[Change]) -> None:
        """Take up files that are about to be written, and keep their old bytes."""
        for change in changes:
            self._add_folders(root, change.path)
            now = "" if change.before is None else digest(change.before)
            entry = next((each for each in self.files if each.path == change.path), None)
            if entry is None:
                entry = Entry(change.path, change.file.kind, now, mode=_mode(root, change))
                self.files.append(entry)
                if change.before is not None:
                    write_whole(inside(root, kept(now)), change.before, 0o600)
            elif now != entry.before and now not in entry.after:
                entry.changed = True
            entry.after.append(digest(change.after))
            entry.touched = _joined(entry.touched, change.touched)

    def _add_folders(self, root: Path, path: str) -> None:
        for name in (path, _RECORD, kept("x")):
            for folder in reversed(Path(name).parents):
                if not inside(root, str(folder)).exists() and str(folder) not in self.folders:
                    self.folders.append(str(folder))


def kept(name: str) -> str:
    """Where the bytes of a digest are kept."""
    return f"{FOLDER}/before/{name}"


def digest(data: bytes) -> str:
    """The digest of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def _mode(root: Path, change: Change) -> int:
    if change.before is None:
        return change.file.mode
    return inside(root, change.path).stat().st_mode & 0o7777


def _entry(said: dict[str, Any]) -> Entry:
    touched = [Touched(**{**each, "key": tuple(each["key"])}) for each in said.pop("touched")]
    return Entry(**said, touched=touched)


def _joined(old: Sequence[Touched], new: Sequence[Touched]) -> list[Touched]:
    """Keys of two setups, one after the other: the first's old values, the second's new ones."""
    joined = {each.key: each for each in old}
    for each in new:
        first = joined.get(each.key)
        if first is None:
            joined[each.key] = each
        elif each.entries:
            joined[each.key] = Touched(each.key, [*first.new, *each.new], entries=True)
        else:
            joined[each.key] = Touched(each.key, each.new, first.old)
    return list(joined.values())
