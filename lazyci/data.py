"""Nodes as plain data, for what is copied or checked as a value."""

from __future__ import annotations

import re
from typing import Any

from lazyci.document import Node
from lazyci.errors import InputError

__all__ = ["MAX_DATA", "Verbatim", "to_data"]

# Values are copied into steps: agents, a matrix, a login. None comes near this.
MAX_DATA = 20_000

_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?\Z")
# Numbers of other forms, and YAML 1.1's further words for true and false.
_DISPUTED = re.compile(r"(?:[-+.]?[0-9][0-9A-Za-z_.,:+-]*|(?i:y|n|yes|no|on|off))\Z")


class Verbatim(str):
    """A plain scalar whose type readers disagree about, such as `0123`; it is copied as it is."""

    __slots__ = ()


def to_data(node: Node) -> Any:
    """A node as plain data by YAML 1.2's core schema, merge keys resolved.

    Raises:
        InputError: Aliases make it more than `MAX_DATA` nodes.
    """
    return _Data().read(node)


class _Data:
    def __init__(self) -> None:
        self.count = 0

    def read(self, node: Node) -> Any:
        self.count += 1
        if self.count > MAX_DATA:
            raise InputError(f"aliases make more than {MAX_DATA} nodes of one value")
        node = node.real
        if node.kind == "mapping":
            return {key: self.read(value) for key, (_, value) in node.effective().items()}
        if node.kind == "sequence":
            return [self.read(item) for item in node.items]
        return node.value if node.style else _plain(node.value)


def _plain(value: str) -> Any:
    if value in ("", "~", "null", "Null", "NULL"):
        return None
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    if _INT.match(value):
        return int(value) if len(value) < 19 and str(int(value)) == value else Verbatim(value)
    if _FLOAT.match(value):
        return float(value) if repr(float(value)) == value else Verbatim(value)
    return Verbatim(value) if _DISPUTED.match(value) else value
