"""What a model needs to know of the sequences it works on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ForwardBatch:
    """New tokens of several sequences, one sequence after the other, without padding.

    A prompt of 7 tokens and two sequences that decode one token each are N = 9 tokens and B = 3
    sequences with ``query_starts`` = [0, 7, 8, 9].

    Attributes
    ----------
    token_ids, positions : int [N]
    slot_mapping : int [N]
        Where in the KV cache each token's key and value go.
    block_tables : int [B, W]
        Padded with block 0.
    query_starts : int [B + 1]
    context_lens : int [B]
        Tokens of each sequence, the new ones included.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    slot_mapping: np.ndarray
    block_tables: np.ndarray
    query_starts: np.ndarray
    context_lens: np.ndarray
