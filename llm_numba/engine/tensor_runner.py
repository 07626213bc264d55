"""Steps of a model whose layers are all on every rank, a part of each: on GPUs.

Between ranks that share every layer there is no stage to wait for. So they do what a single GPU
does: steps are queued one ahead, tokens stay where they were drawn, and steps that decode are one
launch each. Every rank is a :class:`~llm_numba.engine.runner.ModelRunner`, and a step is what one
tells itself: a few numbers. Rank 0 tells them all ranks::

    rank 0    schedules | tells | queues | schedules the next ... | reads the tokens
    rank 1              | hears | queues |
    GPU 0, 1                      | step, with its sums over both .... |

All ranks draw, from the same logits and the same random numbers, and each has the tokens with which
its next step begins. Rank 0 alone reads them.
"""

import atexit

import numpy as np

from llm_numba.engine.decode_graphs import Progress, RowInputs
from llm_numba.engine.leading import Leader
from llm_numba.engine.runner import ModelRunner, SubmittedStep
from llm_numba.engine.stage import WARM_UP
from llm_numba.engine.step import Step
from llm_numba.engine.step_inputs import StepInputs
from llm_numba.kvcache import BlockTable, PagedKVCache
from llm_numba.models import Decoder
from llm_numba.parallel import Mesh
from llm_numba.runtime import Array


class TensorRunner(ModelRunner):
    """One rank's part of every step; on rank 0 what submits them, elsewhere what follows.

    Parameters
    ----------
    mesh : Mesh
        Of one stage.
    model : Decoder
        The rank's part.
    kv_cache : LeadingKVCache or PagedKVCache
        The former on rank 0.
    max_num_seqs, max_model_len : int
    enforce_eager : bool
        As of the other.
    """

    def __init__(
        self,
        mesh: Mesh,
        model: Decoder,
        kv_cache: PagedKVCache,
        max_num_seqs: int,
        max_model_len: int,
        enforce_eager: bool,
    ) -> None:
        super().__init__(model, kv_cache, max_num_seqs, max_model_len, enforce_eager)
        self._world = mesh.world
        self._leader = Leader(mesh.world) if mesh.is_leader else None
        if self._leader:
            # A program that ends without a word would leave the other ranks waiting for one.
            atexit.register(self.close)

    def warm_up(self, progress: Progress | None = None) -> None:
        """Capture the graphs of all batches that decode, on all ranks; see the other."""
        self._leader.check()
        with self._leader.together(WARM_UP):
            super().warm_up(progress)

    def submit(self, step: Step) -> SubmittedStep:
        """Queue a step on all ranks, see :meth:`ModelRunner.submit`."""
        self._leader.check()
        return super().submit(step)

    def all_logits(self, token_ids: list[int], table: BlockTable) -> np.ndarray:
        """Score every token of a sequence on all ranks, see :meth:`ModelRunner.all_logits`."""
        self._leader.check()
        return super().all_logits(token_ids, table)

    def close(self) -> None:
        """Let the other ranks go; nothing if they were, or if they cannot be reached any more."""
        atexit.unregister(self.close)
        self._leader.let_go()
        super().close()

    def follow(self) -> None:
        """Take part in the steps that rank 0 tells of, until it tells of no more."""
        while (told := self._world.tell(None, patient=True)) is not None:
            if told == WARM_UP:
                super().warm_up()
            else:
                super()._compute(told)
        super().close()

    def _copies(self) -> np.ndarray:
        return self.kv_cache.take_copies()

    def _compute(self, inputs: StepInputs | RowInputs) -> list[Array]:
        with self._leader.together(inputs):
            results = super()._compute(inputs)
            # What comes next may be to wait for a GPU, which may wait for those that hear of it.
            self._world.finish_telling()
            return results
