"""JSON files with some keys set: text is spliced, so that all other bytes stay."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lazyci.agent.setup.model import Setting, Touched, same
from lazyci.errors import InputError

__all__ = ["load", "merge", "put_back"]

_SPACE = re.compile(r"[ \t\r\n]*")
_MISSING = object()


@dataclass(frozen=True, slots=True)
class _Member:
    """A key and its value, by their places in the text."""

    key: str
    key_start: int
    value_start: int
    value_end: int
    value: Any


def load(text: str, path: str) -> dict[str, Any]:
    """The data of a JSON file. A blank file is an empty object, as Docker reads it.

    Raises:
        InputError: It is not JSON, or no object.
    """
    if not text.strip():
        return {}
    try:
        data = json.loads(text, object_pairs_hook=_no_pair_twice)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON: {error.msg}", path=path, line=error.lineno, column=error.colno
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", path=path) from None
    if not isinstance(data, dict):
        raise InputError("not a JSON object", path=path, line=1, column=1)
    return data


def _no_pair_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return data


def merge(text: str, settings: Sequence[Setting], path: str) -> tuple[str, list[Touched]]:
    """Set keys; everything else keeps its bytes, order and indentation.

    Args:
        text: The file; empty for a new one.
        settings: What to set. One that is not firm stays where the key is there already.
        path: The file's name, for messages.

    Returns:
        The new text, and the keys that changed.

    Raises:
        InputError: The text is not JSON, or a key stands where an object must be.
    """
    load(text, path)
    if not text.strip():
        text = "{}\n"
    touched = []
    for setting in settings:
        old = _get(text, setting.key, path)
        if same(old, setting.value) or (old is not _MISSING and not setting.firm):
            continue
        text = _set(text, setting.key, setting.value)
        touched.append(
            Touched(setting.key, setting.value, None if old is _MISSING else old, setting.entries)
        )
    return text, touched


def put_back(text: str, touched: Sequence[Touched], path: str) -> tuple[str, list[str]]:
    """Take keys out again, where they still have the value that was written.

    Args:
        text: The file as it is now.
        touched: What was set.
        path: The file's name, for messages.

    Returns:
        The new text, and the keys that have another value now and stay.

    Raises:
        InputError: The text is not JSON.
    """
    left = []
    for each in reversed(touched):
        now = _get(text, each.key, path)
        if now is _MISSING:
            continue
        if not same(now, each.new):
            left.append(".".join(each.key))
        elif each.old is not None:
            text = _set(text, each.key, each.old)
        else:
            text = _remove(text, each.key)
    return text, left


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _members(text: str, start: int) -> Iterator[_Member]:
    """The members of the object whose brace stands at `start`; the text is known to be JSON."""
    decoder = json.JSONDecoder()
    at = _space(text, start + 1)
    while text[at] != "}":
        key, end = decoder.raw_decode(text, at)
        value_start = _space(text, _space(text, end) + 1)
        value, value_end = decoder.raw_decode(text, value_start)
        yield _Member(key, at, value_start, value_end, value)
        at = _space(text, value_end)
        if text[at] == ",":
            at = _space(text, at + 1)


def _find(text: str, key: Sequence[str]) -> tuple[int, list[str], _Member | None]:
    """The brace of the deepest object on the way to a key, the rest of the way, and the key."""
    start = _space(text, 0)
    rest = list(key)
    while True:
        member = next((m for m in _members(text, start) if m.key == rest[0]), None)
        if member is None or len(rest) == 1 or text[member.value_start] != "{":
            return start, rest, member
        start = member.value_start
        rest = rest[1:]


def _get(text: str, key: Sequence[str], path: str) -> Any:
    if not text.strip():
        return _MISSING
    _, rest, member = _find(text, key)
    if member is None:
        return _MISSING
    if len(rest) > 1:
        line = text.count("\n", 0, member.value_start) + 1
        column = member.value_start - text.rfind("\n", 0, member.value_start)
        raise InputError(f"`{rest[0]}` is no object", path=path, line=line, column=column)
    return member.value


def _set(text: str, key: Sequence[str], value: Any) -> str:
    start, rest, member = _find(text, key)
    for name in reversed(rest[1:]):
        value = {name: value}
    line_break = "\r\n" if "\r\n" in text else "\n"
    indent, unit, broken = _layout(text, start)
    members = list(_members(text, start))
    shown = json.dumps(value, ensure_ascii=False, indent=unit if broken else None)
    shown = shown.replace("\n", line_break + indent)
    if member is not None:
        return text[: member.value_start] + shown + text[member.value_end :]
    entry = f"{json.dumps(rest[0], ensure_ascii=False)}: {shown}"
    before = line_break + indent if broken else (" " if members else "")
    if members:
        end = members[-1].value_end
        return f"{text[:end]},{before}{entry}{text[end:]}"
    close = text.index("}", start + 1)
    after = line_break + indent[: len(indent) - len(unit)] if broken else ""
    return f"{text[: start + 1]}{before}{entry}{after}{text[close:]}"


def _layout(text: str, start: int) -> tuple[str, str, bool]:
    """How the object at `start` is laid out: its members' indentation, a level's, lines or not."""
    outer = _space(text, 0)
    first = next(_members(text, outer), None)
    unit = _indent_at(text, first.key_start) if first else None
    own = next(_members(text, start), None)
    if own is not None:
        indent = _indent_at(text, own.key_start)
        return (indent or "", unit or "  ", indent is not None)
    if first is not None and unit is None:
        return "", "  ", False
    line_start = text.rfind("\n", 0, start) + 1
    lead = text[line_start : _space(text, line_start)] if start > outer else ""
    return lead.split("\n")[-1] + (unit or "  "), unit or "  ", True


def _indent_at(text: str, at: int) -> str | None:
    """What stands before a key on its line, or None when something else does."""
    lead = text[text.rfind("\n", 0, at) + 1 : at]
    return lead if "\n" in text[:at] and not lead.strip(" \t") else None


def _remove(text: str, key: Sequence[str]) -> str:
    """Take a key out, and the objects around it that it leaves empty."""
    start, rest, member = _find(text, key)
    if member is None or len(rest) > 1:
        return text
    members = list(_members(text, start))
    if len(members) == 1 and len(key) > 1:
        return _remove(text, key[:-1])
    place = next(i for i, each in enumerate(members) if each.key_start == member.key_start)
    if len(members) == 1:
        return text[: start + 1] + text[text.index("}", member.value_end) :]
    if place:
        return text[: members[place - 1].value_end] + text[member.value_end :]
    return text[: member.key_start] + text[members[1].key_start :]
