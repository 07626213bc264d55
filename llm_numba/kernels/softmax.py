r"""Softmax over the rows of a matrix, with scale and mask.

.. math:: y_i = \frac{e^{s x_i - m}}{\sum_j e^{s x_j - m}}, \qquad m = \max_j s x_j

x is [M, N], float32, float16 or bfloat16 in memory, float32 in registers. What is masked counts
as :math:`-\infty`; a row without anything left gives zeros. NaN or :math:`+\infty` makes its row
NaN, as in :func:`llm_numba.reference.softmax`.

GPUs have an instruction for :math:`2^x`, ``ex2.approx``, and none for :math:`e^x`. So the launcher
multiplies the scale by :math:`\log_2 e` and all powers are of two: ``math.exp2`` is four machine
instructions on sm_90 where ``math.exp`` is eight. The last step takes ``ex2.approx`` alone, for
which powers below :math:`2^{-126}` of the largest are 0.

About 5 M N operations for 2 M N numbers moved: memory is the ceiling. The fewest bytes are one
read of x and one write of y, and each step of the ladder comes closer:

==============  ==========  ==========  ====================================
step            reads of x  writes      threads of a row
==============  ==========  ==========  ====================================
``naive``       3           1           one; neighbours stand N numbers apart
``block``       3           1           256, side by side
``online``      2           1           256, side by side
``vectorised``  1           1           32 to 4096, 16 bytes at a time
==============  ==========  ==========  ====================================

::

    naive     thread     row                block     row 0   t0 t1 t2 ... t255 t0 t1 ...
              t0         0 -> -> -> ->                        (block 0)
              t1         1 -> -> -> ->                row 1   t0 t1 t2 ... t255 t0 t1 ...
              ...                                             (block 1)

References
----------
Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018 (algorithm 3, and its
rule for merging partial results in section 3.1).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32

from llm_numba import reference
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.rows import (
    MAX_WARPS,
    MINUS_INFINITY,
    MOST_PACKETS,
    holds,
    max_over_row,
    row_launch,
    sum_over_row,
)
from llm_numba.kernels.softmax_clustered import blocks_of_row, softmax_clustered
from llm_numba.kernels.softmax_logits import inverse_or_one, logit, reference_point, row_of_mask
from llm_numba.kernels.softmax_streamed import softmax_streamed
from llm_numba.kernels.softmax_vectorised import softmax_held
from llm_numba.kernels.tuning import Shape, Tunable, choose
from llm_numba.runtime import Launch, empty, empty_like, launch_all, storage_dtype
from llm_numba.runtime.room import Room, room_of

_NAIVE_THREADS = 128
_BLOCK_THREADS = 256
_STREAM_THREADS = 1024
# Packets of a row that a thread has in registers, by whether there is a mask, which takes some; the
# others are in the ring.
_STREAM_HELD = {False: 4, True: 1}
# Likewise of a row that a cluster has.
_CLUSTER_HELD = {False: 8, True: 4}
_LOG2_E = math.log2(math.e)


@cuda.jit
def softmax_naive(x, mask, scale, out):
    """Three passes over a row by one thread: maximum, sum, quotient.

    What one would write for a CPU. The 32 threads of a warp read 32 rows, so each request touches
    32 sectors of 32 bytes, to use 4 bytes (or 2) of each.

    Python's ``max`` prefers a number to NaN, and so hides it. The sum brings it back.
    """
    row = cuda.grid(1)
    if row >= x.shape[0]:
        return
    mask_row = row_of_mask(mask, row)
    maximum = MINUS_INFINITY
    for j in range(x.shape[1]):
        maximum = max(maximum, logit(x, mask, scale, row, mask_row, j))
    base = reference_point(maximum)
    total = float32(0)
    for j in range(x.shape[1]):
        total += math.exp2(logit(x, mask, scale, row, mask_row, j) - base)
    inverse = inverse_or_one(total)
    for j in range(x.shape[1]):
        power = math.exp2(logit(x, mask, scale, row, mask_row, j) - base)
        out[row, j] = ptx.from_float(out, power * inverse)


@cuda.jit
def softmax_block(x, mask, scale, out):
    """Give each row to a block: neighbouring threads read neighbouring numbers.

    A warp's request for 32 float32 is 4 sectors where it was 32. Maximum and sum are combined by
    shuffles within each warp, and then across the warps by 32 words of shared memory.
    """
    maxima = cuda.shared.array(MAX_WARPS, float32)
    sums = cuda.shared.array(MAX_WARPS, float32)
    row, first, step = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    mask_row = row_of_mask(mask, row)
    maximum = MINUS_INFINITY
    for j in range(first, x.shape[1], step):
        maximum = max(maximum, logit(x, mask, scale, row, mask_row, j))
    base = reference_point(max_over_row(maximum, maxima))
    total = float32(0)
    for j in range(first, x.shape[1], step):
        total += math.exp2(logit(x, mask, scale, row, mask_row, j) - base)
    inverse = inverse_or_one(sum_over_row(total, sums))
    for j in range(first, x.shape[1], step):
        power = math.exp2(logit(x, mask, scale, row, mask_row, j) - base)
        out[row, j] = ptx.from_float(out, power * inverse)


@cuda.jit
def softmax_online(x, mask, scale, out):
    r"""Maximum and sum in one pass: x is read twice where it was three times.

    A part of a row is summed up by its maximum m and its sum l of :math:`2^{x - m}`. Two parts
    merge, in any order, into :math:`m = \max(m_1, m_2)` and
    :math:`l = l_1 2^{m_1 - m} + l_2 2^{m_2 - m}`. A single number is the part (x, 1).
    """
    maxima = cuda.shared.array(MAX_WARPS, float32)
    sums = cuda.shared.array(MAX_WARPS, float32)
    row, first, step = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    mask_row = row_of_mask(mask, row)
    maximum, total = MINUS_INFINITY, float32(0)
    for j in range(first, x.shape[1], step):
        value = logit(x, mask, scale, row, mask_row, j)
        larger = max(maximum, value)
        base = reference_point(larger)
        total = total * math.exp2(maximum - base) + math.exp2(value - base)
        maximum = larger
    base = reference_point(max_over_row(maximum, maxima))
    inverse = inverse_or_one(sum_over_row(total * math.exp2(maximum - base), sums))
    for j in range(first, x.shape[1], step):
        power = math.exp2(logit(x, mask, scale, row, mask_row, j) - base)
        out[row, j] = ptx.from_float(out, power * inverse)


def _plan_naive(x: Any, mask: Any, scale: float, out: Any) -> tuple[Launch, ...]:
    grid = (math.ceil(len(x) / _NAIVE_THREADS),)
    return (Launch(softmax_naive, grid, (_NAIVE_THREADS,), _args(x, mask, scale, out)),)


def _plan_block(x: Any, mask: Any, scale: float, out: Any) -> tuple[Launch, ...]:
    args = _args(x, mask, scale, out)
    return (Launch(softmax_block, (len(x),), (_BLOCK_THREADS,), args),)


def _plan_online(x: Any, mask: Any, scale: float, out: Any) -> tuple[Launch, ...]:
    args = _args(x, mask, scale, out)
    return (Launch(softmax_online, (len(x),), (_BLOCK_THREADS,), args),)


def _plan_vectorised(x: Any, mask: Any, scale: float, out: Any) -> tuple[Launch, ...]:
    if not (ptx.is_aligned16(x) and ptx.is_aligned16(out)):
        return _plan_online(x, mask, scale, out)  # parts of other arrays, which may begin anywhere
    config = choose(TUNABLE, x.shape, storage_dtype(x), like=x)
    return _plan_config(config, x, mask, scale, out)


def _plan_config(config: "Config", x: Any, mask: Any, scale: float, out: Any) -> tuple[Launch, ...]:
    args, has_mask = _args(x, mask, scale, out), len(mask) > 0
    packets, edges = divmod(x.shape[1], ptx.VECTOR[storage_dtype(x)])
    if config.held_packets:
        grid, block = row_launch(len(x), packets, config.held_packets)
        return (Launch(softmax_held(config.held_packets, has_mask, not edges), grid, block, args),)
    room, held = room_of(x), _CLUSTER_HELD[has_mask]
    if room.has_clusters and (blocks := blocks_of_row(packets, held)):
        _, (threads, _) = row_launch(1, math.ceil(packets / blocks), held)
        kernel = softmax_clustered(blocks, held, has_mask, not edges)
        return (Launch(kernel, (blocks * len(x),), (threads,), args),)
    kernel, shared_bytes = _streamed(packets, room, has_mask, not edges)
    grid = (min(len(x), room.multiprocessors),)
    return (Launch(kernel, grid, (_STREAM_THREADS,), args, shared_bytes),)


def _streamed(packets: int, room: Room, has_mask: bool, aligned: bool) -> tuple[Any, int]:
    """Return the kernel for rows of so many packets, and the shared memory that its ring takes."""
    # It has some shared memory of its own, and no GPU gives a block the last KiB.
    places = (room.shared_bytes - 1024) // (16 * _STREAM_THREADS)
    held = _STREAM_HELD[has_mask]
    slots = math.ceil(packets / _STREAM_THREADS) - held
    kernel = softmax_streamed(held, min(slots, places), places, has_mask, aligned)
    return kernel, 16 * _STREAM_THREADS * places


def _args(x: Any, mask: Any, scale: float, out: Any) -> tuple[Any, ...]:
    return x, mask, np.float32(scale * _LOG2_E), out


def softmax(
    x: Any,
    scale: float = 1.0,
    mask: Any = None,
    *,
    out: Any = None,
    step: str = "vectorised",
    stream: Any = None,
) -> Any:
    """Turn each row into probabilities, on a device.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [..., N]
        One to four axes.
    scale : float
        Multiplies x first; attention's 1/sqrt(D).
    mask : bool [..., N], optional
        True where an entry counts. Its shape is that of x, of which leading axes may be missing
        or 1: [N] for all rows alike, [S, T] for each head of [B, H, S, T].
    out : of shape and dtype of x, optional
        Where the probabilities go; may be x itself.
    step : {"naive", "block", "online", "vectorised"}
        Of the ladder.
    stream : optional
        By default the current one.

    Returns
    -------
    of shape and dtype of x
        `out`. Rows with nothing left by the mask are zeros.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    checks.array("x", x, ndim=(1, 2, 3, 4))
    scale = checks.number("scale", scale, finite=True)
    checks.choice("step", step, [each.name for each in LADDER.steps])
    if out is None:
        out = empty_like(x)
    checks.array("out", out, dtype=storage_dtype(x), shape=x.shape, like=x)
    rows = _rows_of_mask(mask, x)
    if x.size > 0:
        matrix = (-1, x.shape[-1])
        plan = LADDER.step(step).plan
        launches = plan(x=x.reshape(matrix), mask=rows, scale=scale, out=out.reshape(matrix))
        launch_all(launches, stream)
    return out


