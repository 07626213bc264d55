"""Which sequences run in the next step.

First come, first served. A request is admitted when the blocks that it may come to need are free
or will be, so a sequence that runs is never stopped for want of memory. A step either computes the
prompts of newly admitted requests or decodes one token of every running sequence.
"""

from collections import deque
from collections.abc import Callable

from llm_numba.engine.request import Request, Sequence
from llm_numba.kvcache import PagedKVCache


class Scheduler:
    """Holds the waiting requests and the running sequences.

    Parameters
    ----------
    kv_cache : PagedKVCache
    max_num_seqs : int
        Sequences that run at a time.
    max_num_batched_tokens : int
        Prompt tokens a step; a longer prompt has a step to itself.
    reclaim : callable() -> bool
        Frees blocks that are kept for later only; False when there are none.
    """

    def __init__(
        self,
        kv_cache: PagedKVCache,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        reclaim: Callable[[], bool],
    ) -> None:
        self.waiting: deque[Request] = deque()
        self.running: list[Sequence] = []
        self._kv_cache = kv_cache
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._reclaim = reclaim

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def schedule(self) -> list[Sequence]:
        """Choose the sequences of the next step.

        Returns
        -------
        list of Sequence
            The first sample of each newly admitted request, whose prompt is to be computed, or
            every running sequence.
        """
        return [request.sequences[0] for request in self._admit()] or list(self.running)

    def _admit(self) -> list[Request]:
        admitted: list[Request] = []
        num_tokens = 0
        spare = self.num_spare_blocks() if self.waiting else 0
        while self.waiting:
            request = self.waiting[0]
            if len(self.running) + len(request.sequences) > self._max_num_seqs:
                break
            while (wanted := self._num_blocks_wanted(request)) > spare and self._reclaim():
                spare = self.num_spare_blocks()
            num_tokens += len(request.sequences[0].uncomputed_token_ids())
            if wanted > spare or (admitted and num_tokens > self._max_num_batched_tokens):
                break
            admitted.append(self.waiting.popleft())
            self.running.extend(request.sequences)
            spare -= wanted
        return admitted

    def num_spare_blocks(self) -> int:
        """Return the free blocks that no running sequence may come to need."""
        promised = sum(s.table.blocks_to_reach(s.request.final_length) for s in self.running)
        return self._kv_cache.allocator.num_free - promised

    def _num_blocks_wanted(self, request: Request) -> int:
        return sum(s.table.blocks_to_reach(request.final_length) for s in request.sequences)

    def remove_finished(self) -> None:
        """Forget the sequences that are complete."""
        self.running = [sequence for sequence in self.running if not sequence.finished]

    def put_back(self, request: Request) -> None:
        """Queue a request again, before all others: its first step failed."""
        self.running = [sequence for sequence in self.running if sequence.request is not request]
        self.waiting.appendleft(request)

    def abort(self, request: Request) -> None:
        """Forget a request, wherever it is."""
        if request in self.waiting:
            self.waiting.remove(request)
        self.running = [sequence for sequence in self.running if sequence.request is not request]
