"""Which blocks of the KV cache are free, and how many owners each of the others has.

Sequences that share a prefix share its blocks. A block is free when its last owner lets go of it.
One that the prefix cache can find then keeps its contents, until no other block is free::

                     allocate                      share
       worthless ----------------> owned by 1 ------------> owned by 2, 3, ...
           ^  ^                     |   ^  |  <------------
           |  +---------------------+   |  |       free
           |     free, not findable     |  |
           |                      share |  | free, findable
           |        evicted             |  v
           +--------------------------- kept
                 (the oldest first)
"""

from collections import OrderedDict

from llm_numba.errors import CacheError
from llm_numba.kvcache.prefix_cache import PrefixCache


class BlockAllocator:
    """Hand out block numbers and count their owners.

    Parameters
    ----------
    num_blocks : int
        Blocks are numbered from 0 to ``num_blocks - 1``.
    prefix_cache : PrefixCache, optional
        Without one no block is kept.
    """

    def __init__(self, num_blocks: int, prefix_cache: PrefixCache | None = None) -> None:
        self.num_blocks = num_blocks
        self.prefix_cache = prefix_cache
        self.clear()

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns, also those whose contents are kept."""
        return len(self._worthless) + len(self._kept)

    @property
    def num_kept(self) -> int:
        """Blocks that nobody owns and the prefix cache can find."""
        return len(self._kept)

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
        """Take a free block, with one owner; the oldest that is kept if all are.

        Raises
        ------
        CacheError
            If none is free.
        """
        self.require(1)
        if self._worthless:
            block = self._worthless.pop()
        else:
            block, _ = self._kept.popitem(last=False)
            self.forget(block)
        self._owners[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add an owner to a block that is in use or kept."""
        assert self._owners[block] > 0 or block in self._kept, (
            f"block {block} is free and cannot be shared"
        )
        self._kept.pop(block, None)
        self._owners[block] += 1

    def free(self, block: int) -> None:
        """Remove an owner; without owners the block becomes free."""
        assert self._owners[block] > 0, f"block {block} is free already"
        self._owners[block] -= 1
        if self._owners[block] == 0:
            if self.prefix_cache is not None and block in self.prefix_cache:
                self._kept[block] = None
            else:
                self._worthless.append(block)

    def num_owners(self, block: int) -> int:
        """Return how many sequences own a block."""
        return self._owners[block]

    def is_shared(self, block: int) -> bool:
        """Whether a block has more than one owner, so that nobody may write to it."""
        return self._owners[block] > 1

    def forget(self, block: int) -> None:
        """Let nobody find a block any more: its contents are about to change."""
        if self.prefix_cache is not None:
            self.prefix_cache.forget(block)

    def clear(self) -> None:
        """Begin anew: every block is free, and none can be found.

        For when it is in doubt who owns what, and what it holds. Tables that had blocks must not be
        used any more.
        """
        # A stack: the block freed last is the one most likely still in a cache.
        self._worthless = list(range(self.num_blocks - 1, -1, -1))
        # The one let go of first in front. A plain dict finds its first key by walking over all
        # that were taken from its front before.
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._owners = [0] * self.num_blocks
        if self.prefix_cache is not None:
            self.prefix_cache.clear()
