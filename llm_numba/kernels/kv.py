"""Reading and writing a paged KV cache, on a device.

A cache [num_blocks, block_size, G, D] is, to these kernels, a table of *rows*: a row is a token's
keys (or values) of all heads, G D numbers side by side, and its number is the token's *slot*. All
three operations move whole rows from one table to another, and differ in who says which:

=================  ==============================================  =============================
operation          row of the source                               row of the target
=================  ==============================================  =============================
``write_kv``       n, of the new tokens                            ``slot_mapping[n]``
``gather_kv``      block ``block_tables[b, t // block_size]``,     b T + t, of the output
                   row ``t % block_size``
``copy_blocks``    each of block ``sources[c]``                    the same of ``targets[c]``
=================  ==============================================  =============================

::

    threads (x, y)     (0, 0)   (1, 0)   (2, 0) ...     row 4 i + 0, a packet of 16 bytes a thread
                       (0, 1)   (1, 1)   (2, 1) ...     row 4 i + 1
                       ...

No arithmetic: bits move as they are, so rows are seen as int32 where they are made of whole packets
that lie on 16-byte boundaries, and as elements where not. Each number is read once and written
once. Memory is the ceiling; for the few rows of a decoding step it is the launch.

References
----------
Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
SOSP 2023.
"""

import math
from typing import Any

import numpy as np
from numba import cuda

from llm_numba.kernels import checks, ptx
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype

_THREADS = 256
_WARP = 32
_PACKET_BYTES = 16


@cuda.jit(device=True)
def _move_packets(source, source_row, target, target_row):
    """Copy a row of int32, 16 bytes a thread and turn."""
    width, length = ptx.items16(source), source.shape[1]
    for column in range(cuda.threadIdx.x * width, length, cuda.blockDim.x * width):
        packet = ptx.load16(source, source_row * length + column)
        ptx.store16(target, target_row * length + column, packet)


@cuda.jit(device=True)
def _move_elements(source, source_row, target, target_row):
    """Copy a row of any length that begins anywhere."""
    for column in range(cuda.threadIdx.x, source.shape[1], cuda.blockDim.x):
        target[target_row, column] = source[source_row, column]


def _write_rows(move):
    @cuda.jit
    def write_rows(k, v, k_cache, v_cache, slot_mapping):
        """Scatter new rows of keys and of values to their slots.

        One kernel for both: a decoding step has few rows, and pays for launches before bytes.
        """
        token = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if token < slot_mapping.size:
            slot = slot_mapping[token]
            if slot >= 0:
                move(k, token, k_cache, slot)
                move(v, token, v_cache, slot)

    return write_rows


