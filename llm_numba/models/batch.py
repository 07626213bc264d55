"""What a model needs to know of the sequences it works on."""

from dataclasses import dataclass

from llm_numba.runtime import Array


@dataclass(frozen=True)
class ForwardBatch:
    """New tokens of several sequences, one sequence after the other, without padding.

    A prompt of 7 tokens and two sequences that decode one token each are N = 9 tokens and B = 3
    sequences with ``query_starts`` = [0, 7, 8, 9].

    The arrays lie where the model's weights are; kernels take them as int32.

    Attributes
    ----------
    token_ids, positions : int [N]
    slot_mapping : int [N]
        Where in the KV cache each token's key and value go.
    block_tables : int [B, W]
        Rows shorter than W are padded with any block: nobody reads there.
    query_starts : int [B + 1]
    context_lens : int [B]
        Tokens of each sequence, the new ones included.
    arrived : int [n], optional
        Counters, at least B * H, all zero before and after each operation: with them decoding on a
        GPU takes fewer launches.
    """

    token_ids: Array
    positions: Array
    slot_mapping: Array
    block_tables: Array
    query_starts: Array
    context_lens: Array
    arrived: Array | None = None
