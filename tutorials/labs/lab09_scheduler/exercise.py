"""Lab 9: a scheduler for continuous batching.

Before each step of the engine the scheduler says whose tokens are computed. A sequence that is
known up to token n, of which c are computed (their keys and values are in the cache), has n - c
*missing* tokens: a whole prompt at first, later one, the token that was drawn last. When none is
missing any more, the engine draws the next token of the sequence.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(eq=False)
class Sequence:
    """A request as the scheduler sees it. How long its answer will be nobody knows.

    Attributes
    ----------
    number : int
        Requests are numbered in the order in which they come.
    num_tokens : int
        Of the prompt and of the answer so far.
    num_computed : int
        Of these, how many are in the cache.
    num_blocks : int
        Blocks of the cache that it holds.
    """

    number: int
    num_tokens: int
    num_computed: int = 0
    num_blocks: int = 0

    def num_missing(self):
        """Return how many tokens are known and not computed."""
        return self.num_tokens - self.num_computed


def split_budget(budget, missing):
    """Divide a step's tokens among the sequences that run.

    Requirements, in this order:

    1. Every sequence that decodes (one missing token) gets that token.
    2. What is left goes to the others, which are reading their prompts: the oldest gets as much as
       it misses, or all that is left (chunked prefill); then the next oldest.
    3. The shares add up to at most the budget.

    Parameters
    ----------
    budget : int
        At least ``len(missing)``.
    missing : list of int
        Missing tokens of each running sequence, the oldest first; none is 0.

    Returns
    -------
    list of int
        Tokens for each of them, 0 for those that have to wait.
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 9, step 1")
    # --- end ---


class Scheduler:
    """Holds the sequences that wait and those that run, and fills the steps.

    Parameters
    ----------
    max_num_seqs : int
        Sequences that run at a time.
    budget : int
        Tokens a step, at least `max_num_seqs`.
    num_blocks : int
        Blocks of the cache.
    block_size : int
        Tokens a block.

    Attributes
    ----------
    waiting : deque of Sequence
        The oldest first.
    running : list of Sequence
        The oldest first. All of them are older than those that wait.
    num_free : int
        Blocks that nobody holds.
    work : list of (Sequence, int)
        What is scheduled in the step so far: a sequence, and how many of its tokens.
    """

    def __init__(self, max_num_seqs, budget, num_blocks, block_size):
        self.max_num_seqs = max_num_seqs
        self.budget = budget
        self.num_free = num_blocks
        self.block_size = block_size
        self.waiting = deque()
        self.running = []
        self.work = []

    def add(self, number, prompt_length):
        """Let a new request wait."""
        self.waiting.append(Sequence(number, prompt_length))

    def schedule(self):
        """Choose the tokens of the next step.

        Returns
        -------
        work : list of (int, int)
            The sequence's number, and how many of its missing tokens are computed.
        stopped : list of int
            Sequences that ran and do not any more.
        """
        self.work = []
        ran = list(self.running)
        shares = split_budget(self.budget, [each.num_missing() for each in ran])
        for sequence, count in zip(ran, shares, strict=True):
            # An older one may have stopped this one a moment ago.
            if count and sequence in self.running:
                fits = self.blocks_to_grow(sequence, count) <= self.num_free
                if fits or self.make_room(sequence, count):
                    self.grow(sequence, count)
        stopped = [each.number for each in ran if each not in self.running]
        self.admit()
        return [(sequence.number, count) for sequence, count in self.work], stopped

    def complete(self, ended):
        """Take note that the step is done.

        Parameters
        ----------
        ended : list of int
            The sequences whose last token was drawn in this step.
        """
        for sequence, count in self.work:
            sequence.num_computed += count
            if sequence.num_missing() == 0:
                sequence.num_tokens += 1
            if sequence.number in ended:
                self.running.remove(sequence)
                self.release(sequence)

    def blocks_to_grow(self, sequence, count):
        """Return how many more blocks a sequence needs to compute `count` more tokens."""
        return -(-(sequence.num_computed + count) // self.block_size) - sequence.num_blocks

    def grow(self, sequence, count):
        """Schedule tokens of a sequence, and give it the blocks that they need."""
        blocks = self.blocks_to_grow(sequence, count)
        assert blocks <= self.num_free, "grow: there are not enough free blocks"
        self.num_free -= blocks
        sequence.num_blocks += blocks
        self.work.append((sequence, count))

    def release(self, sequence):
        """Take all blocks of a sequence. Nothing of it is computed any more."""
        self.num_free += sequence.num_blocks
        sequence.num_blocks = sequence.num_computed = 0

    def admit(self):
        """Let sequences that wait begin to run in this step, the oldest first.

        The oldest sequence that waits is admitted if

        - fewer than `max_num_seqs` sequences run,
        - tokens of the step's budget are left (it gets as many of them as it misses),
        - there are free blocks for *all* of its missing tokens, and beside them one for each
          sequence that runs already, to grow into.

        If it is not, nobody else is: a small request behind a large one waits.

        Use `blocks_to_grow`, and `grow` for what is scheduled.
        """
        # --- your code: step 2 ---
        raise NotImplementedError("lab 9, step 2")
        # --- end ---

    def make_room(self, sequence, count):
        """Pre-empt sequences until a running one has the blocks to compute `count` more tokens.

        Called when there are not enough free blocks. The youngest sequence that runs is pre-empted
        first: it gives back all of its blocks, and waits at the head of the queue. Its tokens will
        be computed again, answer and all (recompute). No more are pre-empted than necessary.

        Use `blocks_to_grow` and `release`. Whoever is pre-empted leaves `running`, and must be in
        `waiting`, which stays in the order of age.

        Parameters
        ----------
        sequence : Sequence
            One of those that run.
        count : int

        Returns
        -------
        bool
            False if the sequence itself was the youngest, and was pre-empted.
        """
        # --- your code: step 3 ---
        raise NotImplementedError("lab 9, step 3")
        # --- end ---
