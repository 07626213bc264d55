"""Which blocks of the KV cache are free, and how many owners each of the others has.

Sequences that share a prefix share its blocks. A block goes back to the free list when its last
owner lets go of it.
"""

from llm_numba.errors import CacheError


class BlockAllocator:
    """Hand out block numbers and count their owners.

    Parameters
    ----------
    num_blocks : int
        Blocks are numbered from 0 to ``num_blocks - 1``.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        # A stack: the block freed last is the one most likely still in a cache.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._owners = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    def require(self, count: int) -> None:
        """Make sure that so many blocks are free, for those who need all of them or none.

        Parameters
        ----------
        count : int

        Raises
        ------
        CacheError
            If fewer are free.
        """
        if count > self.num_free:
            raise CacheError(
                f"{count} more of the {self.num_blocks} blocks of the KV cache are needed, and "
                f"{self.num_free} are free.",
                "Raise num_blocks, or run fewer or shorter sequences at a time.",
            )

    def allocate(self) -> int:
        """Take a free block, with one owner.

        Raises
        ------
        CacheError
            If none is free.
        """
        self.require(1)
        block = self._free.pop()
        self._owners[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add an owner to a block in use."""
        assert self._owners[block] > 0, f"block {block} is free and cannot be shared"
        self._owners[block] += 1

    def free(self, block: int) -> None:
        """Remove an owner; without owners the block becomes free."""
        assert self._owners[block] > 0, f"block {block} is free already"
        self._owners[block] -= 1
        if self._owners[block] == 0:
            self._free.append(block)

    def is_shared(self, block: int) -> bool:
        """Whether a block has more than one owner, so that nobody may write to it."""
        return self._owners[block] > 1
