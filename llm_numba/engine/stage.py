"""One rank's part of every step, whichever stage and tensor rank it is.

The residual stream comes in from the stage before and goes out to the stage behind, to the rank
with the same tensor rank. What the last stage draws goes back to rank 0::

    rank 0 tells   | inputs of step i                                   tokens of step i
    stage 0        | embedding, layers --- hidden ---+                         ^
    stage 1        |                                 +--> layers, norm, LM head, sampler

Sends are begun and not waited for: the next step may be computed while they are under way. Two may
be, so a stage fills one buffer while the other is sent.

On a GPU a step in which every sequence has one token is a graph on each stage, between what it
receives and what it sends.
"""

from collections import deque
from collections.abc import Iterable

import numpy as np

from llm_numba.engine import faults
from llm_numba.engine.decode_graphs import DecodeGraphs, Progress, RowInputs, usual_modes
from llm_numba.engine.decode_rows import Bucket
from llm_numba.engine.executor import Executor
from llm_numba.engine.sampler import find_logprobs, sample_tokens
from llm_numba.engine.step_inputs import SamplingInputs, StepInputs
from llm_numba.engine.timeline import Noted
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder
from llm_numba.parallel import Mesh, Transfer
from llm_numba.runtime import Array, Download, empty, empty_like, kind_of
from llm_numba.runtime.moments import note_moment

WARM_UP = "warm up"  # what rank 0 tells in place of a step


