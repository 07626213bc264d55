r"""From logits to the next token.

penalties -> temperature -> min-p -> top-k -> top-p -> one random number

Everything is per row: a row's token depends on its own logits, seed, stream and position, never on
what else is in the batch. The random number comes from a *counter-based* generator, a hash of
(seed; position, stream), so there is no state to keep and any token can be drawn again.

References
----------
Keskar et al., "CTRL", 2019 (repetition penalty); Holtzman et al., "The Curious Case of Neural Text
Degeneration", 2020 (top-p); Nguyen et al., "Min P Sampling", 2024; Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011 (Philox).
"""

import numpy as np

from llm_numba.reference.softmax import log_softmax, softmax

_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK32 = 0xFFFFFFFF

# Below this temperature only the most likely tokens are left, and logits divided by it overflow.
_COLDEST = 1e-30

# Below this temperature a token is not drawn: the most likely one is taken.
GREEDY_BELOW = 1e-5


def argmax(logits: np.ndarray) -> np.ndarray:
    """Pick each row's largest logit, the first of equals.

    Parameters
    ----------
    logits : float [B, V]

    Returns
    -------
    int64 [B]
        -1 where the largest logit is not a finite number, or any is NaN.
    """
    return np.where(np.isfinite(logits.max(axis=-1)), logits.argmax(axis=-1), -1)


def apply_penalties(
    logits: np.ndarray,
    tokens: np.ndarray,
    counts: np.ndarray,
    starts: np.ndarray,
    latest: np.ndarray,
    repetition: np.ndarray,
    presence: np.ndarray,
    frequency: np.ndarray,
) -> np.ndarray:
    """Make tokens that were seen before less likely.

    Parameters
    ----------
    logits : float [B, V]
    tokens : int [S]
        Those seen by each row, one row after the other; none twice in a row.
    counts : int [S]
        How often each was generated; 0 if it is in the prompt only, where the repetition penalty
        alone looks at it.
    starts : int [B + 1]
        Row b has seen ``tokens[starts[b]:starts[b + 1]]``.
    latest : int [B]
        A token that was generated since, and is in no count yet; outside of 0 to V - 1 for none.
    repetition : float [B]
        Positive logits of seen tokens are divided by it, negative ones multiplied.
    presence : float [B]
        Subtracted once from generated tokens.
    frequency : float [B]
        Subtracted from generated tokens once for each time.

    Returns
    -------
    float [B, V]
    """
    result = logits.copy()
    for b, (row, new) in enumerate(zip(logits, latest, strict=True)):
        past = slice(starts[b], starts[b + 1])
        seen, count = tokens[past], counts[past] + (tokens[past] == new)
        if 0 <= new < len(row) and new not in seen:
            seen, count = np.append(seen, new), np.append(count, 1)
        factor = repetition[b].astype(row.dtype)
        value = np.where(row[seen] > 0, row[seen] / factor, row[seen] * factor)
        penalty = presence[b] * (count > 0) + frequency[b] * count
        result[b, seen] = value - penalty.astype(row.dtype)
    return result


def sampling_probabilities(
    logits: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    min_p: np.ndarray,
) -> np.ndarray:
    """Compute the distribution that the next token is drawn from.

    Parameters
    ----------
    logits : float [B, V]
    temperature : float [B]
        Above 0.
    top_k : int [B]
        Keep the k most likely tokens; 0 keeps all.
    top_p : float [B]
        Keep the fewest most likely tokens whose probabilities reach this sum; 1 keeps all.
    min_p : float [B]
        Keep tokens at least this many times as likely as the most likely one; 0 keeps all.

    Returns
    -------
    float [B, V]
        Sums to 1 in each row. Tokens exactly as likely as the last one kept are kept too, so the
        result does not depend on the order of a sort.
    """
    temperature = np.maximum(temperature, _COLDEST).astype(logits.dtype)
    probs = softmax(logits / temperature[:, None])
    probs[probs < min_p[:, None] * probs.max(axis=-1, keepdims=True)] = 0.0
    limited = np.flatnonzero((top_k > 0) | (top_p < 1.0))
    for b in limited:
        probs[b, probs[b] < _least_kept(probs[b], int(top_k[b]), float(top_p[b]))] = 0.0
    return probs / probs.sum(axis=-1, keepdims=True)


