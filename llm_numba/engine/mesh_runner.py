"""Runs the steps of a model that several ranks hold: tells them, takes part, reads the tokens.

It stands in for :class:`~llm_numba.engine.runner.ModelRunner` on rank 0. The scheduler, the block
tables and the prefix cache are there and nowhere else: block 7 of the cache is block 7 on every
rank, each with its own layers and heads in it.

What fails before a step is told of concerns rank 0 alone, and the engine goes on. What fails later
leaves the ranks at different places of the program, from where none can be called back: the run is
over. (A row of logits that holds NaN or infinity is no failure. It is a result, and ends its own
request.)
"""

import atexit
from collections import deque
from typing import Any

import numpy as np

from llm_numba.engine.decode_graphs import Progress, RowInputs
from llm_numba.engine.leading import Leader
from llm_numba.engine.runner import SubmittedStep
from llm_numba.engine.stage import WARM_UP, Stage
from llm_numba.engine.step import Step
from llm_numba.engine.step_inputs import StepInputs, text_inputs
from llm_numba.engine.step_writer import StepWriter
from llm_numba.kvcache import BlockTable, PagedKVCache
from llm_numba.models import Decoder
from llm_numba.parallel import Mesh


class LeadingKVCache(PagedKVCache):
    """Rank 0's cache: copies of blocks are noted, and made on all ranks with the next step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._copies: list[tuple[int, int]] = []

    def new_table(self) -> BlockTable:
        """Return an empty block table for a new sequence."""
        return BlockTable(self.allocator, self.block_size, self._note_copy)

    def take_copies(self) -> np.ndarray:
        """Return the copies noted since the last call.

        Returns
        -------
        int32 [C, 2]
            From, to.
        """
        copies, self._copies = self._copies, []
        return np.array(copies, np.int32).reshape(-1, 2)

    def _note_copy(self, source: int, target: int) -> None:
        self._copies.append((source, target))


class MeshRunner:
    """A model on several ranks, as rank 0 sees it.

    Parameters
    ----------
    mesh : Mesh
    model : Decoder
        Rank 0's part.
    kv_cache : LeadingKVCache
    max_num_seqs, max_model_len : int
    enforce_eager : bool
        As of the other.

    Attributes
    ----------
    stage : Stage
        Rank 0's own part.
    num_stages : int
        R.
    depth : int
        R - 1: beside the newest step one for each other stage.
    """

    def __init__(
        self,
        mesh: Mesh,
        model: Decoder,
        kv_cache: LeadingKVCache,
        max_num_seqs: int,
        max_model_len: int,
        enforce_eager: bool,
    ) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.num_stages = mesh.num_stages
        self.depth = mesh.num_stages - 1
        self._leader = Leader(mesh.world)
        self._is_last = mesh.num_stages == 1
        self.stage = Stage(mesh, model, kv_cache, max_num_seqs, max_model_len, enforce_eager)
        self._writer = StepWriter(model, self.stage.decode)
        self._unread: deque[_Results] = deque()
        # A program that ends without a word would leave the other ranks waiting for one.
        atexit.register(self.close)

    @property
    def num_pieces(self) -> int:
        """Of how many pieces the graph of rank 0's part of a step is; 0 while there is none."""
        return 0 if self.stage.decode is None else self.stage.decode.num_pieces

    def warm_up(self, progress: Progress | None = None) -> None:
        """Capture the graphs of all batches that decode, on all ranks; see the other."""
        self._leader.check()
        with self._leader.together(WARM_UP):
            self.stage.warm_up(progress)

    def submit(self, step: Step) -> SubmittedStep:
        """Let all ranks compute a step.

        Parameters
        ----------
        step : step.Step
            With at least one work.

        Returns
        -------
        SubmittedStep

        Raises
        ------
        ParallelError
            If a rank has failed, now or before, or if the ranks were let go.
        """
        self._make_room()
        try:
            inputs = self._writer.write(step, {}, self.kv_cache.take_copies)
        except BaseException:
            self._writer.forget()
            raise
        return SubmittedStep(step.samplers, self._submit(inputs))

    def all_logits(self, token_ids: list[int], table: BlockTable) -> np.ndarray:
        """Compute new tokens of one sequence and score what follows every one of them.

        Parameters
        ----------
        token_ids : list of S int
        table : BlockTable

        Returns
        -------
        float [S, V]
        """
        start = table.num_tokens
        try:
            slots = table.append_slots(len(token_ids))
            batch = text_inputs(token_ids, start, slots, table)
            self._make_room()
            return self._submit(StepInputs(batch, None, self.kv_cache.take_copies())).wait()[0]
        except BaseException:
            table.truncate(start)
            raise

    def settle(self) -> None:
        """Read all results that are on their way.

        A rank that turns to something else, or waits for a user, must owe the others nothing: a
        message between hosts travels only while both ends look after it.
        """
        while self._unread and self._leader.is_followed:
            self._unread[0].wait()

    def close(self) -> None:
        """Let the other ranks go; nothing if they were, or if they cannot be reached any more."""
        atexit.unregister(self.close)
        self.settle()
        self._leader.let_go()
        self.stage.close()

    def _make_room(self) -> None:
        self._leader.check()
        # Whoever was to read them may have been interrupted. They come before all later ones.
        while len(self._unread) > self.depth:
            self._unread[0].wait()

    def _submit(self, inputs: StepInputs | RowInputs) -> "_Results":
        submitted = _Results(self, inputs)
        with self._leader.together(inputs):
            results = self.stage.compute(inputs)
            if self._is_last:
                submitted.arrays = results
            else:
                self._unread.append(submitted)
        return submitted

    def _read_until(self, wanted: "_Results") -> None:
        """Receive results in the order in which they are sent."""
        with self._leader.together():
            while wanted.arrays is None:
                oldest = self._unread.popleft()
                oldest.arrays = self.stage.receive_results(oldest.inputs)


class _Results:
    """What a step gives, once it is there; stands in for a :class:`~llm_numba.runtime.Download`."""

    def __init__(self, runner: MeshRunner, inputs: StepInputs | RowInputs) -> None:
        self._runner = runner
        self.inputs = inputs
        self.arrays: list[np.ndarray] | None = None

    def wait(self) -> list[np.ndarray]:
        self._runner._read_until(self)
        return self.arrays
