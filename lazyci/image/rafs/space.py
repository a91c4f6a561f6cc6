"""Where things are put in a bootstrap: in blocks, inodes in slots, names in directories' blocks."""

from __future__ import annotations

from collections import deque

__all__ = ["BLOCK", "ENTRY_SIZE", "SLOT", "Space", "blocks_of", "is_inline", "length_of", "up"]

BLOCK, SLOT = 4096, 32
ENTRY_SIZE = 12


class Space:
    """The room for inodes; the first block stays free, so that none has the number 0.

    Attributes:
        end: Where the room that nothing was taken of begins.
    """

    def __init__(self) -> None:
        self.end = BLOCK
        # Blocks begun, by how many slots are left at their end; and which of these there are.
        self._begun: list[deque[int]] = [deque() for _ in range(BLOCK // SLOT)]
        self._some = 0

    def align(self, unit: int = SLOT) -> None:
        self.end = -(-self.end // unit) * unit

    def plain(self, size: int) -> int:
        """Take room for an inode without data."""
        at = self.end
        self.end += size
        return at

    def chunked(self, size: int, chunks: int) -> int:
        """Take room for an inode and the addresses of chunks behind it."""
        whole = -(-size // 8) * 8 + chunks * 8
        return self._take(whole) or self.plain(whole)

    def tailed(self, size: int, length: int) -> tuple[int, int]:
        """Take room for an inode and its data, whose tail is behind the inode if it fits there.

        Returns:
            Where the inode is, and where the data's whole blocks are.
        """
        if not is_inline(size, length):
            at = self._take(size) or self.plain(size)
            self._next_block()
            start = self.end
            self.end += length
            self.align(BLOCK)
            return at, start
        tail = length % BLOCK
        at = self._take(size + tail)
        if not at:
            if BLOCK - self.end % BLOCK < size + tail:
                self._next_block()
            at = self.plain(size + tail)
        if length != tail:
            self._next_block()
        start = self.end
        self.end += length - tail
        return at, start

    def _take(self, size: int) -> int:
        """Take room at the end of a block begun; 0 if there is none."""
        slots = -(-size // SLOT)
        some = self._some >> slots
        if size >= BLOCK or not some:
            return 0
        left = slots + (some & -some).bit_length() - 1
        blocks = self._begun[left]
        at = blocks.popleft() + BLOCK - left * SLOT
        if not blocks:
            self._some ^= 1 << left
        self._keep(at + slots * SLOT)
        return at

    def _keep(self, at: int) -> None:
        rest = at % BLOCK
        if rest:
            left = (BLOCK - rest) // SLOT
            self._begun[left].append(at - rest)
            self._some |= 1 << left

    def _next_block(self) -> None:
        self._keep(self.end)
        self.align(BLOCK)


def is_inline(size: int, length: int) -> bool:
    """Whether the tail of `length` bytes of data fits behind an inode of `size` bytes."""
    return 0 < length % BLOCK <= BLOCK - size


def blocks_of(names: list[bytes]) -> list[list[bytes]]:
    """The sorted names of a directory's entries, in blocks."""
    if length_of(names) < BLOCK:
        return [names]
    blocks: list[list[bytes]] = [[]]
    used = 0
    for name in names:
        size = len(name) + ENTRY_SIZE
        if used + size > BLOCK:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += size
    if used == BLOCK:
        # nydusd and nydus-image 2.2.0 (`direct_v6.rs`, `entry_name`) read the last name of such a
        # directory on into the next block. They write it nonetheless; here it is never full.
        blocks.append([blocks[-1].pop()])
    return blocks


def length_of(names: list[bytes]) -> int:
    """How many bytes the entries of these names take."""
    return sum(map(len, names)) + len(names) * ENTRY_SIZE


def up(size: int) -> int:
    """Round up to whole blocks."""
    return -(-size // BLOCK) * BLOCK