def _rows_of_mask(mask: Any, x: Any) -> Any:
    """Return a mask as a matrix whose rows repeat along those of x; without rows for None."""
    if mask is None:
        return empty((0, x.shape[-1]), np.bool_, like=x)
    checks.array("mask", mask, ndim=range(1, x.ndim + 1), dtype="bool", like=x)
    repeated = next((i for i, length in enumerate(mask.shape[:-1]) if length != 1), mask.ndim - 1)
    shape = mask.shape[repeated:]
    checks.array("mask", mask, shape=mask.shape[:repeated] + x.shape[-len(shape) :], dtype=None)
    return mask.reshape(math.prod(shape[:-1]), x.shape[-1])


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    x = np.random.default_rng(seed).normal(scale=16, size=shape).astype(dtype)
    mask = np.empty((0, shape[1]), np.bool_)
    return {"x": x, "mask": mask, "scale": 0.125, "out": np.full_like(x, np.nan)}


def _expect(
    x: np.ndarray, mask: np.ndarray, scale: float, out: np.ndarray
) -> dict[str, np.ndarray]:
    rows = mask if len(mask) else None
    return {"out": reference.softmax(x.astype(np.float64), scale, rows)}


_EXAMPLE = (64, 1024)
_HELD_KERNELS = tuple(softmax_held(MOST_PACKETS, False, aligned) for aligned in (True, False))
# Of rows 64 times as long: 128 KiB in two blocks, 256 KiB in four.
_CLUSTERED_KERNELS = tuple(softmax_clustered(b, _CLUSTER_HELD[False], False, True) for b in (2, 4))

