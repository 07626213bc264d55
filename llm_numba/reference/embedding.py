r"""Embedding: row :math:`t` of a table for each token id :math:`t`.

.. math:: Y_n = E_{t_n} \qquad\text{or, with learned positions,}\qquad Y_n = E_{t_n} + P_{p_n}

A gather: it moves N rows of E numbers and computes nothing (or one addition a number).
"""

import numpy as np


def embedding(token_ids: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Look up token embeddings.

    Parameters
    ----------
    token_ids : int [N]
    weight : float [V, E]

    Returns
    -------
    float [N, E]
    """
    return weight[token_ids]


def embedding_with_positions(
    token_ids: np.ndarray,
    positions: np.ndarray,
    weight: np.ndarray,
    position_weight: np.ndarray,
) -> np.ndarray:
    """Look up token embeddings and add learned position embeddings, as GPT-2 does.

    Parameters
    ----------
    token_ids, positions : int [N]
    weight : float [V, E]
    position_weight : float [T, E]

    Returns
    -------
    float [N, E]
    """
    return weight[token_ids] + position_weight[positions]
