"""Writes a plan, and takes it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lazyci.agent.setup import jsonfile, tomlfile
from lazyci.agent.setup.model import Plan
from lazyci.agent.setup.paths import decoded, inside, read
from lazyci.agent.setup.record import Entry, Record, digest, kept
from lazyci.errors import InputError, LazyciError
from lazyci.files import write_whole

__all__ = ["Return", "apply", "plan_undo", "undo"]


@dataclass(frozen=True, slots=True)
class Return:
    """What becomes of one file when a setup is taken back.

    Attributes:
        path: Where, from the root.
        state: `restored` to its bytes before, `removed` as it was missing, `cleaned` of lazyci's
            keys because it was changed meanwhile, `unchanged`, or `left` as it is.
        note: What is left to do by hand.
        after: Its bytes then; None: it is missing then.
    """

    path: str
    state: Literal["restored", "removed", "cleaned", "unchanged", "left"]
    note: str = ""
    after: bytes | None = None


def apply(plan: Plan) -> None:
    """Write all files of a plan, each whole or not at all.

    The record and the old bytes are written first, so that a setup that breaks off between two
    files can be taken back, or done again.

    Args:
        plan: The plan.

    Raises:
        InputError: A file changed since it was planned, or cannot be written.
    """
    root = plan.options.root
    changes = plan.pending
    for change in changes:
        if read(root, change.path) != change.before:
            raise InputError(
                "was changed while the setup was planned",
                path=str(inside(root, change.path)),
                hint="Nothing was written. Run it again.",
            )
    if not changes:
        return
    record = Record.load(root)
    record.add(root, changes)
    record.save(root)
    for change in changes:
        write_whole(inside(root, change.path), change.after, change.file.mode)


def plan_undo(root: Path) -> list[Return]:
    """What taking back the setup below a root would do, the last written file first.

    Raises:
        InputError: The record or a file's old bytes cannot be read.
    """
    return [_return(root, entry) for entry in reversed(Record.load(root).files)]


def undo(root: Path, returns: Sequence[Return]) -> None:
    """Take a setup back.

    Args:
        root: The root.
        returns: What `plan_undo` said. What is left stays in the record.

    Raises:
        InputError: A file cannot be written.
    """
    record = Record.load(root)
    by_path = {entry.path: entry for entry in record.files}
    for each in returns:
        place = inside(root, each.path)
        if each.state == "removed":
            _unlink(place)
        elif each.state in ("restored", "cleaned") and each.after is not None:
            write_whole(place, each.after, by_path[each.path].mode)
    left = {each.path for each in returns if each.state == "left"}
    record.files = [entry for entry in record.files if entry.path in left]
    _forget(root, record)
    record.save(root)
    for folder in reversed(record.folders):
        _remove_empty(inside(root, folder))


def _forget(root: Path, record: Record) -> None:
    """Remove the old bytes that no entry needs any more."""
    needed = {entry.before for entry in record.files}
    folder = inside(root, kept("x")).parent
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name not in needed:
            _unlink(file)


def _unlink(place: Path) -> None:
    try:
        place.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot be removed: {error.strerror}", path=str(place)) from None


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Somebody else put something there, or it is gone.
        return


def _return(root: Path, entry: Entry) -> Return:
    now = read(root, entry.path)
    is_now = "" if now is None else digest(now)
    if is_now == entry.before:
        return Return(entry.path, "unchanged")
    if now is None:
        note = f"was removed meanwhile; its bytes before are in {kept(entry.before)}"
        return Return(entry.path, "left", note)
    if is_now in entry.after and not entry.changed:
        if not entry.before:
            return Return(entry.path, "removed")
        return Return(entry.path, "restored", after=_before(root, entry))
    if entry.kind == "private":
        return Return(entry.path, "left", "holds credentials now; remove it when nothing needs it")
    if entry.kind == "text":
        note = "was changed meanwhile; remove it when nothing needs it"
        if entry.before:
            note = f"was changed meanwhile; its bytes before are in {kept(entry.before)}"
        return Return(entry.path, "left", note)
    return _cleaned(root, entry, now)


def _before(root: Path, entry: Entry) -> bytes:
    data = read(root, kept(entry.before))
    if data is None or digest(data) != entry.before:
        raise InputError(
            f"its bytes before are missing or damaged ({kept(entry.before)})",
            path=str(inside(root, entry.path)),
            hint="Nothing was taken back.",
        )
    return data


def _cleaned(root: Path, entry: Entry, now: bytes) -> Return:
    """Take only the keys of the setup out of a file that somebody else changed, too."""
    module = tomlfile if entry.kind == "toml" else jsonfile
    shown = str(inside(root, entry.path))
    try:
        text, other = module.put_back(decoded(now, shown), entry.touched, shown)
    except LazyciError as error:
        return Return(entry.path, "left", f"was changed meanwhile: {error.message}")
    note = "was changed meanwhile: only the keys of the setup are taken out"
    if other:
        note += f"; {', '.join(other)} have other values now and stay"
    return Return(entry.path, "cleaned", note, text.encode())
