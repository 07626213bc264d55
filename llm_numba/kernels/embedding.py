r"""Embedding: copying the rows of a table that token ids name, with a row of positions or without.

.. math:: Y_n = E_{t_n} \qquad\text{or, with learned positions,}\qquad Y_n = E_{t_n} + P_{p_n}

The table is [V, E], the result [N, E], float32, float16 or bfloat16. Alone it is a copy with an
indirection: N rows are read and N rows are written, bit for bit, so memory is the ceiling.

::

    token_ids    [ 7 | 3 | 7 | ... ]         a block reads an id, and then its threads the row:

    weight       row 3   | t0 | t1 | ... | t255 | t0 | t1 | ...         (block 1)
                 row 7   | t0 | t1 | ... | t255 | t0 | t1 | ...         (blocks 0 and 2)

An id outside of the table must not become a read outside of it: its row is NaN, which shows. Ids
are checked where they come in.

The same kernel takes rows out of hidden states: those whose logits are wanted.
"""

import functools
import math
from typing import Any

import numpy as np
from numba import cuda, float32, uint32

from llm_numba import reference
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.packets import CANDIDATES, FEW_PACKETS, Config, cut, rounded_up
from llm_numba.kernels.tuning import Shape, Tunable, choose
from llm_numba.runtime import Launch, empty, launch_all, starts_early, storage_dtype

_THREADS = 256
_NOT_A_NUMBER = float32(math.nan)
# In each of the three formats.
_NOT_NUMBERS = uint32(0xFFFFFFFF)


@cuda.jit(device=True)
def _exists(index, table):
    return 0 <= index < table.shape[0]


@cuda.jit
def embedding_naive(token_ids, weight, out):
    """Copy one number in each thread: 2 or 4 bytes a load."""
    i = cuda.grid(1)
    row, column = i // weight.shape[1], i % weight.shape[1]
    if row >= out.shape[0]:
        return
    token = token_ids[row]
    if _exists(token, weight):
        out[row, column] = weight[token, column]
    else:
        out[row, column] = ptx.from_float(out, _NOT_A_NUMBER)


@functools.cache
def _vectorised(packets: int) -> Any:
    """Make the kernel whose threads have so many packets under way."""
    words = 4 * packets

    @starts_early
    @cuda.jit
    def embedding_vectorised(token_ids, weight, out):
        """Copy 16 bytes a load, in registers as they are in memory."""
        ptx.release_next_kernel()
        ptx.await_previous_kernel()
        held = cuda.local.array(words, uint32)
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row >= out.shape[0]:
            return
        length, width = out.shape[1], ptx.items16(out)
        apart = cuda.blockDim.x * width
        column = cuda.blockIdx.y * (packets * apart) + cuda.threadIdx.x * width
        token = token_ids[row]
        for at in range(words):
            held[at] = _NOT_NUMBERS
        if _exists(token, weight):
            begin = token * length + column
            for k in range(packets):
                if column + k * apart < length:
                    packet = ptx.load_raw16(weight, begin + k * apart)
                    for e in range(4):
                        held[4 * k + e] = packet[e]
        begin = row * length + column
        for k in range(packets):
            if column + k * apart < length:
                at = 4 * k
                packet = (held[at], held[at + 1], held[at + 2], held[at + 3])
                ptx.store_raw16(out, begin + k * apart, packet)

    return embedding_vectorised


@cuda.jit
def add_positions(token_ids, positions, weight, position_weight, out):
    """Add the row of a position to the row of a token, one number in each thread."""
    i = cuda.grid(1)
    row, column = i // weight.shape[1], i % weight.shape[1]
    if row >= out.shape[0]:
        return
    token, position = token_ids[row], positions[row]
    value = _NOT_A_NUMBER
    if _exists(token, weight) and _exists(position, position_weight):
        value = ptx.to_float(weight[token, column])
        value += ptx.to_float(position_weight[position, column])
    out[row, column] = ptx.from_float(out, value)


@cuda.jit
def add_positions_vectorised(token_ids, positions, weight, position_weight, out):
    """Add the row of a position to the row of a token, a packet in each thread."""
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    length, width = out.shape[1], ptx.items16(out)
    column = (cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x) * width
    if row >= out.shape[0] or column >= length:
        return
    token, position = token_ids[row], positions[row]
    values = ptx.zeros16(out)
    for e in range(width):
        values = ptx.with_item(values, e, _NOT_A_NUMBER)
    if _exists(token, weight) and _exists(position, position_weight):
        a = ptx.load16(weight, token * length + column)
        b = ptx.load16(position_weight, position * length + column)
        for e in range(width):
            values = ptx.with_item(values, e, a[e] + b[e])
    ptx.store16(out, row * length + column, values)