LADDER = Ladder(
    name="softmax",
    steps=(
        Step(
            "naive",
            "A thread a row, three passes: what one would write for a CPU.",
            _plan_naive,
            (softmax_naive,),
        ),
        Step(
            "block",
            "A block a row, neighbours side by side: an eighth of the sectors of float32.",
            _plan_block,
            (softmax_block,),
        ),
        Step(
            "online",
            "Maximum and sum in one pass: two reads of x in place of three.",
            _plan_online,
            (softmax_online,),
        ),
        Step(
            "vectorised",
            "16 bytes a load, the row kept in registers: one read of x.",
            _plan_vectorised,
            (*_HELD_KERNELS, *_CLUSTERED_KERNELS, softmax_online),
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=("float32", "float16", "bfloat16"),
    example=_EXAMPLE,
    axes="M N",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: 2 * math.prod(shape) * itemsize,
    flops=lambda shape: 5 * math.prod(shape),
)


class Config(NamedTuple):
    """How the last step is launched.

    Attributes
    ----------
    held_packets : {0, 1, 4}
        Packets of 16 bytes that a thread holds in registers; a row has as many threads as that
        needs, of one block. 0 gives rows to clusters, and where a GPU has none, or a row does not
        fit into one, sends them through a ring in shared memory, with one block for each SM.
    """

    held_packets: int


def rule(shape: Shape, dtype: str) -> Config:
    """Hold four packets a thread, if the row fits so: few warps, each with much under way."""
    packets = shape[1] // ptx.VECTOR[dtype]
    return Config(MOST_PACKETS if holds(packets, MOST_PACKETS) else 0)


def candidates(shape: Shape, dtype: str) -> tuple[Config, ...]:
    """Return what can hold the row."""
    packets = shape[1] // ptx.VECTOR[dtype]
    # Two packets would spill at the registers that two have.
    held = [each for each in (1, MOST_PACKETS) if holds(packets, each)]
    return tuple(map(Config, held or [0]))


TUNABLE = Tunable(
    LADDER,
    rule,
    candidates,
    _plan_config,
    shapes=((131072, 1024), (32768, 4096), (16384, 8192), (4096, 32768), (1024, 131072)),
    # By the length alone: a row's result must not depend on how many others there are.
    bucket=lambda shape: (math.ceil(2**27 / max(1, shape[1])), shape[1]),
)
