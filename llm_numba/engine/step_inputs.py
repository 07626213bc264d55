"""A step as plain numbers: all that computing it takes, besides the model and the KV cache.

Whoever schedules knows sequences, block tables and requests. Whoever computes needs none of them,
only what they come to: which token goes to which slot, which rows to score, how to draw. These
arrays are small and can be pickled, so they may be made in one process and computed in another.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llm_numba.engine.request import Sequence
from llm_numba.engine.step import IN_FLIGHT, Work
from llm_numba.engine.token_counts import NOTHING, join
from llm_numba.kvcache import BlockTable


@dataclass(frozen=True, slots=True)
class BatchInputs:
    """What the model reads, and which of its results count.

    Attributes
    ----------
    token_ids : int32 [N]
        :data:`~llm_numba.engine.step.IN_FLIGHT` for one that nobody has read.
    sources : int32 [N]
        Where a token is in flight, in which row the step before sampled it.
    positions, slots : int32 [N]
    block_tables : int32 [B, W]
        Rows shorter than W are padded with 0.
    query_starts : int32 [B + 1]
    context_lens : int32 [B]
    scored : int32 [M]
        Which of the N tokens are followed by one that is to be scored.
    drawn : int32 [K]
        From which of these M rows of logits each sampler draws; K >= M.
    """

    token_ids: np.ndarray
    sources: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    block_tables: np.ndarray
    query_starts: np.ndarray
    context_lens: np.ndarray
    scored: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True, slots=True)
class PenaltyInputs:
    """The pasts of K samplers and their penalties.

    Attributes
    ----------
    tokens, counts : int32 [S]
        What each has seen, one sampler after the other; see :func:`.token_counts.join`.
    starts : int32 [K + 1]
    factors : float32 [3, K]
        Of repetition, presence and frequency; neutral where a sampler has none.
    in_flight : int32 [K]
        In which row of the step before the last token is, where nobody has read it; else -1.
    """

    tokens: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    factors: np.ndarray
    in_flight: np.ndarray


@dataclass(frozen=True, slots=True)
class SamplingInputs:
    """How K samplers draw.

    Attributes
    ----------
    limits : dict of str to array [K]
        From :func:`sampling_fields`.
    draws : int32 [K]
        How many tokens of each answer were drawn before.
    penalties : PenaltyInputs or None
        None if nobody has any.
    num_logprobs : int or None
        So many of the most likely tokens are to be reported; None if nobody asked.
    """

    limits: dict[str, np.ndarray]
    draws: np.ndarray
    penalties: PenaltyInputs | None
    num_logprobs: int | None

    @property
    def wants_argmax(self) -> bool:
        """Whether the most likely tokens are all that is asked for."""
        plain = self.penalties is None and self.num_logprobs is None
        return plain and not self.limits["temperature"].any()


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A whole step: the one message that is sent about it.

    Attributes
    ----------
    batch : BatchInputs
    sampling : SamplingInputs or None
        None where the logits themselves are asked for.
    copies : int32 [C, 2]
        Blocks of the KV cache that are copied first, one after the other: from, to.
    """

    batch: BatchInputs
    sampling: SamplingInputs | None
    copies: np.ndarray


def batch_inputs(works: list[Work], sources: dict[Sequence, int]) -> BatchInputs:
    """Lay out the work of a step.

    Parameters
    ----------
    works : list of B Work
    sources : dict of Sequence to int
        In which row the step before sampled a sequence's token.

    Returns
    -------
    BatchInputs
    """
    ends = np.cumsum([len(work.token_ids) for work in works])
    sampling = [i for i, work in enumerate(works) if work.samplers]
    return _laid_out(
        [(work.token_ids, work.start, work.slots, work.sequence.table) for work in works],
        sources=[
            sources[work.sequence] if token == IN_FLIGHT else 0
            for work in works
            for token in work.token_ids
        ],
        scored=ends[sampling] - 1,
        # The samples of one prompt part here: each draws from the same row.
        drawn=[row for row, i in enumerate(sampling) for _ in works[i].samplers],
    )