class Stage:
    """A rank's layers, their KV cache, and its neighbours.

    Parameters
    ----------
    mesh : Mesh
    model : Decoder
        The rank's part of it.
    kv_cache : PagedKVCache
        Of the rank's layers and heads; with as many blocks as that of every other rank.
    max_num_seqs, max_model_len : int
        Sequences of a step, and tokens of one, at the most.
    enforce_eager : bool
        Capture no CUDA graphs.

    Attributes
    ----------
    decode : DecodeGraphs or None
        What computes steps that decode; None where there is no GPU.
    timeline : list of Noted or None
        When it computed each step, from when a list is put here.
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
        self.timeline: list[Noted] | None = None
        self._mesh, self._model, self._kv_cache = mesh, model, kv_cache
        self._executor = Executor(model, kv_cache)
        self._is_first = mesh.stage == 0
        self._is_last = mesh.stage == mesh.num_stages - 1
        self._hidden: deque[Transfer] = deque()
        self._results: deque[list[Transfer]] = deque()
        self.decode: DecodeGraphs | None = None
        self._received: Array | None = None  # by graphs, which read it where it is
        if kind_of(model.anchor) == "cuda":
            largest = Bucket(max_num_seqs, kv_cache.blocks_for(max_model_len))
            with faults.reported("the buffers of decoding"):
                if not self._is_first:
                    shape = max_num_seqs, model.config.hidden_size
                    self._received = empty(shape, kv_cache.keys.dtype, like=model.anchor)
                    self._received[...] = 0  # rows of padding are computed, too
                self.decode = DecodeGraphs(
                    model, kv_cache, largest, enforce_eager, received=self._received
                )

    def warm_up(self, progress: Progress | None = None) -> None:
        """Capture the graphs of all batches that decode.

        Parameters
        ----------
        progress : callable(done, total), optional
            Called after each graph.
        """
        if self.decode is not None:
            with faults.reported("the capture of a graph"):
                self.decode.warm_up(usual_modes(self._model), progress)

    def compute(self, inputs: StepInputs | RowInputs) -> list[np.ndarray]:
        """Take part in a step.

        Parameters
        ----------
        inputs : StepInputs or RowInputs
            The same on all ranks.

        Returns
        -------
        list of ndarray
            On rank 0 if it is the last stage, too: what :meth:`receive_results` would return.
            Empty elsewhere.
        """
        for source, target in inputs.copies.tolist():
            self._kv_cache.copy_block(source, target)
        rows = isinstance(inputs, RowInputs)
        num_tokens = inputs.num_rows if rows else len(inputs.batch.token_ids)
        hidden = None if self._is_first else self._receive_hidden(num_tokens, rows)
        if self.timeline is None:
            return self._compute(inputs, hidden)
        device, step = kind_of(self._kv_cache.keys), len(self.timeline)
        begin = note_moment(device)
        results = self._compute(inputs, hidden)
        noted = Noted(self._mesh.stage, step, num_tokens, begin, note_moment(device))
        self.timeline.append(noted)
        return results

    def _compute(self, inputs: StepInputs | RowInputs, hidden: Array | None) -> list[np.ndarray]:
        if isinstance(inputs, RowInputs):
            results = self._replay(inputs)
        else:
            results = self._launch(inputs, hidden)
        if self._is_first or not results:
            return results
        # Rank 0 has read all but those of the last R steps when it tells of a step.
        if len(self._results) > self._mesh.num_stages:
            _finish(self._results.popleft())
        self._results.append([self._mesh.pipeline.start_send(array, 0) for array in results])
        return []

    def _launch(self, inputs: StepInputs, hidden: Array | None) -> list[np.ndarray]:
        hidden = self._executor.forward(inputs.batch, hidden=hidden)
        if not self._is_last:
            self._send_hidden(hidden)
            return []
        return self._results_of(inputs, hidden) if len(inputs.batch.drawn) else []

    def _replay(self, inputs: RowInputs) -> list[np.ndarray]:
        """Take part in a step that decodes: one graph, or as many as its sums make of it."""
        mode = inputs.mode if self._is_last else "hidden"
        result = self.decode.queue(inputs.bucket, mode, inputs.words)
        if not self._is_last:
            # The next step's graph writes where this one did, and the send may not have ended.
            hidden = empty_like(result[: inputs.num_rows])
            hidden[...] = result[: inputs.num_rows]
            self._send_hidden(hidden)
            return []
        if self._mesh.tensor.rank != 0:
            return []
        if mode == "logits":
            return _drawn(result[: inputs.num_rows], inputs.sampling)
        return Download([self.decode.sampled[: inputs.num_rows]]).wait()

    def receive_results(self, inputs: StepInputs | RowInputs) -> list[np.ndarray]:
        """Wait, on rank 0, for what a step gives, where another rank is the last stage.

        Parameters
        ----------
        inputs : StepInputs or RowInputs
            Of the oldest step whose results were not received.

        Returns
        -------
        list of ndarray
            The K tokens, int64, and what :func:`.sampler.find_logprobs` finds; or K rows of logits;
            or nothing if nobody draws.
        """
        last = self._mesh.num_stages - 1
        shapes = result_shapes(inputs, self._model.config.vocab_size, self._model.logits_dtype)
        return [
            self._mesh.pipeline.receive(np.empty(shape, dtype), last) for shape, dtype in shapes
        ]

    def follow(self) -> None:
        """Take part in the steps that rank 0 tells of, until it tells of no more."""
        while (told := self._mesh.world.tell(None, patient=True)) is not None:
            if told == WARM_UP:
                self.warm_up()
            else:
                self.compute(told)
        _finish(self._hidden)
        for transfers in self._results:
            _finish(transfers)
        self.close()

    def close(self) -> None:
        """Give up what the device keeps for steps to come."""
        if self.decode is not None:
            self.decode.close()

    def _results_of(self, inputs: StepInputs, hidden: Array) -> list[np.ndarray]:
        """Score and draw; nothing on tensor ranks but the first, which take part in the scores."""
        asked, batch = inputs.sampling, inputs.batch
        is_told = self._mesh.tensor.rank == 0
        if asked is not None and asked.wants_argmax:
            # No rank needs more than the best of the others' parts of the vocabulary.
            tokens = self._executor.argmax(batch, hidden)
            return Download([tokens]).wait() if is_told else []
        logits = self._executor.logits(batch, hidden)
        if not is_told:
            return []
        if asked is None:
            return Download([logits]).wait()
        return _drawn(logits, asked)

    def _send_hidden(self, hidden: Array) -> None:
        if len(self._hidden) == 2:
            self._hidden.popleft().wait()
        self._hidden.append(self._mesh.pipeline.start_send(hidden, self._mesh.stage + 1))

    def _receive_hidden(self, num_tokens: int, rows: bool) -> Array:
        if rows:
            out = self._received[:num_tokens]
        else:
            keys = self._kv_cache.keys
            out = empty((num_tokens, self._model.config.hidden_size), keys.dtype, like=keys)
        return self._mesh.pipeline.receive(out, self._mesh.stage - 1)


def _drawn(logits: Array, asked: SamplingInputs) -> list[np.ndarray]:
    tokens = sample_tokens(logits, asked, sampled=None)
    return Download([tokens, *find_logprobs(logits, tokens, asked.num_logprobs)]).wait()


def result_shapes(
    inputs: StepInputs | RowInputs, vocab_size: int, logits_dtype: str
) -> list[tuple[tuple[int, ...], str]]:
    """Say what a step's results look like, so that they need not be announced.

    Parameters
    ----------
    inputs : StepInputs or RowInputs
    vocab_size : int
    logits_dtype : str

    Returns
    -------
    list of (shape, dtype)
    """
    asked = inputs.sampling
    if isinstance(inputs, RowInputs):
        rows = inputs.num_rows
        if asked is None:
            return [((rows,), "int64")]
    else:
        rows = len(inputs.batch.drawn)
        if not rows:
            return []
        if asked is None:
            return [((rows, vocab_size), logits_dtype)]
    shapes = [((rows,), "int64")]
    if (count := asked.num_logprobs) is not None:
        shapes += [((rows,), logits_dtype), ((rows,), "int64")]
        shapes += [((rows, count), "int64"), ((rows, count), logits_dtype)]
    return shapes


def _finish(transfers: Iterable[Transfer]) -> None:
    for transfer in transfers:
        transfer.wait()
