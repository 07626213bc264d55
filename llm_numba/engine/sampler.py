"""From a batch's logits to each sequence's next token.

Logits stay where the model computed them, and so do the tokens: the next step may begin with them
before the host has read any.
"""

import numpy as np

from llm_numba import ops
from llm_numba.engine.request import Sequence
from llm_numba.engine.step import IN_FLIGHT
from llm_numba.engine.token_counts import NOTHING, join
from llm_numba.runtime import Array, upload


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


def is_eager(sequence: Sequence) -> bool:
    """Whether a sequence wants more of the sampler than a graph has in it.

    Parameters
    ----------
    sequence : Sequence
    """
    params = sequence.request.params
    return params.logprobs is not None or params.penalized


def sample_tokens(
    logits: Array,
    sequences: list[Sequence],
    draws: list[int],
    in_flight: list[int],
    sampled: Array | None,
    out: Array | None = None,
) -> Array:
    """Choose the next token of each sequence by its own parameters.

    Parameters
    ----------
    logits : float [B, V]
        Not changed.
    sequences : list of B Sequence
    draws : list of B int
        How many tokens of each answer were drawn before.
    in_flight : list of B int
        In which row of `sampled` each one's last token is, where nobody has read it; else -1.
    sampled : int64 [at least as many rows], or None
        The tokens of the step before, where the logits are; None if there was none.
    out : int64 [B], optional
        On a device, where the tokens go; may be the beginning of `sampled`.

    Returns
    -------
    int64 [B]
        Where the logits are; :data:`~llm_numba.engine.step.NOT_FINITE` for a row that holds NaN or
        infinity.
    """
    fields = sampling_fields(sequences, logits.shape[-1])
    choices = upload([*fields.values(), np.array(draws, np.int32)], like=logits)
    options = {} if out is None else {"out": out}
    if any(sequence.counts is not None for sequence in sequences):
        logits = _penalize(logits, sequences, in_flight, sampled)
    return ops.sample_tokens(logits, *choices, **options)


def _penalize(
    logits: Array, sequences: list[Sequence], in_flight: list[int], sampled: Array | None
) -> Array:
    """Apply penalties; those of a sequence that has none are neutral, and its past is empty."""
    params = [sequence.request.params for sequence in sequences]
    rows = np.array(in_flight, np.int32)
    history = [
        *join([sequence.counts or NOTHING for sequence in sequences]),
        # What has been read is counted: there is no token besides.
        np.where(rows < 0, logits.shape[-1], IN_FLIGHT).astype(np.int32),
        np.array([p.repetition_penalty for p in params], np.float32),
        np.array([p.presence_penalty for p in params], np.float32),
        np.array([p.frequency_penalty for p in params], np.float32),
        rows,
    ]
    tokens, counts, starts, latest, *factors, rows = upload(history, like=logits)
    if max(in_flight) >= 0:
        latest = ops.fill_in_tokens(latest, rows, sampled)
    return ops.apply_penalties(logits, tokens, counts, starts, latest, *factors)


def find_logprobs(logits: Array, tokens: Array, sequences: list[Sequence]) -> list[Array]:
    """Find how likely the model found the chosen tokens and the most likely ones.

    Parameters
    ----------
    logits : float [B, V]
        As the model gave them.
    tokens : int64 [B]
        The chosen ones.
    sequences : list of B Sequence

    Returns
    -------
    list of Array
        Where the logits are, what :func:`report_logprobs` makes a report of; empty if nobody asked.
    """
    asked = [sequence.request.params.logprobs for sequence in sequences]
    counts = [min(count, logits.shape[-1]) for count in asked if count is not None]
    if not counts:
        return []
    gaps = np.full(len(sequences), IN_FLIGHT, np.int32)
    lists = upload([gaps, np.arange(len(sequences), dtype=np.int32)], like=logits)
    chosen = ops.fill_in_tokens(*lists, tokens)
    return list(ops.top_logprobs(logits, chosen, max(counts)))


def report_logprobs(
    found: list[np.ndarray], token_ids: list[int], sequences: list[Sequence]
) -> list[dict[int, tuple[float, int]] | None]:
    """Report to each sequence what it asked for.

    Parameters
    ----------
    found : list of ndarray
        From :func:`find_logprobs`, on the host.
    token_ids : list of B int
        The chosen tokens.
    sequences : list of B Sequence

    Returns
    -------
    list of B (dict of int to (float, int), or None)
        By token its log-probability and its rank, most likely first; the chosen token is among
        them. None where nobody asked.
    """
    if not found:
        return [None] * len(sequences)
    asked = [sequence.request.params.logprobs for sequence in sequences]
    rows = zip(token_ids, asked, *(array.tolist() for array in found), strict=True)
    return [None if count is None else _entries(token, count, *row) for token, count, *row in rows]


def _entries(
    chosen: int, count: int, logprob: float, rank: int, best: list[int], logprobs: list[float]
) -> dict[int, tuple[float, int]]:
    found = {
        token: (value, place)
        for place, (token, value) in enumerate(zip(best, logprobs, strict=True), start=1)
        if place <= count
    }
    found.setdefault(chosen, (logprob, rank))
    return found
