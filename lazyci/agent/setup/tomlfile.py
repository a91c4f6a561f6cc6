"""TOML files with some keys set: comments, order and layout of the rest stay."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from lazyci.agent.setup.model import Setting, Touched, same
from lazyci.errors import InputError

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

__all__ = ["load", "merge", "put_back"]

_MISSING = object()


def load(text: str, path: str) -> dict[str, Any]:
    """The data of a TOML file.

    Raises:
        InputError: It is not TOML.
    """
    data: dict[str, Any] = _parse(text, path).unwrap()
    return data


def _parse(text: str, path: str) -> TOMLDocument:
    # Imported here: of all commands only setup writes TOML.
    import tomlkit
    from tomlkit.exceptions import ParseError, TOMLKitError

    try:
        return tomlkit.parse(text)
    except ParseError as error:
        what = str(error).partition(" at line ")[0]
        raise InputError(
            f"not TOML: {what}", path=path, line=error.line, column=error.col + 1
        ) from None
    except (TOMLKitError, ValueError, RecursionError) as error:
        raise InputError(f"not TOML: {error}", path=path) from None


def merge(text: str, settings: Sequence[Setting], path: str) -> tuple[str, list[Touched]]:
    """Set keys; comments, order and all other keys stay.

    Args:
        text: The file; empty for a new one.
        settings: What to set. One that is not firm stays where the key is there already.
        path: The file's name, for messages.

    Returns:
        The new text, and the keys that changed.

    Raises:
        InputError: The text is not TOML, a key stands where a table must be, or the result does
            not read as the old data with these keys.
    """
    # What is added begins on a line of its own.
    whole = text + "\n" if text and not text.endswith("\n") else text
    document = _parse(whole, path)
    expected = document.unwrap()
    touched = []
    for setting in settings:
        change = _touch(document, setting, path)
        if change is not None:
            touched.append(change)
            _expect(expected, setting.key, _wanted(_get(expected, setting.key, path), setting))
    if not touched:
        return text, []
    return _checked(document, expected, text, path), touched


def put_back(text: str, touched: Sequence[Touched], path: str) -> tuple[str, list[str]]:
    """Take keys out again, where they still have the value that was written.

    Args:
        text: The file as it is now.
        touched: What was set.
        path: The file's name, for messages.

    Returns:
        The new text, and the keys that have another value now and stay.

    Raises:
        InputError: The text is not TOML, or the result does not read as the old data without
            these keys.
    """
    document = _parse(text, path)
    expected = document.unwrap()
    left = []
    for each in reversed(touched):
        now = _get(expected, each.key, path)
        if now is _MISSING:
            continue
        if each.entries:
            _take(document, expected, each)
        elif not same(now, each.new):
            left.append(".".join(each.key))
        else:
            _put(document, expected, each.key, each.old)
    return _checked(document, expected, text, path), left


def _checked(document: TOMLDocument, expected: dict[str, Any], text: str, path: str) -> str:
    result = document.as_string()
    comments = [line.strip() for line in text.splitlines() if line.lstrip().startswith("#")]
    if load(result, path) != expected or not set(comments) <= {
        line.strip() for line in result.splitlines()
    }:
        # tomlkit moves keys into another table where dotted keys stand between others.
        raise InputError(
            "its layout cannot be changed without changing more",
            path=path,
            hint="Nothing was written. Write dotted keys as tables, `[a.b]`; "
            "`containerd config migrate` does.",
        )
    return result


def _get(data: Any, key: Sequence[str], path: str) -> Any:
    for depth, name in enumerate(key):
        if not isinstance(data, MutableMapping):
            raise InputError(f"`{'.'.join(key[:depth])}` is no table", path=path)
        if name not in data:
            return _MISSING
        data = data[name]
    return data


def _wanted(old: Any, setting: Setting) -> Any:
    if not setting.entries:
        return setting.value
    present = [] if old is _MISSING else list(old)
    return present + [entry for entry in setting.value if entry not in present]


def _expect(data: dict[str, Any], key: Sequence[str], value: Any) -> None:
    for name in key[:-1]:
        data = data.setdefault(name, {})
    data[key[-1]] = copy.deepcopy(value)


def _touch(document: TOMLDocument, setting: Setting, path: str) -> Touched | None:
    plain = document.unwrap()
    old = _get(plain, setting.key, path)
    wanted = _wanted(old, setting)
    if same(old, wanted) or (old is not _MISSING and not setting.firm and not setting.entries):
        return None
    if setting.entries:
        present = [] if old is _MISSING else old
        added = [entry for entry in wanted if entry not in present]
        _set(document, setting.key, added if present else wanted, append=bool(present))
        return Touched(setting.key, added, entries=True)
    _set(document, setting.key, setting.value)
    return Touched(setting.key, setting.value, None if old is _MISSING else old)


def _set(document: TOMLDocument, key: Sequence[str], value: Any, append: bool = False) -> None:
    import tomlkit
    from tomlkit.items import AoT, InlineTable

    table: Any = document
    for depth, name in enumerate(key[:-1]):
        if name not in table:
            inline = isinstance(table, InlineTable)
            # Only the last table has a header of its own.
            last = depth == len(key) - 2
            is_list = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
            table[name] = tomlkit.inline_table() if inline else tomlkit.table(not last or is_list)
        table = table[name]
    if not append and isinstance(value, list) and value and isinstance(value[0], dict):
        if isinstance(table, InlineTable):
            table[key[-1]] = value
            return
        table[key[-1]] = AoT([])
        append = True
    if not append:
        table[key[-1]] = value
        return
    target = table[key[-1]]
    for entry in value:
        if not isinstance(target, AoT):
            target.append(entry)
            continue
        item = tomlkit.table()
        item.update(entry)
        target.append(item)


def _take(document: TOMLDocument, expected: dict[str, Any], each: Touched) -> None:
    """Take entries out of a list, and the list when nothing else is in it."""
    for data in (expected, document):
        target: Any = data
        for name in each.key:
            target = target[name]
        plain = target if data is expected else target.unwrap()
        for place in reversed([i for i, entry in enumerate(plain) if entry in each.new]):
            del target[place]
    if not _get(expected, each.key, ""):
        _put(document, expected, each.key, None)


def _put(document: TOMLDocument, expected: dict[str, Any], key: Sequence[str], value: Any) -> None:
    """Set a key to what it was before; None removes it, and the tables that it leaves empty."""
    if value is not None:
        _set(document, key, value)
        _expect(expected, key, value)
        return
    while key:
        _drop(document, key)
        _drop(expected, key)
        key = key[:-1]
        if not key or _get(expected, key, "") != {} or _is_commented(document, key):
            return


def _is_commented(document: TOMLDocument, key: Sequence[str]) -> bool:
    table: Any = document
    for name in key:
        table = table[name]
    # A table in several pieces has no text of its own, and stays.
    return "#" in table.as_string() if hasattr(table, "as_string") else True


def _drop(data: Any, key: Sequence[str]) -> None:
    for name in key[:-1]:
        data = data[name]
    del data[key[-1]]
