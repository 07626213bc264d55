r"""Transposing a matrix: coalescing, bank conflicts, and the ways out of them.

.. math:: y_{nm} = x_{mn}

x [M, N] and y [N, M] are float32, float16 or bfloat16; elements are moved as they are. No FLOPs;
M N elements are read once and written once, so memory is the ceiling.

A warp reads a row of x. If it writes at once, it writes a column of y: 32 elements in 32 sectors,
of which it needs 4 (or 2) bytes each. So a block of 32 x 8 threads takes a tile of 32 x 32 by way
of shared memory, and both of its sides go along rows:

::

         x                 tile                     y
    +----------+        +----------+          +----------+
    |    ->    |  row   | -> -> -> |  column  |          |     thread (tx, ty) moves elements
    |    ->    | =====> | |        | ======>  |    ->    |     (ty + 0, 8, 16, 24; tx) of the tile
    |          |        | v        |          |    ->    |     in, and (tx; ty + 0, 8, 16, 24) out
    +----------+        +----------+          +----------+

Now the column is read from the tile. Shared memory has 32 banks of 4 bytes, and serves words in
one bank one after the other. Per request of a warp on full tiles, counted by hand:

==========  =========================  =========================  ==========================
step        load from x, 4 | 2 bytes   store to y, 4 | 2 bytes    tile by column, 4 | 2 bytes
==========  =========================  =========================  ==========================
naive       4 | 2 sectors              32 | 32 sectors
tile        4 | 2 sectors              4 | 2 sectors              32 | 16 ways
padded      4 | 2 sectors              4 | 2 sectors              1 | 1 way
swizzled    4 | 2 sectors              4 | 2 sectors              1 | 1 way
vectorised  16 | 16 sectors            16 | 16 sectors            1 | 1 way
==========  =========================  =========================  ==========================

The tile is stored by rows, without conflict in every step. Why the columns collide, and what
helps, for lane r that reads (r, c):

- 4 bytes, rows of 32 words: word 32 r + c, so bank c for all lanes. 32 ways.
- 2 bytes, rows of 16 words: word 16 r + c/2, so bank c/2 or c/2 + 16, 16 lanes each. 16 ways.
- 4 bytes, rows of 33 elements, 33 words: bank (r + c) mod 32, all different.
- 2 bytes, rows of 33 elements, 16.5 words: even lanes in banks k + c/2, odd ones in
  k + 16 + (c + 1)/2, for k = 0..15. All different for even c; for odd c the last odd lane meets
  the first even one: 2 ways. One element is the popular padding and the wrong one here.
- 2 bytes, rows of 34 elements, 17 words: bank (17 r + c/2) mod 32, all different, since 17 is
  odd. The right padding is one word, whatever the element.
- Padding goes behind each row. A 33rd row would change no bank.
- Swizzle: element (r, c) lies at (r, c XOR r). 4 bytes: bank c XOR r, all different. 2 bytes: bank
  16 (r mod 2) + (c/2 XOR r/2), all different. It needs no padding, so rows stay aligned for
  16-byte accesses and for the hardware's own copies.

Sources: Ruetsch and Micikevicius, "Optimizing Matrix Transpose in CUDA", 2009; "CUDA C++ Best
Practices Guide", shared memory in matrix multiplication.
"""

from typing import Any

import numpy as np
from numba import cuda

from llm_numba import reference
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.transpose_packets import SQUARES, packets
from llm_numba.runtime import Launch, empty, launch_all

TILE = 32
ROWS = 8  # of threads; each thread moves TILE // ROWS elements

DTYPES = ("float32", "float16", "bfloat16")


@cuda.jit(device=True)
def _corner(columns):
    """First row and first column of this block's tile, in an array of so many columns.

    Tiles are numbered along one axis of the grid: the others end at 65535.
    """
    across = (columns + TILE - 1) // TILE
    return cuda.blockIdx.x // across * TILE, cuda.blockIdx.x % across * TILE


@cuda.jit
def naive(x, y):
    """Write where the element belongs.

    Neighbouring threads read neighbours, and write M elements apart: each element of a store
    takes a sector of its own, of which 28 of 32 bytes (or 30) are not asked for.
    """
    row, column = _corner(x.shape[1])
    n = column + cuda.threadIdx.x
    for j in range(cuda.threadIdx.y, TILE, ROWS):
        m = row + j
        if m < x.shape[0] and n < x.shape[1]:
            y[n, m] = x[m, n]


@cuda.jit
def tile(x, y):
    """Turn the tile in shared memory, so that loads and stores both go along rows.

    Global memory now gives and takes whole sectors. The price is a column of the tile, all of it
    in one bank.
    """
    square = cuda.shared.array((TILE, TILE), x.dtype)
    row, column = _corner(x.shape[1])
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    for j in range(ty, TILE, ROWS):
        if row + j < x.shape[0] and column + tx < x.shape[1]:
            square[j, tx] = x[row + j, column + tx]
    cuda.syncthreads()
    for j in range(ty, TILE, ROWS):
        if column + j < x.shape[1] and row + tx < x.shape[0]:
            y[column + j, row + tx] = square[tx, j]


