"""The blocks of one sequence, in order.

A table grows a block at a time, shares its blocks with a fork, and copies a shared block before
writing to it (*copy-on-write*). Token p of the sequence lives in ``blocks[p // block_size]``.
A new table may begin with blocks that the prefix cache finds; full blocks of its own become
findable when it registers them.
"""

from collections.abc import Callable, Sequence

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

    Attributes
    ----------
    blocks : list of int
    num_tokens : int
    lineage : object
        Another one whenever blocks were given back. As long as it is the same, `blocks` has only
        grown, and its last block may have been replaced by a private copy.
    """

    def __init__(
        self, allocator: BlockAllocator, block_size: int, copy_block: Callable[[int, int], None]
    ) -> None:
        self.blocks: list[int] = []
        self.num_tokens = 0
        self.lineage = object()
        self._allocator = allocator
        self._block_size = block_size
        self._copy_block = copy_block
        self._last_is_writable = False  # True only if nobody else can see or find the last block
        self._keys: list[bytes] = []  # of the full blocks that were adopted or registered

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
        if count == 1 and self._last_is_writable and first % size:
            # What a decoding sequence does in all steps but one a block.
            self.num_tokens = last
            return [self.blocks[-1] * size + first % size]
        # A fork would share blocks left over from half a growth, and both would write to them.
        self._allocator.require(self.blocks_to_reach(last))
        if count and first % size:
            self._make_last_block_writable()
        while len(self.blocks) * size < last:
            self.blocks.append(self._allocator.allocate())
        self.num_tokens = last
        self._last_is_writable = self._last_is_writable or count > 0
        return [self.blocks[p // size] * size + p % size for p in range(first, last)]

    def _make_last_block_writable(self) -> None:
        last = self.blocks[-1]
        if self._allocator.is_shared(last):
            self.blocks[-1] = self._allocator.allocate()
            self._copy_block(last, self.blocks[-1])
            self._allocator.free(last)
        else:
            # Findable if the sequence was cut back into a full block.
            self._allocator.forget(last)

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
        twin._keys = list(self._keys)
        self._last_is_writable = False
        return twin

    def adopt_prefix(self, token_ids: Sequence[int]) -> int:
        """Begin with the blocks in which a prompt's beginning is found.

        Parameters
        ----------
        token_ids : sequence of int
            The prompt.

        Returns
        -------
        int
            Tokens that need not be computed: a multiple of the block size, and less than all.
        """
        assert not self.blocks, "a table that has tokens cannot adopt a prefix"
        cache = self._allocator.prefix_cache
        if cache is None:
            return 0
        self._keys, self.blocks = cache.match(token_ids)
        for block in self.blocks:
            self._allocator.share(block)
        self.num_tokens = len(self.blocks) * self._block_size
        return self.num_tokens

    def register(self, token_ids: Sequence[int]) -> None:
        """Make full blocks findable whose keys and values are written, or soon will be.

        Parameters
        ----------
        token_ids : sequence of int
            The sequence's tokens as far as they are known, more or fewer than the table holds.
            Work queued later on the same stream may read what is yet to be written.
        """
        cache = self._allocator.prefix_cache
        if cache is None:
            return
        num_full = min(self.num_tokens, len(token_ids)) // self._block_size
        for block in self.blocks[len(self._keys) : num_full]:
            self._keys.append(cache.next_key(self._keys, token_ids))
            cache.add(self._keys[-1], block)

    def truncate(self, num_tokens: int) -> None:
        """Forget the tokens from position ``num_tokens`` on and give back their blocks."""
        assert num_tokens <= self.num_tokens, "a table cannot be truncated to more than it has"
        needed = count_blocks(num_tokens, self._block_size)
        # From the end: a block is kept longer than those that only follow from it.
        while len(self.blocks) > needed:
            self._allocator.free(self.blocks.pop())
        self.num_tokens = num_tokens
        self.lineage = object()
        self._last_is_writable = False
        del self._keys[num_tokens // self._block_size :]

    def free(self) -> None:
        """Give back every block."""
        self.truncate(0)
