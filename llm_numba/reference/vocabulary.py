r"""A vocabulary spread over ranks: each has the rows of some tokens.

Rank p holds rows :math:`v_p` to :math:`v_{p+1} - 1` of the embedding table and of the LM head.

An embedding is the sum of what the ranks look up, because all but one find nothing:

.. math:: Y_n = \sum_p \begin{cases} E_{t_n} & v_p \le t_n < v_{p+1} \\ 0 & \text{else}
    \end{cases}

The largest logit is the largest of the ranks' largest. Each rank sends that and its token, two
numbers a row, and not its V/P logits.

Source: Shoeybi et al., "Megatron-LM", 2019, section 3.
"""

import numpy as np


def embedding_part(token_ids: np.ndarray, weight: np.ndarray, first: int) -> np.ndarray:
    """Look up the tokens whose rows are here; of all others nothing.

    Parameters
    ----------
    token_ids : int [N]
    weight : float [V/P, E]
    first : int
        The token of its first row.

    Returns
    -------
    float [N, E]
        Zeros for tokens of other ranks.
    """
    rows = np.asarray(token_ids) - first
    here = (rows >= 0) & (rows < len(weight))
    out = np.zeros((len(rows), weight.shape[1]), weight.dtype)
    out[here] = weight[rows[here]]
    return out


def argmax_part(logits: np.ndarray, first: int) -> np.ndarray:
    """Pick each row's largest logit among the tokens that are here, the first of equals.

    Parameters
    ----------
    logits : float [N, V/P]
    first : int
        The token of the first column; all tokens are below 2^24, which float32 counts exactly.

    Returns
    -------
    as logits [N, 2]
        The logit and its token; NaN, with any token, where one of them is NaN.
    """
    tokens = logits.argmax(axis=-1)
    best = np.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return np.stack([best, (tokens + first).astype(logits.dtype)], axis=-1)


def argmax_of_parts(parts: np.ndarray) -> np.ndarray:
    """Pick each row's largest logit among those that the ranks found, the first of equals.

    Parameters
    ----------
    parts : float [P, N, 2]
        By rank what :func:`argmax_part` returns; tokens of later ranks are larger ones.

    Returns
    -------
    int64 [N]
        -1 where the largest logit is not a finite number, or any is NaN.
    """
    logits, tokens = parts[..., 0], parts[..., 1]
    rank = logits.argmax(axis=0)[None]
    token = np.take_along_axis(tokens, rank, axis=0)[0].astype(np.int64)
    return np.where(np.isfinite(logits.max(axis=0)), token, -1)
