"""The blocks of one sequence, in order.

A table grows a block at a time, shares its blocks with a fork, and copies a shared block before
writing to it (*copy-on-write*). Token p of the sequence lives in ``blocks[p // block_size]``.
"""

from collections.abc import Callable

from llm_numba.kvcache.allocator import BlockAllocator


def count_blocks(num_tokens: int, block_size: int) -> int:
    """Return how many blocks so many tokens fill or begin."""
    return -(-num_tokens // block_size)


class BlockTable:
    """Maps a sequence's positions to slots of the cache.

    Parameters
    ----------
    allocator : BlockAllocator
    block_size : int
        Tokens a block.
    copy_block : callable(source, target)
        Copies a block's contents in every layer.
    """

    def __init__(
        self, allocator: BlockAllocator, block_size: int, copy_block: Callable[[int, int], None]
    ) -> None:
        self.blocks: list[int] = []
        self.num_tokens = 0
        self._allocator = allocator
        self._block_size = block_size
        self._copy_block = copy_block

    def append_slots(self, count: int) -> list[int]:
        """Make room for new tokens and return the slots to write them to.

        Parameters
        ----------
        count : int
            How many tokens.

        Returns
        -------
        list of int
            A slot for each, none in a block that another sequence can see.

        Raises
        ------
        CacheError
            If the cache is full; the table keeps what it had.
        """
        size = self._block_size
        first, last = self.num_tokens, self.num_tokens + count
        # A fork would share blocks left over from half a growth, and both would write to them.
        self._allocator.require(self.blocks_to_reach(last))
        if count and self._must_copy():
            private = self._allocator.allocate()
            self._copy_block(self.blocks[-1], private)
            self._allocator.free(self.blocks[-1])
            self.blocks[-1] = private
        while len(self.blocks) * size < last:
            self.blocks.append(self._allocator.allocate())
        self.num_tokens = last
        return [self.blocks[p // size] * size + p % size for p in range(first, last)]

    def blocks_to_reach(self, num_tokens: int) -> int:
        """Return how many more blocks the sequence takes to grow to that many tokens."""
        growing = num_tokens > self.num_tokens
        missing = max(0, count_blocks(num_tokens, self._block_size) - len(self.blocks))
        return missing + (growing and self._must_copy())

    def _must_copy(self) -> bool:
        # The last block has room left, and another sequence sees it too.
        partial = self.num_tokens % self._block_size != 0
        return partial and self._allocator.is_shared(self.blocks[-1])

    def fork(self) -> "BlockTable":
        """Return a table with the same tokens, sharing every block."""
        twin = BlockTable(self._allocator, self._block_size, self._copy_block)
        for block in self.blocks:
            self._allocator.share(block)
        twin.blocks = list(self.blocks)
        twin.num_tokens = self.num_tokens
        return twin

    def truncate(self, num_tokens: int) -> None:
        """Forget the tokens from position ``num_tokens`` on and give back their blocks."""
        assert num_tokens <= self.num_tokens, "a table cannot be truncated to more than it has"
        needed = count_blocks(num_tokens, self._block_size)
        while len(self.blocks) > needed:
            self._allocator.free(self.blocks.pop())
        self.num_tokens = num_tokens

    def free(self) -> None:
        """Give back every block."""
        self.truncate(0)
