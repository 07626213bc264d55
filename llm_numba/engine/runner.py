"""Runs the model over a step's work: builds the batch, computes it, chooses the next tokens.

On a GPU a step is queued, not waited for: the host prepares the next one meanwhile. The tokens that
the next one begins with stay on the device, in the rows where the step before sampled them.
"""

import numpy as np

from llm_numba.engine import faults
from llm_numba.engine.decode_graphs import DecodeGraphs, Progress, RowInputs, usual_modes
from llm_numba.engine.decode_rows import Bucket
from llm_numba.engine.executor import Executor
from llm_numba.engine.prompt_kernels import PromptKernels, row_counts
from llm_numba.engine.request import Sequence
from llm_numba.engine.sampler import find_logprobs, report_logprobs, sample_tokens
from llm_numba.engine.step import Sampled, Step
from llm_numba.engine.step_inputs import StepInputs, text_inputs
from llm_numba.engine.step_writer import StepWriter
from llm_numba.errors import EngineError
from llm_numba.kvcache import BlockTable, PagedKVCache
from llm_numba.models import Decoder
from llm_numba.runtime import Array, Download, kind_of, to_host


class ModelRunner:
    """A model with its KV cache.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
        On the model's device.
    max_num_seqs : int
        Sequences of a step at the most.
    max_model_len : int
        Tokens of a sequence at the most.
    enforce_eager : bool
        Capture no CUDA graphs: kernels are launched one by one, as a debugger wants them.
    persistent : bool
        Decode one sequence by one kernel for the whole step; on a GPU only.
    max_num_batched_tokens : int
        Tokens of a step at the most, as far as :meth:`warm_up` compiles for them; by default not.

    Attributes
    ----------
    depth : int
        Steps that may be submitted before the oldest of them is waited for, beside the newest.
        With 0 a step is complete when :meth:`submit` returns.
    num_stages : int
        1: a sequence may be in a step before its token of the last one is read.
    stage : None
        There is no other rank.
    """

    num_stages = 1
    stage = None

    def __init__(
        self,
        model: Decoder,
        kv_cache: PagedKVCache,
        max_num_seqs: int,
        max_model_len: int,
        enforce_eager: bool = False,
        persistent: bool = False,
        max_num_batched_tokens: int = 0,
    ) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self._limits = max_num_seqs, max_model_len
        # As many as memory was planned for.
        most = min(max_num_batched_tokens, max_num_seqs * max_model_len)
        self._row_counts = row_counts(most)
        self.depth = 0
        self._executor = Executor(model, kv_cache)
        self._decode: DecodeGraphs | None = None
        self._samplers: list[Sequence] = []  # of the last step
        self._sources: dict[Sequence, int] = {}  # where it put their tokens
        self._sampled: Array = None
        device = kind_of(model.lm_head)
        if persistent and device != "cuda":
            raise EngineError(
                "The persistent runner keeps a GPU's multiprocessors busy, and there is none.",
                "Leave persistent=True (--persistent) away, or choose device='cuda'.",
            )
        if device == "cuda":
            self.depth = 1
            largest = Bucket(max_num_seqs, kv_cache.blocks_for(max_model_len))
            with faults.reported("the buffers of decoding"):
                self._decode = DecodeGraphs(model, kv_cache, largest, enforce_eager, persistent)
        self._writer = StepWriter(model, self._decode)

    @property
    def num_pieces(self) -> int:
        """Of how many pieces the graph of a step that decodes is; 0 while there is none."""
        return 0 if self._decode is None else self._decode.num_pieces

    def warm_up(self, progress: Progress | None = None) -> None:
        """Compile what prompts need, and capture the graphs of all batches that decode.

        Without it a request waits for each kernel and each graph that is first needed; in any case
        for graphs of batches with penalties or log-probabilities. Without a GPU nothing happens.

        Parameters
        ----------
        progress : callable(done, total), optional
            Called after each number of tokens that was compiled for, and then after each graph.
        """
        self.compile_prompts(progress)
        if self._decode is not None:
            with faults.reported("the capture of a graph"):
                self._decode.warm_up(usual_modes(self.model), progress)

    def compile_prompts(self, progress: Progress | None = None) -> None:
        """Compile, or find in the cache, all kernels that prompts of whatever length need.

        Without a GPU nothing happens.

        Parameters
        ----------
        progress : callable(done, total), optional
            Called after each number of tokens that other kernels may be for.
        """
        if self._decode is None:
            return
        kernels = PromptKernels(self.model, self.kv_cache, *self._limits)
        with faults.reported("the kernels of prompts"):
            for done, num_tokens in enumerate(self._row_counts, start=1):
                kernels.compile(num_tokens)
                if progress is not None:
                    progress(done, len(self._row_counts))

    def submit(self, step: Step) -> "SubmittedStep":
        """Compute a step and choose the tokens that follow, or queue that on a GPU.

        Parameters
        ----------
        step : step.Step
            With at least one work.

        Returns
        -------
        SubmittedStep

        Raises
        ------
        EngineError
            If the GPU fails.
        """
        samplers = step.samplers
        try:
            with faults.reported("a step"):
                inputs = self._writer.write(step, self._sources, self._copies)
                download = Download(self._compute(inputs))
        except BaseException:
            self._note([])
            self._writer.forget()
            raise
        self._note(samplers)
        return SubmittedStep(samplers, download)

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
            with faults.reported("a prompt's logits"):
                (logits,) = self._compute(StepInputs(batch, None, self._copies()))
                return to_host(logits)
        except BaseException:
            # Also for Ctrl-C: a table must never claim a token whose key was not written.
            table.truncate(start)
            raise

    def settle(self) -> None:
        """Do nothing: no other rank waits for an end of what is on its way."""

    def close(self) -> None:
        """Give up what the device keeps for steps to come; the next makes it anew."""
        if self._decode is not None:
            self._decode.close()

    def _note(self, samplers: list[Sequence]) -> None:
        if samplers != self._samplers:
            self._samplers = samplers
            self._sources = {sequence: row for row, sequence in enumerate(samplers)}

    def _before(self) -> Array | None:
        """Return the tokens of the step before; on a GPU they are always in one place."""
        return self._sampled if self._decode is None else self._decode.sampled

    def _copies(self) -> np.ndarray:
        """Return what blocks are copied before the next step; here that was done at once."""
        return np.empty((0, 2), np.int32)

    def _compute(self, inputs: StepInputs | RowInputs) -> list[Array]:
        """Return the sampled tokens, and what there is to report on them; or logits."""
        for source, target in inputs.copies.tolist():
            self.kv_cache.copy_block(source, target)
        asked = inputs.sampling
        if isinstance(inputs, RowInputs):
            logits = self._decode.queue(inputs.bucket, inputs.mode, inputs.words)
            if inputs.mode != "logits":
                return [self._decode.sampled[: inputs.num_rows]]
            logits = logits[: inputs.num_rows]
        else:
            hidden = self._executor.forward(inputs.batch, self._before())
            if not len(inputs.batch.drawn):
                return []
            if asked is not None and asked.wants_argmax:
                # As graphs do: without a sampler's launches, and without gathering a vocabulary
                # that ranks share.
                out = self._place(len(inputs.batch.drawn))
                self._sampled = self._executor.argmax(inputs.batch, hidden, out)
                return [self._sampled]
            logits = self._executor.logits(inputs.batch, hidden)
            if asked is None:
                return [logits]
        self._sampled = sample_tokens(logits, asked, self._before(), self._place(len(logits)))
        return [self._sampled, *find_logprobs(logits, self._sampled, asked.num_logprobs)]

    def _place(self, num_tokens: int) -> Array | None:
        """Return where on a GPU a step leaves its tokens; elsewhere each has its own array."""
        return None if self._decode is None else self._decode.sampled[:num_tokens]


class SubmittedStep:
    """A step that is computed, or will be.

    Parameters
    ----------
    samplers : list of Sequence
    download : Download
        Of their tokens, and of what there is to report on them.
    """

    def __init__(self, samplers: list[Sequence], download: Download) -> None:
        self._samplers = samplers
        self._download = download

    def wait(self) -> list[Sampled]:
        """Wait until the step is computed, and not for later ones; return its tokens.

        Returns
        -------
        list of Sampled
            In the order of the step's samplers.

        Raises
        ------
        EngineError
            If the GPU failed.
        """
        with faults.reported("a step"):
            copies = self._download.wait()
        if not copies:
            return []
        token_ids = copies[0].tolist()
        reports = report_logprobs(copies[1:], token_ids, self._samplers)
        return list(map(Sampled, self._samplers, token_ids, reports))