def _least_kept(probs: np.ndarray, top_k: int, top_p: float) -> float:
    """Return the smallest probability that top-k, then top-p, let pass in one row [V]."""
    descending = np.sort(probs)[::-1]
    if top_k > 0:
        descending = descending[:top_k]
    if top_p < 1.0:
        # A token stays while the mass *before* it is still short of top_p; the first always does.
        mass = np.cumsum(descending, dtype=np.float64)
        mass_before = mass - descending
        descending = descending[: max(1, np.count_nonzero(mass_before < top_p * mass[-1]))]
    return descending[-1]


def sample(probs: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draw one token a row by inverting the cumulative distribution, in order of token id.

    Parameters
    ----------
    probs : float [B, V]
    uniform : float [B]
        In [0, 1).

    Returns
    -------
    int64 [B]
        Never a token of probability 0.
    """
    cumulative = np.cumsum(probs, axis=-1, dtype=np.float64)
    target = uniform[:, None] * cumulative[:, -1:]
    return np.argmax(cumulative > target, axis=-1)


def sample_tokens(
    logits: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    min_p: np.ndarray,
    seeds: np.ndarray,
    streams: np.ndarray,
    positions: np.ndarray,
) -> np.ndarray:
    """Choose the next token of each row, by its own parameters.

    Parameters
    ----------
    logits : float [B, V]
        After penalties.
    temperature : float [B]
        Below 1e-5 the most likely token is taken, the first of equals.
    top_k, top_p, min_p : int, float and float [B]
        As of :func:`sampling_probabilities`; a `top_k` below 0 keeps all, too.
    seeds, streams, positions : uint64, int and int [B]
        As of :func:`philox_uniform`.

    Returns
    -------
    int64 [B]
        -1 where the largest logit is not a finite number, or any is NaN.
    """
    tokens = argmax(logits)
    drawn = np.flatnonzero((tokens >= 0) & (temperature >= GREEDY_BELOW))
    if drawn.size:
        limits = (top_k[drawn], top_p[drawn], min_p[drawn])
        probs = sampling_probabilities(logits[drawn], temperature[drawn], *limits)
        tokens[drawn] = sample(
            probs, philox_uniform(seeds[drawn], streams[drawn], positions[drawn])
        )
    return tokens


def top_logprobs(
    logits: np.ndarray, token_ids: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Report how likely one token of each row is, and which ones are the most likely.

    Parameters
    ----------
    logits : float [B, V]
    token_ids : int [B]
    count : int
        How many of the most likely ones, at most V.

    Returns
    -------
    logprob : float [B]
        Of the row's token: the logarithm of its probability.
    rank : int64 [B]
        One more than there are more likely tokens.
    ids : int64 [B, count]
        The most likely tokens, the first of equals first.
    logprobs : float [B, count]
        Theirs.
    """
    logprobs = log_softmax(logits)
    own = np.take_along_axis(logprobs, token_ids[:, None].astype(np.int64), axis=-1)
    rank = 1 + np.count_nonzero(logprobs > own, axis=-1)
    ids = np.argsort(-logprobs, axis=-1, kind="stable")[:, :count]
    return own[:, 0], rank, ids, np.take_along_axis(logprobs, ids, axis=-1)


def philox_uniform(seeds: np.ndarray, streams: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Hash (seed; position, stream) to a uniform random number, Philox4x32-10.

    Parameters
    ----------
    seeds : uint64 [B]
        The key: a request's seed.
    streams : int [B]
        Which of a request's n samples.
    positions : int [B]
        Which token of it.

    Returns
    -------
    float64 [B]
        In [0, 1), of 24 random bits, so float32 holds it exactly.
    """
    words = [
        philox4x32((int(position), int(stream), 0, 0), int(seed))[0]
        for seed, stream, position in zip(seeds, streams, positions, strict=True)
    ]
    return np.array([(word >> 8) * 2.0**-24 for word in words])


def philox4x32(counter: tuple[int, int, int, int], seed: int) -> tuple[int, int, int, int]:
    """Run the ten rounds of Philox4x32.

    Parameters
    ----------
    counter : four 32-bit integers
    seed : 64-bit integer
        The key, low word first.

    Returns
    -------
    four 32-bit integers
        Uniformly random bits, a bijection of the counter.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK32, seed >> 32 & _MASK32
    for _ in range(10):
        product0, product1 = _PHILOX_MULTIPLIERS[0] * c0, _PHILOX_MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            product1 >> 32 ^ c1 ^ k0,
            product1 & _MASK32,
            product0 >> 32 ^ c3 ^ k1,
            product0 & _MASK32,
        )
        k0, k1 = k0 + _PHILOX_WEYL[0] & _MASK32, k1 + _PHILOX_WEYL[1] & _MASK32
    return c0, c1, c2, c3
