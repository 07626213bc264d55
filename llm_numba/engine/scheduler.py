"""Which tokens are computed in the next step.

A step mixes sequences that decode, one token each, with pieces of prompts, up to a budget of
tokens (*chunked prefill*)::

    budget | d d d d | prompt that is being read ... | new prompt, its first piece |
             one of each       the oldest first          as far as the budget goes

Requests have a class (:data:`PRIORITIES`). The sequences of a class are admitted in the order in
which they came, run in that order, and are stopped in the opposite one. So within a class nobody
is overtaken, not by a single step, and those that run are older than those that wait.

A request is admitted when its prompt fits into the free blocks, with a block to grow for everybody
who runs. Nothing is set aside for answers, whose length nobody knows. When no block is left, the
youngest sequence of the lowest class is *pre-empted*: it gives its blocks back, waits at the head
of its class, and later computes its tokens again (recompute; Kwon et al. 2023, section 4.5). The
oldest sequence of the highest class is never stopped, and fits alone: so every step gets on.

A model in R pipeline stages computes R steps at a time, one a stage. Nobody is in two of them with
a token to draw in the first. So a step takes an R-th of the sequences and of the budget, and those
whose token is in flight have their turn when it has been read.
"""

from collections import Counter, deque
from dataclasses import dataclass, field

from llm_numba.engine.request import Request, Sequence
from llm_numba.engine.sampling_params import PRIORITIES
from llm_numba.engine.step import IN_FLIGHT, Step, Work
from llm_numba.kvcache import PagedKVCache


@dataclass(eq=False)
class PriorityClass:
    """The sequences of one class.

    Attributes
    ----------
    max_num_seqs : int
        So many may run.
    waiting, running : sequence of Sequence
        In the order of arrival; all that run came before all that wait. Of samples that have no
        token yet only the first waits; all of them run, and the first computes the prompt.
    """

    max_num_seqs: int
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    # The head of the queue as it was last refused, and the spare blocks it was refused with.
    refused: tuple[Sequence | None, int] = (None, 0)


