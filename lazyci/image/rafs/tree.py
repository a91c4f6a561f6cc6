"""The tree that a bootstrap is written of, and what its writer must know of blobs and chunks."""

from __future__ import annotations

from typing import Final, Protocol

from lazyci.image.rafs.reader import Node

__all__ = ["IMPLIED", "OPAQUE", "WHITEOUT", "Folder", "Leaf", "Tables"]

# The names that mean whiteouts in a layer (OCI image specification, `layer.md`).
OPAQUE = b".wh..wh..opq"
WHITEOUT = b".wh."
# Mode, owner, group and time of a directory that a layer only passes through: in the layer's own
# bootstrap it gets an owner and a time that no file has, so that the merge can tell it.
IMPLIED: Final = (0o755, 0o7777777, 0o7777777, 0o77777777776)


class Tables(Protocol):
    """The blobs of a bootstrap, and those of their chunks that its files use."""

    chunk_size: int

    @property
    def count(self) -> int:
        """How many blobs there are."""

    @property
    def flags(self) -> int:
        """The flags of the extended superblock."""

    @property
    def blocks(self) -> int:
        """How many blocks the data has, unpacked."""

    def table(self) -> bytes:
        """The blob table."""

    def devices(self) -> bytes:
        """The device slots."""

    def addresses(self, leaf: Leaf) -> tuple[bytes, bool]:
        """Where the chunks of a file are, and whether they follow one another unpacked."""

    def chunks(self) -> bytes:
        """The table of the chunks whose addresses were asked for: by digest, then by blob."""


class Leaf:
    """What is no directory; hard links share it. What comes last is the writer's."""

    __slots__ = ("layer", "links", "node", "number", "offset", "start", "xattrs")

    def __init__(self, node: Node, layer: int) -> None:
        self.node = node
        self.layer = layer
        self.links = self.number = self.offset = self.start = 0
        self.xattrs = b""


class Folder:
    """A directory; `node` is None until a layer describes it. What comes last is the writer's."""

    __slots__ = (
        "below",
        "blocks",
        "is_opaque",
        "node",
        "number",
        "offset",
        "parent",
        "size",
        "start",
        "whiteouts",
        "xattrs",
    )

    def __init__(self, node: Node | None) -> None:
        self.node = node
        self.below: dict[bytes, Folder | Leaf] = {}
        self.whiteouts: list[bytes] = []
        self.is_opaque = False
        self.number = self.offset = self.parent = self.size = self.start = 0
        self.blocks: list[list[bytes]] = []
        self.xattrs = b""