def _padded(padding):
    columns = TILE + padding

    @cuda.jit
    def padded(x, y):
        """Lengthen the rows of the tile by a word, so that a column crosses all 32 banks.

        The shape is the only change. A word is one element of 4 bytes and two of 2 bytes.
        """
        square = cuda.shared.array((TILE, columns), x.dtype)
        row, column = _corner(x.shape[1])
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        for j in range(ty, TILE, ROWS):
            if row + j < x.shape[0] and column + tx < x.shape[1]:
                square[j, tx] = x[row + j, column + tx]
        cuda.syncthreads()
        for j in range(ty, TILE, ROWS):
            if column + j < x.shape[1] and row + tx < x.shape[0]:
                y[column + j, row + tx] = square[tx, j]

    return padded


# By bytes of an element: how many make a word.
_PADDED = {4: _padded(1), 2: _padded(2)}


@cuda.jit
def swizzled(x, y):
    """Permute each row of the tile by its own number instead of padding it.

    XOR with the row maps 0..31 onto itself, so a row still fills its own words, and a column
    meets every bank once.
    """
    square = cuda.shared.array((TILE, TILE), x.dtype)
    row, column = _corner(x.shape[1])
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    for j in range(ty, TILE, ROWS):
        if row + j < x.shape[0] and column + tx < x.shape[1]:
            square[j, tx ^ j] = x[row + j, column + tx]
    cuda.syncthreads()
    for j in range(ty, TILE, ROWS):
        if column + j < x.shape[1] and row + tx < x.shape[0]:
            y[column + j, row + tx] = square[tx, j ^ tx]


def transpose(x: Any, *, out: Any = None, step: str = "vectorised", stream: Any = None) -> Any:
    """Copy a matrix so that its columns lie where its rows lay.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [M, N]
        On a device.
    out : as x [N, M], optional
        Where the result goes; not x itself.
    step : str
        Of ``LADDER``.
    stream : optional
        By default the current one.

    Returns
    -------
    as x [N, M]
        `out`, bit for bit.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    checks.array("x", x, ndim=2, dtype=DTYPES)
    checks.choice("step", step, [each.name for each in LADDER.steps])
    shape = x.shape[::-1]
    if out is None:
        out = empty(shape, x.dtype, like=x)
    checks.array("out", out, dtype=np.dtype(x.dtype).name, shape=shape, like=x)
    launch_all(LADDER.step(step).plan(x=x, out=out), stream)
    return out


def _plan(kernel: Any, x: Any, out: Any) -> tuple[Launch, ...]:
    down, across = (-(-length // TILE) for length in x.shape)
    return (Launch(kernel, (down * across,), (TILE, ROWS), (x, out)),)


def _plan_padded(x: Any, out: Any) -> tuple[Launch, ...]:
    return _plan(_PADDED[x.dtype.itemsize], x, out)


def _plan_vectorised(x: Any, out: Any) -> tuple[Launch, ...]:
    side = 16 // x.dtype.itemsize
    in_packets = all(length % side == 0 for length in x.shape)
    if not (in_packets and ptx.is_aligned16(x) and ptx.is_aligned16(out)):
        return _plan(swizzled, x, out)
    down, across = (-(-length // (SQUARES * side)) for length in x.shape)
    return (Launch(packets(x.dtype.itemsize), (down * across,), (SQUARES, SQUARES), (x, out)),)


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    x = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return {"x": x, "out": np.full(shape[::-1], np.nan, dtype)}


LADDER = Ladder(
    name="transpose",
    steps=(
        Step(
            "naive",
            "Read rows, write columns: one sector for each element written.",
            lambda x, out: _plan(naive, x, out),
            (naive,),
        ),
        Step(
            "tile",
            "Turn a tile in shared memory: whole sectors both ways, but columns in one bank.",
            lambda x, out: _plan(tile, x, out),
            (tile,),
        ),
        Step(
            "padded",
            "A word behind each row of the tile: a column crosses all banks.",
            _plan_padded,
            tuple(_PADDED.values()),
        ),
        Step(
            "swizzled",
            "XOR in place of padding: no conflict and no byte wasted.",
            lambda x, out: _plan(swizzled, x, out),
            (swizzled,),
        ),
        Step(
            "vectorised",
            "16 bytes a load and a store: squares turned in registers, packets swizzled.",
            _plan_vectorised,
            (packets(4), packets(2), swizzled),
        ),
    ),
    operands=_operands,
    expect=lambda x, out: {"out": reference.transpose(x.astype(np.float64))},
    dtypes=DTYPES,
    example=(64, 64),
    axes="M N",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: 2 * shape[0] * shape[1] * itemsize,
    flops=lambda shape: 0,
)