class Scheduler:
    """Holds the waiting and the running sequences, and fills the steps.

    Parameters
    ----------
    kv_cache : PagedKVCache
    max_num_seqs : int
        Sequences that run at a time.
    max_num_batched_tokens : int
        Tokens a step.
    max_seqs_by_priority : dict of str to int, optional
        A lower limit for the sequences of a class. ``{"interactive": 1, "batch": 8}`` is the
        classic division into micro-batches.
    num_stages : int
        R, of the model's pipeline.

    Attributes
    ----------
    num_preemptions : int
        Sequences that were stopped for want of blocks, or for one of a higher class.
    num_tokens_admitted, num_tokens_found : int
        Of all that were admitted: their tokens then, and how many the prefix cache had.
    """

    def __init__(
        self,
        kv_cache: PagedKVCache,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_seqs_by_priority: dict[str, int] | None = None,
        num_stages: int = 1,
    ) -> None:
        self.num_preemptions = self.num_tokens_admitted = self.num_tokens_found = 0
        self._allocator = kv_cache.allocator
        # Everybody who runs can then have a token in every step.
        self.max_num_seqs = min(max_num_seqs, max_num_batched_tokens)
        self._max_num_batched_tokens = max_num_batched_tokens
        self._num_stages = num_stages
        limits = max_seqs_by_priority or {}
        self._classes = [
            PriorityClass(min(limits.get(name, self.max_num_seqs), self.max_num_seqs))
            for name in PRIORITIES
        ]
        # Of the step that is being filled: tokens for prompts, and tokens of those that run.
        self._spare_tokens = self._spare_turns = self._barred_rank = 0

    @property
    def waiting(self) -> list[Sequence]:
        """Sequences that hold no blocks; of samples that have no token yet only the first."""
        return [sequence for group in self._classes for sequence in group.waiting]

    @property
    def running(self) -> list[Sequence]:
        """Sequences that are being computed, the most urgent first."""
        return [sequence for group in self._classes for sequence in group.running]

    def class_limit(self, priority: str) -> int:
        """Return how many sequences of a class may run."""
        return self._classes[PRIORITIES.index(priority)].max_num_seqs

    def add(self, request: Request) -> None:
        """Queue a request."""
        self._class_of(request.sequences[0]).waiting.append(request.sequences[0])

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        group = self._class_of(sequence)
        if sequence in group.running:
            group.running.remove(sequence)
        elif sequence in group.waiting:
            group.waiting.remove(sequence)

    def restart(self, requests: list[Request]) -> None:
        """Stop everybody: what was scheduled or in flight is computed again.

        Parameters
        ----------
        requests : list of Request
            All that are not finished, in the order of arrival.
        """
        for group in self._classes:
            group.running.clear()
            group.waiting.clear()
        for sequence in (sequence for request in requests for sequence in request.sequences):
            if not sequence.finished:
                sequence.table.free()
                sequence.num_in_flight = 0
                if sequence.draw_together()[0] is sequence:
                    self._class_of(sequence).waiting.append(sequence)

    def schedule(self) -> Step:
        """Choose the tokens of the next step and give them slots in the cache.

        Returns
        -------
        step.Step
            Empty if nobody can go on before a token in flight is read.
        """
        works: list[Work] = []
        # One token of the budget is kept for everybody whose turn it is; prompts share the rest.
        self._spare_turns = -(-self._num_running() // self._num_stages)
        self._spare_tokens = self._budget() - self._spare_turns
        self._barred_rank = len(self._classes)  # classes from this one on admit nobody now
        for rank, group in enumerate(self._classes):
            self._go_on(group, works)
            self._admit(rank, group, works)
        works.sort(key=_is_piece)
        return Step(works, sum(len(work.token_ids) for work in works))

    def _go_on(self, group: PriorityClass, works: list[Work]) -> None:
        """Schedule the running sequences of a class."""
        allocator, running = self._allocator, group.running
        position = 0
        # Only those further back are pre-empted, so the positions in front stay as they are.
        while position < len(running):
            sequence = running[position]
            position += 1
            table, in_flight = sequence.table, sequence.num_in_flight
            start = table.num_tokens
            answer = sequence.output.token_ids
            num_sampled = len(answer) + in_flight
            num_missing = sequence.prompt_length + num_sampled - start
            if num_sampled and num_missing == 1:
                if num_sampled == sequence.request.max_tokens:
                    continue  # its last token is in flight
                if not self._spare_turns or (in_flight and self._num_stages > 1):
                    continue
                self._spare_turns -= 1
                # A token takes one block at most.
                if not allocator.num_free and not self._make_room(sequence, 1):
                    break
                token_ids = [IN_FLIGHT] if in_flight else answer[-1:]
                works.append(Work(sequence, token_ids, start, table.append_slots(1), [sequence]))
            elif sequence.draw_together()[0] is sequence:
                turn = min(1, self._spare_turns)
                count = min(num_missing, turn + self._spare_tokens)
                if not count:
                    continue
                if not self._make_room(sequence, count):
                    break
                self._spare_turns -= turn
                self._spare_tokens += turn
                self._compute_piece(sequence, count, works)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Pre-empt others until a running sequence can grow; False if its own turn comes."""
        goal = sequence.table.num_tokens + count
        while sequence.table.blocks_to_reach(goal) > self._allocator.num_free:
            if sequence in self._preempt():
                return False
        return True

    def _preempt(self) -> list[Sequence]:
        """Stop the youngest of the lowest class, with those that share its prompt's first token."""
        rank = max(rank for rank, group in enumerate(self._classes) if group.running)
        group = self._classes[rank]
        stopped = group.running[-1].draw_together()
        del group.running[-len(stopped) :]
        for sequence in stopped:
            sequence.table.free()
        group.waiting.appendleft(stopped[0])
        self.num_preemptions += len(stopped)
        if self._num_stages == 1:
            self._spare_tokens += len(stopped)  # which would have had a turn
        self._barred_rank = min(self._barred_rank, rank)
        return stopped

    def _compute_piece(self, sequence: Sequence, count: int, works: list[Work]) -> None:
        """Schedule the next tokens of a prompt, or of what is computed again."""
        table = sequence.table
        start = table.num_tokens
        token_ids = sequence.token_ids()[start : start + count]
        slots = table.append_slots(count)
        self._spare_tokens -= count
        samplers: list[Sequence] = []
        if start + count == sequence.length:
            samplers = sequence.draw_together()
            # They share the prompt's blocks and part at their first token.
            for twin in samplers[1:]:
                twin.table = table.fork()
        works.append(Work(sequence, token_ids, start, slots, samplers))

    def _admit(self, rank: int, group: PriorityClass, works: list[Work]) -> None:
        """Let waiting sequences of a class run, the oldest first, until one does not fit."""
        while group.waiting and rank < self._barred_rank:
            if not self._spare_tokens and self._num_running() < self._max_num_batched_tokens:
                return  # a prompt before it took the rest; lower classes could give no token
            sequence = group.waiting[0]
            if self._num_stages > 1 and (sequence.num_in_flight or not self._spare_tokens):
                return  # stopped with a token on its way, which must be known to go on
            members = sequence.draw_together()
            if len(group.running) + len(members) > group.max_num_seqs:
                return
            higher = sum(len(group.running) for group in self._classes[: rank + 1])
            if higher + len(members) > self.max_num_seqs or not self._find_blocks(rank, sequence):
                return
            # Nothing is in its way any more, but perhaps lower classes.
            while self._num_running() + len(members) > self.max_num_seqs:
                self._preempt()
            metrics = sequence.request.metrics
            if not metrics.num_generated_tokens:
                metrics.num_cached_tokens = sequence.table.num_tokens
            group.waiting.popleft()
            group.running += members
            num_missing = sequence.length - sequence.table.num_tokens
            self._compute_piece(sequence, min(num_missing, self._spare_tokens), works)

    def _find_blocks(self, rank: int, sequence: Sequence) -> bool:
        """Let a sequence begin with the blocks that are known; False if the others do not fit."""
        group, spare = self._classes[rank], self._spare_blocks()
        lower = [other for below in self._classes[rank + 1 :] for other in below.running]
        if not lower and group.refused[0] is sequence and spare <= group.refused[1]:
            return False
        table = sequence.table
        num_found = table.adopt_prefix(sequence.token_ids())
        needed = table.blocks_to_reach(sequence.length)
        # Stopping some in vain, they would come back, and be stopped in vain again.
        if needed <= self._spare_blocks() + len(lower) + self._num_held_by(lower):
            while needed > self._spare_blocks() and lower:
                del lower[-len(self._preempt()) :]
        if needed > self._spare_blocks():
            table.free()
            group.refused = (sequence, spare)
            return False
        self.num_tokens_admitted += sequence.length
        self.num_tokens_found += num_found
        return True

    def _spare_blocks(self) -> int:
        """Free blocks, but for one to grow for each that runs.

        Prompts that are being read take nothing of what this returns: until the last of them ends,
        they use up the step's tokens, and nobody is admitted.
        """
        return self._allocator.num_free - self._num_running()

    def _num_held_by(self, sequences: list[Sequence]) -> int:
        """Blocks that nobody owns but these."""
        held = Counter(block for sequence in sequences for block in sequence.table.blocks)
        return sum(self._allocator.num_owners(block) == count for block, count in held.items())

    def _budget(self) -> int:
        """Tokens of a step: with stages an R-th, and one for a prompt beside those that decode."""
        share = -(-self._max_num_batched_tokens // self._num_stages)
        return min(self._max_num_batched_tokens, max(share, self._spare_turns + 1))

    def _num_running(self) -> int:
        return sum(len(group.running) for group in self._classes)

    def _class_of(self, sequence: Sequence) -> PriorityClass:
        return self._classes[PRIORITIES.index(sequence.request.params.priority)]


def _is_piece(work: Work) -> bool:
    return len(work.token_ids) > 1
