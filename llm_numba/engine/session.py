"""A conversation that keeps its KV cache between turns."""

from llm_numba.errors import EngineError
from llm_numba.kvcache import BlockTable, PagedKVCache


class ChatSession:
    """Remembers which tokens' keys and values are in the cache, and where.

    Each turn sends the whole conversation; the part that the last turn computed already is taken
    from the cache. When memory runs short the engine may drop an idle session's cache: its next
    turn then computes everything again and gives the same answer.

    Attributes
    ----------
    token_ids : list of int
        The tokens whose keys and values are kept.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self._table: BlockTable | None = None
        self._kv_cache: PagedKVCache | None = None
        self._busy = False
        self._closed = False

    @property
    def holds_blocks(self) -> bool:
        """Whether the cache has something of this conversation that nobody is using now."""
        return self._table is not None

    def lend(self, prompt_token_ids: list[int], kv_cache: PagedKVCache) -> BlockTable | None:
        """Hand out the table, cut back to what the new prompt begins with.

        Parameters
        ----------
        prompt_token_ids : list of int
        kv_cache : PagedKVCache
            Of the engine that asks: the blocks of another mean nothing to it.

        Returns
        -------
        BlockTable or None
            Without the prompt's last token, whose logits are needed; None if nothing is kept.

        Raises
        ------
        EngineError
            If a turn of this session is still running, or its blocks are in another cache.
        """
        if self._busy:
            raise EngineError(
                "This chat session is still answering its last turn.",
                "Finish or close that stream first, or open another session.",
            )
        if self._kv_cache not in (None, kv_cache):
            raise EngineError(
                "This chat session belongs to another LLM.",
                "Open one with chat_session() of the LLM that you ask.",
            )
        self._kv_cache, self._busy, self._closed = kv_cache, True, False
        table, self._table = self._table, None
        if table is not None:
            table.truncate(_common_prefix(self.token_ids, prompt_token_ids[:-1]))
        return table

    def give_back(self, token_ids: list[int], table: BlockTable) -> None:
        """Keep a table for the next turn.

        Parameters
        ----------
        token_ids : list of int
            The conversation; the table holds its beginning.
        table : BlockTable
        """
        self.token_ids = token_ids[: table.num_tokens]
        self._table, self._busy = table, False
        if self._closed:
            self.close()

    def close(self) -> None:
        """Free the blocks, those of a running turn when it ends.

        The session may be used again, from nothing.
        """
        self._closed = self._busy
        if self._table is not None:
            self._table.free()
            self._table = None
        self.token_ids = []


def _common_prefix(a: list[int], b: list[int]) -> int:
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
