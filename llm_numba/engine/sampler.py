"""From a batch's logits to each sequence's next token.

Logits stay where the model computed them, and so do the tokens: the next step may begin with them
before the host has read any.
"""

import numpy as np

from llm_numba import ops
from llm_numba.engine.request import Sequence
from llm_numba.engine.step import IN_FLIGHT
from llm_numba.engine.step_inputs import PenaltyInputs, SamplingInputs
from llm_numba.runtime import Array, upload


def is_eager(sequence: Sequence) -> bool:
    """Whether a sequence wants more of the sampler than a graph has in it.

    Parameters
    ----------
    sequence : Sequence
    """
    params = sequence.request.params
    return params.logprobs is not None or params.penalized


def sample_tokens(
    logits: Array, asked: SamplingInputs, sampled: Array | None, out: Array | None = None
) -> Array:
    """Choose the next token of each sequence by its own parameters.

    Parameters
    ----------
    logits : float [B, V]
        Not changed.
    asked : SamplingInputs
        Of B samplers.
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
    choices = upload([*asked.limits.values(), asked.draws], like=logits)
    options = {} if out is None else {"out": out}
    if asked.penalties is not None:
        logits = _penalize(logits, asked.penalties, sampled)
    return ops.sample_tokens(logits, *choices, **options)


def _penalize(logits: Array, penalties: PenaltyInputs, sampled: Array | None) -> Array:
    """Apply penalties; those of a sequence that has none are neutral, and its past is empty."""
    in_flight = penalties.in_flight
    # What has been read is counted: there is no token besides.
    latest = np.where(in_flight < 0, logits.shape[-1], IN_FLIGHT).astype(np.int32)
    history = [penalties.tokens, penalties.counts, penalties.starts, latest, *penalties.factors]
    tokens, counts, starts, latest, *factors, rows = upload([*history, in_flight], like=logits)
    if in_flight.max() >= 0:
        latest = ops.fill_in_tokens(latest, rows, sampled)
    return ops.apply_penalties(logits, tokens, counts, starts, latest, *factors)


def find_logprobs(logits: Array, tokens: Array, count: int | None) -> list[Array]:
    """Find how likely the model found the chosen tokens and the most likely ones.

    Parameters
    ----------
    logits : float [B, V]
        As the model gave them.
    tokens : int64 [B]
        The chosen ones.
    count : int or None
        So many of the most likely ones; None if nobody asked.

    Returns
    -------
    list of Array
        Where the logits are, what :func:`report_logprobs` makes a report of; empty if nobody asked.
    """
    if count is None:
        return []
    rows = np.arange(len(tokens), dtype=np.int32)
    gaps = np.full(len(tokens), IN_FLIGHT, np.int32)
    chosen = ops.fill_in_tokens(*upload([gaps, rows], like=logits), tokens)
    return list(ops.top_logprobs(logits, chosen, count))


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