def text_inputs(
    token_ids: list[int], start: int, slots: list[int], table: BlockTable
) -> BatchInputs:
    """Lay out one text of which every token is scored.

    Parameters
    ----------
    token_ids : list of N int
    start : int
        Position of the first.
    slots : list of N int
    table : BlockTable

    Returns
    -------
    BatchInputs
    """
    every = range(len(token_ids))
    return _laid_out([(token_ids, start, slots, table)], [0] * len(every), every, every)


def _laid_out(
    pieces: list[tuple[list[int], int, list[int], BlockTable]],
    sources: list[int],
    scored: Iterable[int],
    drawn: Iterable[int],
) -> BatchInputs:
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    for new_ids, start, new_slots, _ in pieces:
        token_ids += new_ids
        positions += range(start, start + len(new_ids))
        slots += new_slots
        starts.append(len(token_ids))
    width = max(len(table.blocks) for *_, table in pieces)
    block_tables = np.zeros((len(pieces), width), np.int32)
    for row, (*_, table) in zip(block_tables, pieces, strict=True):
        row[: len(table.blocks)] = table.blocks
    context_lens = [start + len(new_ids) for new_ids, start, *_ in pieces]
    lists = (token_ids, sources, positions, slots, block_tables, starts, context_lens)
    return BatchInputs(*(np.asarray(values, np.int32) for values in (*lists, scored, drawn)))


def sampling_inputs(
    works: list[Work], sources: dict[Sequence, int], vocab_size: int
) -> SamplingInputs:
    """Lay out what the samplers of a step ask for.

    Parameters
    ----------
    works : list of Work
    sources : dict of Sequence to int
        As for :func:`batch_inputs`.
    vocab_size : int

    Returns
    -------
    SamplingInputs
    """
    samplers = [sampler for work in works for sampler in work.samplers]
    draws = [
        work.start + len(work.token_ids) - len(work.sequence.request.prompt_token_ids)
        for work in works
        for _ in work.samplers
    ]
    in_flight = [
        sources[work.sequence] if work.token_ids[-1] == IN_FLIGHT else -1
        for work in works
        for _ in work.samplers
    ]
    asked = [sampler.request.params.logprobs for sampler in samplers]
    counts = [min(count, vocab_size) for count in asked if count is not None]
    return SamplingInputs(
        sampling_fields(samplers, vocab_size),
        np.array(draws, np.int32),
        _penalty_inputs(samplers, in_flight),
        max(counts, default=None),
    )


def _penalty_inputs(samplers: list[Sequence], in_flight: list[int]) -> PenaltyInputs | None:
    if all(sampler.counts is None for sampler in samplers):
        return None
    params = [sampler.request.params for sampler in samplers]
    factors = [
        [p.repetition_penalty for p in params],
        [p.presence_penalty for p in params],
        [p.frequency_penalty for p in params],
    ]
    return PenaltyInputs(
        *join([sampler.counts or NOTHING for sampler in samplers]),
        np.array(factors, np.float32),
        np.array(in_flight, np.int32),
    )


def sampling_fields(sequences: list[Sequence], vocab_size: int) -> dict[str, np.ndarray]:
    """Lay out what sequences ask of the sampler and what stays the same from token to token.

    Parameters
    ----------
    sequences : list of B Sequence
    vocab_size : int

    Returns
    -------
    dict of str to array [B]
        By the names of :func:`llm_numba.ops.sample_tokens`, in its order.
    """
    params = [sequence.request.params for sequence in sequences]
    return {
        "temperature": np.array([0.0 if p.greedy else p.temperature for p in params], np.float32),
        "top_k": np.array([min(max(p.top_k, 0), vocab_size) for p in params], np.int32),
        "top_p": np.array([p.top_p for p in params], np.float32),
        "min_p": np.array([p.min_p for p in params], np.float32),
        "seeds": np.array([sequence.request.seed for sequence in sequences], np.uint64),
        "streams": np.array([sequence.output.index for sequence in sequences], np.int32),
    }
