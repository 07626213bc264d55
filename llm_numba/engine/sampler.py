"""From a batch's logits to each sequence's next token.

Logits stay where the model computed them. What each sequence asks for goes there, in one copy; a
token id a sequence comes back.
"""

import numpy as np

from llm_numba import ops
from llm_numba.engine.request import Sequence
from llm_numba.runtime import Array, to_host, upload


def sample_tokens(logits: Array, sequences: list[Sequence]) -> list[int]:
    """Choose the next token of each sequence by its own parameters.

    Parameters
    ----------
    logits : float [B, V]
        Not changed.
    sequences : list of B Sequence

    Returns
    -------
    list of B int
        :data:`~llm_numba.engine.step.NOT_FINITE` for a row that holds NaN or infinity.
    """
    params = [sequence.request.params for sequence in sequences]
    vocab_size = logits.shape[-1]
    choices = [
        np.array([0.0 if p.greedy else p.temperature for p in params], np.float32),
        np.array([min(max(p.top_k, 0), vocab_size) for p in params], np.int32),
        np.array([p.top_p for p in params], np.float32),
        np.array([p.min_p for p in params], np.float32),
        np.array([sequence.request.seed for sequence in sequences], np.uint64),
        np.array([sequence.output.index for sequence in sequences], np.int32),
        np.array([sequence.num_sampled for sequence in sequences], np.int32),
    ]
    logits = _penalize(logits, sequences)
    return to_host(ops.sample_tokens(logits, *upload(choices, like=logits))).tolist()


def _penalize(logits: Array, sequences: list[Sequence]) -> Array:
    if all(sequence.counts is None for sequence in sequences):
        return logits
    params = [sequence.request.params for sequence in sequences]
    # A sequence without penalties has neutral ones: dividing by 1 and taking off 0 change no bit.
    nothing = np.zeros(logits.shape[-1], np.int32)
    nowhere = nothing.astype(bool)
    history = [
        np.stack([nothing if s.counts is None else s.counts for s in sequences]),
        np.stack([nowhere if s.in_prompt is None else s.in_prompt for s in sequences]),
        np.array([p.repetition_penalty for p in params], np.float32),
        np.array([p.presence_penalty for p in params], np.float32),
        np.array([p.frequency_penalty for p in params], np.float32),
    ]
    return ops.apply_penalties(logits, *upload(history, like=logits))


def report_logprobs(
    logits: Array, token_ids: list[int], sequences: list[Sequence]
) -> list[dict[int, tuple[float, int]] | None]:
    """Report how likely the model found the chosen tokens and the most likely ones.

    Parameters
    ----------
    logits : float [B, V]
        As the model gave them.
    token_ids : list of B int
        The chosen tokens.
    sequences : list of B Sequence

    Returns
    -------
    list of B (dict of int to (float, int), or None)
        By token its log-probability and its rank, most likely first; the chosen token is among
        them. None where nobody asked.
    """
    asked = [sequence.request.params.logprobs for sequence in sequences]
    counts = [min(count, logits.shape[-1]) for count in asked if count is not None]
    if not counts:
        return [None] * len(sequences)
    # A row without a token has no probabilities either: any token will do.
    (chosen,) = upload([np.maximum(token_ids, 0).astype(np.int32)], like=logits)
    found = ops.top_logprobs(logits, chosen, max(counts))
    rows = zip(token_ids, asked, *(to_host(array).tolist() for array in found), strict=True)
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