def _gather_rows(move):
    @cuda.jit
    def gather_rows(cache, block_tables, block_size, length, out):
        """Collect the rows of each sequence in order."""
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row < out.shape[0]:
            sequence, position = row // length, row % length
            block = block_tables[sequence, position // block_size]
            move(cache, block * block_size + position % block_size, out, row)

    return gather_rows


def _copy_rows(move):
    @cuda.jit
    def copy_rows(cache, sources, targets, block_size):
        """Copy all rows of some blocks."""
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        pair, inner = row // block_size, row % block_size
        if pair < sources.size:
            source = sources[pair] * block_size + inner
            move(cache, source, cache, targets[pair] * block_size + inner)

    return copy_rows


# By whether rows are made of packets.
_WRITE = {True: _write_rows(_move_packets), False: _write_rows(_move_elements)}
_GATHER = {True: _gather_rows(_move_packets), False: _gather_rows(_move_elements)}
_COPY = {True: _copy_rows(_move_packets), False: _copy_rows(_move_elements)}


def write_kv(
    k: Any, v: Any, k_cache: Any, v_cache: Any, slot_mapping: Any, *, stream: Any = None
) -> None:
    """Store new keys and values in their slots, in place.

    Parameters
    ----------
    k, v : float32, float16 or bfloat16 [N, G, D]
    k_cache, v_cache : as k [num_blocks, block_size, G, D]
    slot_mapping : int32 [N]
        The slot of each token; no slot twice. A token whose slot is negative is skipped: so the
        padding of a batch leaves no trace.
    stream : optional
        By default the current one.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("k", k, ndim=3)
    checks.array("v", v, dtype=storage_dtype(k), shape=k.shape, like=k)
    row = k.shape[1:]
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        checks.array(name, cache, dtype=storage_dtype(k), shape=(None, None, *row), like=k)
    checks.array("v_cache", v_cache, shape=k_cache.shape)
    checks.array("slot_mapping", slot_mapping, dtype="int32", shape=k.shape[:1], like=k)
    if k.size > 0:
        in_packets, tables = _rows(math.prod(row), k, v, k_cache, v_cache)
        grid, block = _shape(len(k), tables[0].shape[1], in_packets)
        launch = Launch(_WRITE[in_packets], grid, block, (*tables, slot_mapping))
        launch_all((launch,), stream)


def gather_kv(
    cache: Any, block_tables: Any, length: int, *, out: Any = None, stream: Any = None
) -> Any:
    """Collect the first tokens of each sequence into one contiguous array.

    Parameters
    ----------
    cache : float32, float16 or bfloat16 [num_blocks, block_size, G, D]
    block_tables : int32 [B, W]
        Rows shorter than W are padded with any valid block.
    length : int
        T, at most W * block_size.
    out : as cache [B, T, G, D], optional
    stream : optional
        By default the current one.

    Returns
    -------
    as cache [B, T, G, D]
        `out`. Rows past a sequence's own length hold whatever the padding block holds.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or the tables are too
        narrow for the length.
    """
    checks.array("cache", cache, ndim=4)
    checks.array("block_tables", block_tables, ndim=2, dtype="int32", like=cache)
    batch, width = block_tables.shape
    block_size = cache.shape[1]
    length = checks.integer("length", length, at_most=width * block_size)
    shape = (batch, length, *cache.shape[2:])
    if out is None:
        out = empty(shape, cache.dtype, like=cache)
    checks.array("out", out, dtype=storage_dtype(cache), shape=shape, like=cache)
    if out.size > 0:
        in_packets, tables = _rows(math.prod(cache.shape[2:]), cache, out)
        grid, block = _shape(batch * length, tables[0].shape[1], in_packets)
        args = (tables[0], block_tables, np.int32(block_size), np.int32(length), tables[1])
        launch_all((Launch(_GATHER[in_packets], grid, block, args),), stream)
    return out


def copy_blocks(cache: Any, sources: Any, targets: Any, *, stream: Any = None) -> None:
    """Copy whole blocks, in place: what copy-on-write needs.

    Parameters
    ----------
    cache : float32, float16 or bfloat16 [num_blocks, block_size, G, D]
    sources, targets : int32 [C]
        No target twice, and none that is a source: pairs are copied in no particular order.
    stream : optional
        By default the current one.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("cache", cache, ndim=4)
    checks.array("sources", sources, ndim=1, dtype="int32", like=cache)
    checks.array("targets", targets, dtype="int32", shape=sources.shape, like=cache)
    if cache.size > 0 and sources.size > 0:
        block_size = cache.shape[1]
        in_packets, (rows,) = _rows(math.prod(cache.shape[2:]), cache)
        grid, block = _shape(len(sources) * block_size, rows.shape[1], in_packets)
        args = (rows, sources, targets, np.int32(block_size))
        launch_all((Launch(_COPY[in_packets], grid, block, args),), stream)


def _rows(length: int, *arrays: Any) -> tuple[bool, list[Any]]:
    """See arrays as tables of rows of so many elements; of int32 where packets fit."""
    tables = [array.reshape(-1, length) for array in arrays]
    whole = length * arrays[0].dtype.itemsize % _PACKET_BYTES == 0
    if whole and all(map(ptx.is_aligned16, arrays)):
        return True, [table.view(np.int32) for table in tables]
    return False, tables


def _shape(rows: int, length: int, in_packets: bool) -> tuple[tuple[int], tuple[int, int]]:
    """Choose grid and block: as few warps a row as reach its end, several short rows a block."""
    pieces = length // ptx.VECTOR["int32"] if in_packets else length
    threads = min(_THREADS, _WARP * math.ceil(pieces / _WARP))
    rows_of_block = _THREADS // threads
    return (math.ceil(rows / rows_of_block),), (threads, rows_of_block)