def _plan_naive(token_ids: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
    grid = (math.ceil(out.size / _THREADS),)
    return (Launch(embedding_naive, grid, (_THREADS,), (token_ids, weight, out)),)


def rule(shape: Shape, dtype: str) -> Config:
    """Choose how :func:`embedding` is cut.

    Parameters
    ----------
    shape : tuple of int
        Tokens, rows of the table, numbers in a row.
    dtype : str

    Returns
    -------
    Config
        Two packets a thread, so that two loads wait for one id; of few packets, one, so that more
        SMs have some.
    """
    packets = shape[0] * shape[2] // ptx.VECTOR[dtype]
    return Config(256, 1) if packets < FEW_PACKETS else Config(512, 2)


def plan_vectorised(
    token_ids: Any, weight: Any, out: Any, config: Config | None = None
) -> tuple[Launch, ...]:
    """Plan by packets of 16 bytes, or a number a thread where rows are not made of packets.

    Parameters
    ----------
    token_ids, weight, out : arrays
        As of :func:`embedding`.
    config : Config, optional
        By default the tuned one, or :func:`rule`'s.

    Returns
    -------
    tuple of Launch
    """
    packets = _packets(weight, out)
    if packets == 0:
        return _plan_naive(token_ids, weight, out)
    shape = (len(out), *weight.shape)
    config = config or choose(TUNABLE, shape, storage_dtype(out), like=out)
    grid, block = cut(len(out), packets, config)
    return (Launch(_vectorised(config.packets), grid, block, (token_ids, weight, out)),)


def _packets(*tables: Any) -> int:
    """Count the packets of a row; 0 where a row is not made of packets alone."""
    packets, rest = divmod(tables[0].shape[1], ptx.VECTOR[storage_dtype(tables[0])])
    return packets if rest == 0 and all(map(ptx.is_aligned16, tables)) else 0


def embedding(
    token_ids: Any,
    weight: Any,
    *,
    out: Any = None,
    step: str = "vectorised",
    stream: Any = None,
) -> Any:
    """Look up token embeddings, on a device.

    Parameters
    ----------
    token_ids : int32 [N]
        Where one is not from 0 to V - 1, its row of the result is NaN.
    weight : float32, float16 or bfloat16 [V, E]
    out : as weight [N, E], optional
        Where the rows go.
    step : {"naive", "vectorised"}
        Of the ladder.
    stream : optional
        By default the current one.

    Returns
    -------
    as weight [N, E]
        `out`, bit for bit.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    checks.array("weight", weight, ndim=2)
    checks.array("token_ids", token_ids, ndim=1, dtype="int32", like=weight)
    checks.choice("step", step, [each.name for each in LADDER.steps])
    out = _output(out, token_ids, weight)
    if out.size > 0:
        launches = LADDER.step(step).plan(token_ids=token_ids, weight=weight, out=out)
        launch_all(launches, stream)
    return out


def embedding_with_positions(
    token_ids: Any,
    positions: Any,
    weight: Any,
    position_weight: Any,
    *,
    out: Any = None,
    stream: Any = None,
) -> Any:
    """Look up token embeddings and add learned position embeddings, on a device.

    Parameters
    ----------
    token_ids, positions : int32 [N]
        Where one of them is outside of its table, the row of the result is NaN.
    weight : float32, float16 or bfloat16 [V, E]
    position_weight : as weight [T, E]
    out : as weight [N, E], optional
        Where the rows go.
    stream : optional
        By default the current one.

    Returns
    -------
    as weight [N, E]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("weight", weight, ndim=2)
    dtype, width = storage_dtype(weight), weight.shape[1]
    checks.array("position_weight", position_weight, dtype=dtype, shape=(None, width), like=weight)
    checks.array("token_ids", token_ids, ndim=1, dtype="int32", like=weight)
    checks.array("positions", positions, dtype="int32", shape=token_ids.shape, like=weight)
    out = _output(out, token_ids, weight)
    if out.size > 0:
        args = (token_ids, positions, weight, position_weight, out)
        if packets := _packets(weight, position_weight, out):
            grid, block = cut(len(out), packets, Config(_THREADS, 1))
            launches = (Launch(add_positions_vectorised, grid, block, args),)
        else:
            grid = (math.ceil(out.size / _THREADS),)
            launches = (Launch(add_positions, grid, (_THREADS,), args),)
        launch_all(launches, stream)
    return out


def _output(out: Any, token_ids: Any, weight: Any) -> Any:
    shape = (len(token_ids), weight.shape[1])
    if out is None:
        return empty(shape, weight.dtype, like=weight)
    checks.array("out", out, dtype=storage_dtype(weight), shape=shape, like=weight)
    return out


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    tokens, vocabulary, width = shape
    rng = np.random.default_rng(seed)
    return {
        "token_ids": rng.integers(vocabulary, size=tokens).astype(np.int32),
        "weight": rng.normal(size=(vocabulary, width)).astype(dtype),
        "out": np.full((tokens, width), np.nan, dtype),
    }


LADDER = Ladder(
    name="embedding",
    steps=(
        Step(
            "naive",
            "A number a thread: neighbours side by side, 2 or 4 bytes a load.",
            _plan_naive,
            (embedding_naive,),
        ),
        Step(
            "vectorised",
            "16 bytes a load, two loads of a thread under way: an eighth of the instructions.",
            plan_vectorised,
            (_vectorised(1), embedding_naive),
        ),
    ),
    operands=_operands,
    expect=lambda token_ids, weight, out: {
        "out": reference.embedding(token_ids, weight.astype(np.float64))
    },
    dtypes=("float32", "float16", "bfloat16"),
    example=(16, 64, 256),
    axes="N V E",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: 2 * shape[0] * shape[2] * itemsize + 4 * shape[0],
    flops=lambda shape: 0,
)

TUNABLE = Tunable(
    LADDER,
    rule,
    lambda shape, dtype: CANDIDATES,
    lambda config, **operands: plan_vectorised(**operands, config=config),
    shapes=((1, 32768, 4096), (64, 32768, 4096), (4096, 32768, 4096), (16384, 32768, 8192)),
    # How many rows the table has does not matter.
    bucket=lambda shape: rounded_up((shape[0], 32768, shape[2])),
)
