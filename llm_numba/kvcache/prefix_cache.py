"""Which blocks hold the beginning of a prompt already.

A key depends on all tokens before it, so a block is found by what it holds *and* where::

    key 0 = SHA-256(SHA-256(identity) | tokens of block 0)
    key i = SHA-256(key i-1           | tokens of block i)

Two different beginnings with one key would answer a prompt with somebody else's keys and values.
SHA-256 makes that so unlikely that no tokens are kept to compare, not even for a prompt that was
made to collide. The identity keeps models apart that read the same tokens differently.

The method is vLLM's automatic prefix caching; the chain of hashes is Merkle's (1979).
"""

from array import array
from collections.abc import Sequence
from hashlib import sha256


class PrefixCache:
    """Finds full blocks by the tokens that they hold and those before them.

    Parameters
    ----------
    identity : str
        Of the model: whatever changes the keys and values of the same tokens belongs in it.
    block_size : int
        Tokens a block.
    """

    def __init__(self, identity: str, block_size: int) -> None:
        self._block_size = block_size
        self._root = sha256(identity.encode()).digest()
        self.clear()

    def __contains__(self, block: int) -> bool:
        """Whether a block can be found."""
        return block in self._key_of

    def next_key(self, keys: list[bytes], token_ids: Sequence[int]) -> bytes:
        """Return the key of the full block that comes next.

        Parameters
        ----------
        keys : list of bytes
            Of the sequence's blocks before it.
        token_ids : sequence of int
            All of the sequence that is known.

        Returns
        -------
        bytes
            32 of them.
        """
        first = len(keys) * self._block_size
        tokens = array("q", token_ids[first : first + self._block_size])
        return sha256((keys[-1] if keys else self._root) + tokens.tobytes()).digest()

    def match(self, token_ids: Sequence[int]) -> tuple[list[bytes], list[int]]:
        """Look up the longest beginning of a prompt.

        Parameters
        ----------
        token_ids : sequence of int

        Returns
        -------
        keys : list of bytes
        blocks : list of int
            As many; never all of the prompt, whose last token's logits are wanted.
        """
        keys: list[bytes] = []
        blocks: list[int] = []
        while (len(keys) + 1) * self._block_size < len(token_ids):
            key = self.next_key(keys, token_ids)
            if key not in self._block_of:
                break
            keys.append(key)
            blocks.append(self._block_of[key])
        return keys, blocks

    def add(self, key: bytes, block: int) -> None:
        """Make a block findable, unless another one with the same contents is.

        Parameters
        ----------
        key : bytes
        block : int
            Must not be findable yet.
        """
        if key not in self._block_of:
            assert block not in self._key_of, f"block {block} has two keys"
            self._block_of[key] = block
            self._key_of[block] = key

    def forget(self, block: int) -> None:
        """Make a block unfindable, if it was not: its contents are about to change."""
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]

    def clear(self) -> None:
        """Make all blocks unfindable."""
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
