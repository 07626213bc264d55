"""Reading and writing a paged KV cache.

Keys (or values) of one layer live in an array ``cache [num_blocks, block_size, G, D]``. A sequence
owns a list of blocks, its *block table*; its token at position p lives in

    block table[p // block_size], row p % block_size

and the *slot* of a token is its row in the cache seen as ``[num_blocks * block_size, G, D]``.

References
----------
Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
SOSP 2023.
"""

import numpy as np


def write_kv(
    k: np.ndarray,
    v: np.ndarray,
    k_cache: np.ndarray,
    v_cache: np.ndarray,
    slot_mapping: np.ndarray,
) -> None:
    """Store new keys and values in their slots, in place.

    Parameters
    ----------
    k, v : float [N, G, D]
    k_cache, v_cache : float [num_blocks, block_size, G, D]
        Contiguous.
    slot_mapping : int [N]
        The slot of each token; no slot twice. A token whose slot is negative is skipped: so the
        padding of a batch leaves no trace.
    """
    kept = slot_mapping >= 0
    slots = slot_mapping[kept]
    k_cache.reshape(-1, *k.shape[1:])[slots] = k[kept]
    v_cache.reshape(-1, *v.shape[1:])[slots] = v[kept]


def gather_kv(cache: np.ndarray, block_tables: np.ndarray, length: int) -> np.ndarray:
    """Collect the first tokens of each sequence into one contiguous array.

    Parameters
    ----------
    cache : float [num_blocks, block_size, G, D]
    block_tables : int [B, W]
        Rows shorter than W are padded with any valid block.
    length : int
        T, at most W * block_size.

    Returns
    -------
    float [B, T, G, D]
        Rows past a sequence's own length hold whatever the padding block holds.
    """
    _, block_size, num_kv_heads, head_dim = cache.shape
    # A table is as wide as the longest sequence of its batch; only the blocks asked for are read.
    used = block_tables[:, : -(-length // block_size)]
    pages = cache.take(used, axis=0)
    rows = used.shape[1] * block_size
    return pages.reshape(len(used), rows, num_kv_heads, head_dim)[:, :length]


def copy_blocks(cache: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> None:
    """Copy whole blocks, in place: what copy-on-write needs.

    Parameters
    ----------
    cache : float [num_blocks, block_size, G, D]
    sources, targets : int [C]
        No target twice, and none that is a source.
    """
    cache[targets] = cache[sources]
