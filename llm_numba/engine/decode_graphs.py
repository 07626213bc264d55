"""Steps in which every sequence has one token, each of them one launch.

To launch a model's kernels one by one takes the host longer than a small batch takes the GPU. So
the launches of a whole step, sampling included, are captured into a CUDA graph. A graph holds
shapes and addresses. Shapes: there is one for each *bucket* of rows and of blocks a row, and a
batch is filled up with rows of padding to the next. Addresses: inputs come in one buffer that never
moves, and so do sampled tokens, which the next step reads there.

Where ranks exchange arrays by the host, a step is several launches: see
:mod:`llm_numba.runtime.graphs`.

A bucket's first step is launched one by one, which compiles what is not compiled yet, and then
captured. All graphs share one arena: they never run at the same time.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llm_numba import ops
from llm_numba.engine.decode_rows import Bucket, DecodeRows, inputs_of
from llm_numba.engine.request import Sequence
from llm_numba.engine.step import Work
from llm_numba.engine.step_inputs import SamplingInputs
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder, ForwardBatch
from llm_numba.runtime import (
    Arena,
    Array,
    DoubleBuffer,
    Graph,
    capture,
    kind_of,
    overlapping,
    to_device,
    to_host,
    write_to,
    zeros,
)

Mode = Literal["argmax", "sample", "logits", "hidden"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RowInputs:
    """A step in which every sequence has one token: all that is to be said about it.

    Attributes
    ----------
    bucket : Bucket
    mode : {"argmax", "sample", "logits"}
        What the graph does besides running the model; of several stages, that of the last.
    words : int32 [words of the bucket]
        See :mod:`.decode_rows`.
    num_rows : int
        B, those that are no padding.
    sampling : SamplingInputs or None
        How to draw from logits; None where the graph draws.
    copies : int32 [C, 2]
        As of :class:`.StepInputs`.
    """

    bucket: Bucket
    mode: Mode
    words: np.ndarray
    num_rows: int
    sampling: SamplingInputs | None
    copies: np.ndarray


def bucket_of(rows: int, width: int, largest: Bucket) -> Bucket:
    """Return the bucket of a step.

    Parameters
    ----------
    rows, width : int
        Sequences, and blocks of the longest.
    largest : Bucket
        No bucket exceeds it.

    Returns
    -------
    Bucket
        1, 2, 4 or a multiple of 8 rows, and a power of two of blocks.
    """
    rounded = 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
    return Bucket(min(rounded, largest.rows), min(1 << (width - 1).bit_length(), largest.width))


def all_buckets(largest: Bucket) -> list[Bucket]:
    """List every bucket, the largest first.

    Parameters
    ----------
    largest : Bucket
    """
    found = {
        bucket_of(rows, width, largest)
        for rows in range(1, largest.rows + 1)
        for width in (1 << power for power in range((largest.width - 1).bit_length() + 1))
    }
    return sorted(found, reverse=True)


def usual_modes(model: Decoder) -> tuple[Mode, ...]:
    """Say what most graphs of a model end with.

    Parameters
    ----------
    model : Decoder
        Or a stage of it.
    """
    if model.lm_head is None:
        return ("hidden",)
    return ("argmax", "sample") if model.execution.fuse_sampling else ("logits",)


class DecodeGraphs:
    """Computes decoding steps of a model.

    Parameters
    ----------
    model : Decoder
        On a GPU; in the simulator `enforce_eager` must be set.
    kv_cache : PagedKVCache
    largest : Bucket
        The most sequences, and the most blocks of one.
    enforce_eager : bool
        Launch one by one, and capture nothing. The kernels are the same, so every bit is.
    persistent : bool
        Run a step of one sequence as one kernel: see :class:`PersistentDecoder`.
    received : float [largest.rows, E], optional
        Where the pipeline stage before has put the residual stream of a step's rows; None on the
        first.

    Attributes
    ----------
    sampled : int64 [largest.rows]
        The tokens of the last step, by its samplers.
    arena : Arena
        What the graphs' launches write to.
    """

    def __init__(
        self,
        model: Decoder,
        kv_cache: PagedKVCache,
        largest: Bucket,
        enforce_eager: bool,
        persistent: bool = False,
        received: Array | None = None,
    ) -> None:
        self._model, self._kv_cache, self._received = model, kv_cache, received
        self._largest, self._enforce_eager = largest, enforce_eager
        self._persistent = None
        if persistent:
            from llm_numba.engine.persistent import PersistentDecoder

            self._persistent = PersistentDecoder(model, kv_cache)
        like = model.anchor
        device = kind_of(like)
        self.sampled = zeros(largest.rows, np.int64, device)
        self.arena = Arena()
        self._inputs = zeros(largest.num_words, np.int32, device)
        self._staging = DoubleBuffer(largest.num_words, np.int32, like)
        self._query_starts = to_device(np.arange(largest.rows + 1, dtype=np.int32), device)
        self._arrived = zeros(largest.rows * model.config.num_heads, np.int32, device)
        self._rows = DecodeRows(largest, kv_cache, model.config.vocab_size)
        self._graphs: dict[tuple[Bucket, Mode], tuple[Graph, Array | None]] = {}

    @property
    def num_pieces(self) -> int:
        """Of how many pieces the graph of a step is; 0 while there is none."""
        return max((graph.num_pieces for graph, _ in self._graphs.values()), default=0)

    def lay_out(self, works: list[Work], sources: dict[Sequence, int]) -> tuple[Bucket, np.ndarray]:
        """Write down a step.

        Parameters
        ----------
        works : list of B Work
            Of one token each.
        sources : dict of Sequence to int
            In which row of `sampled` the tokens are that are in flight.

        Returns
        -------
        Bucket
        int32 [words of the bucket]
            All that the device must be told.
        """
        width = self._rows.update(works, sources)
        bucket = bucket_of(len(works), width, self._largest)
        return bucket, self._words(bucket)

    def queue(self, bucket: Bucket, mode: Mode, words: np.ndarray) -> Array | None:
        """Queue a step that was written down, here or by another rank.

        Parameters
        ----------
        bucket : Bucket
        mode : {"argmax", "sample", "logits", "hidden"}
            What writes to `sampled`; or to return logits; or the residual stream, before the last
            stage.
        words : int32 [words of the bucket]

        Returns
        -------
        float32 [rows of the bucket, V], float [rows of the bucket, E] or None
            They last until the next step is queued.
        """
        self._staging.next_buffer()[: bucket.num_words] = words
        self._staging.send(self._inputs[: bucket.num_words])
        if self._enforce_eager:
            return self._work(bucket, mode)
        if (bucket, mode) not in self._graphs:
            with self.arena.active():
                result = self._lend(self._work(bucket, mode))
            self._graphs[bucket, mode] = self._capture(bucket, mode)
            return result
        graph, result = self._graphs[bucket, mode]
        graph.launch()
        return result

    def forget(self) -> None:
        """Forget the sequences of the last step, as after a failure."""
        self._rows.clear()

    def close(self) -> None:
        """Give up the graphs: NCCL does not end as long as one of them holds its kernels."""
        self._graphs.clear()

    def warm_up(self, modes: tuple[Mode, ...], progress: Progress | None = None) -> None:
        """Capture the graphs of all buckets, on rows of padding; nothing if launches are eager.

        Parameters
        ----------
        modes : tuple of {"argmax", "sample", "logits", "hidden"}
        progress : callable(done, total), optional
            Called after each.
        """
        if self._enforce_eager:
            return
        self._rows.clear()
        in_flight = to_host(self.sampled)
        graphs = list(itertools.product(all_buckets(self._largest), modes))
        try:
            for done, (bucket, mode) in enumerate(graphs, start=1):
                self.queue(bucket, mode, self._words(bucket))
                if progress is not None:
                    progress(done, len(graphs))
        finally:
            # Padding has tokens too, and the next step of a running request begins with its own.
            write_to(self.sampled, in_flight)

    def _words(self, bucket: Bucket) -> np.ndarray:
        words = np.empty(bucket.num_words, np.int32)
        self._rows.write(inputs_of(words, bucket))
        return words

    def _work(self, bucket: Bucket, mode: Mode) -> Array | None:
        """Launch the kernels of a step; weights are constant, so they may overlap."""
        with overlapping(self._model.execution.overlap_launches):
            return self._kernels(bucket, mode)

    def _kernels(self, bucket: Bucket, mode: Mode) -> Array | None:
        inputs = inputs_of(self._inputs, bucket)
        tokens = inputs.field("token_ids")
        if self._received is None:
            tokens = ops.fill_in_tokens(tokens, inputs.field("sources"), self.sampled)
        batch = ForwardBatch(
            tokens,
            inputs.field("positions"),
            inputs.field("slots"),
            inputs.block_tables,
            self._query_starts[: bucket.rows + 1],
            inputs.field("context_lens"),
            self._arrived,
        )
        out = self.sampled[: bucket.rows]
        alone = self._persistent is not None and bucket.rows == 1
        if alone and mode == "argmax":
            self._persistent.decode(batch, out)
            return None
        if alone:
            logits = self._persistent.decode(batch)
        else:
            before = () if self._received is None else (self._received[: bucket.rows],)
            hidden = self._model.forward(batch, self._kv_cache, *before)
            if mode == "hidden":
                return hidden
            if mode == "argmax":
                self._model.argmax(hidden, out)
                return None
            logits = self._model.logits(hidden)
        if mode == "logits":
            return logits
        limits = (inputs.field(name) for name in ("temperature", "top_k", "top_p", "min_p"))
        numbers = (inputs.seeds, inputs.field("streams"), inputs.field("draws"))
        ops.sample_tokens(logits, *limits, *numbers, out=out)
        return None

    def _capture(self, bucket: Bucket, mode: Mode) -> tuple[Graph, Array | None]:
        results: list[Array | None] = []
        graph = capture(lambda: results.append(self._lend(self._work(bucket, mode))), self.arena)
        return graph, results[0]

    def _lend(self, result: Array | None) -> Array | None:
        # Not kept: logits of each bucket would be hundreds of megabytes.
        return None if result is None else self.arena.view(result)
