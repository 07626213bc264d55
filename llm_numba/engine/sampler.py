"""From a batch's logits to each sequence's next token."""

import numpy as np

from llm_numba import ops
from llm_numba.engine.outputs import Logprob
from llm_numba.engine.request import Sequence
from llm_numba.errors import EngineError
from llm_numba.models import Tokenizer


def sample_tokens(logits: np.ndarray, sequences: list[Sequence]) -> list[int]:
    """Choose the next token of each sequence by its own parameters.

    Parameters
    ----------
    logits : float [B, V]
        Not changed.
    sequences : list of B Sequence

    Returns
    -------
    list of B int

    Raises
    ------
    EngineError
        If a row holds NaN or infinity: the weights are damaged, or overflow.
    """
    if not np.isfinite(logits.max(axis=-1)).all():
        raise EngineError(
            "The model's logits are not finite numbers.",
            "Check the weights: they may be damaged, or belong to another config.json.",
        )
    logits = _penalize(logits, sequences)
    tokens = ops.argmax(logits)
    sampled = [b for b, sequence in enumerate(sequences) if not sequence.request.params.greedy]
    if sampled:
        tokens[sampled] = _draw(logits[sampled], [sequences[b] for b in sampled])
    return tokens.tolist()


def _penalize(logits: np.ndarray, sequences: list[Sequence]) -> np.ndarray:
    rows = [b for b, sequence in enumerate(sequences) if sequence.counts is not None]
    if not rows:
        return logits
    params = [sequences[b].request.params for b in rows]
    logits = logits.copy()
    logits[rows] = ops.apply_penalties(
        logits[rows],
        np.stack([sequences[b].counts for b in rows]),
        np.stack([sequences[b].in_prompt for b in rows]),
        np.array([p.repetition_penalty for p in params]),
        np.array([p.presence_penalty for p in params]),
        np.array([p.frequency_penalty for p in params]),
    )
    return logits


def _draw(logits: np.ndarray, sequences: list[Sequence]) -> np.ndarray:
    params = [sequence.request.params for sequence in sequences]
    probs = ops.sampling_probabilities(
        logits,
        np.array([p.temperature for p in params]),
        np.array([min(max(p.top_k, 0), logits.shape[-1]) for p in params]),
        np.array([p.top_p for p in params]),
        np.array([p.min_p for p in params]),
    )
    uniform = ops.philox_uniform(
        np.array([sequence.request.seed for sequence in sequences], np.uint64),
        np.array([sequence.output.index for sequence in sequences]),
        np.array([len(sequence.output.token_ids) for sequence in sequences]),
    )
    return ops.sample(probs, uniform)


def top_logprobs(
    logits: np.ndarray, token_id: int, count: int, tokenizer: Tokenizer | None
) -> dict[int, Logprob]:
    """Report how likely the model found the chosen token and the most likely ones.

    Parameters
    ----------
    logits : float [V]
        As the model gave them.
    token_id : int
        The chosen token.
    count : int
        How many of the most likely ones.
    tokenizer : Tokenizer or None

    Returns
    -------
    dict of int to Logprob
        Most likely first; the chosen token is among them.
    """
    logprobs = ops.log_softmax(logits[None])[0]
    best = np.argsort(-logprobs, kind="stable")[:count].tolist()
    ranks = {token: rank for rank, token in enumerate(best, start=1)}
    ranks.setdefault(token_id, int(np.count_nonzero(logprobs > logprobs[token_id])) + 1)
    return {
        token: Logprob(
            float(logprobs[token]),
            rank,
            tokenizer.decode([token], skip_special_tokens=False) if tokenizer else "",
        )
        for token, rank in ranks.items()
    }
