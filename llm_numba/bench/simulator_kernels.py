"""Kernels as tutorials write them, for ``llm-numba bench simulator``.

They use only what Numba's own simulator has (no warp operations, no half floats), and run
unchanged under both simulators, and on a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda, float32, int32

TILE = 16
PITCH = TILE + 1
THREADS = 256
BINS = 64


@cuda.jit
def saxpy(alpha, x, y, out):
    """Give each element a thread."""
    i = cuda.grid(1)
    if i < out.size:
        out[i] = alpha * x[i] + y[i]


@cuda.jit
def matmul(a, b, c):
    """Give each block a tile of 16 x 16 outputs; operands come by way of shared memory."""
    a_tile = cuda.shared.array((TILE, TILE), float32)
    b_tile = cuda.shared.array((TILE, TILE), float32)
    column, row = cuda.grid(2)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0)
    for k in range(0, a.shape[1], TILE):
        a_tile[ty, tx] = 0
        b_tile[ty, tx] = 0
        if row < a.shape[0] and k + tx < a.shape[1]:
            a_tile[ty, tx] = a[row, k + tx]
        if k + ty < b.shape[0] and column < b.shape[1]:
            b_tile[ty, tx] = b[k + ty, column]
        cuda.syncthreads()
        for i in range(TILE):
            total += a_tile[ty, i] * b_tile[i, tx]
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        c[row, column] = total


@cuda.jit
def block_sum(x, out):
    """Add up by a tree in shared memory, with half as many threads at each level."""
    values = cuda.shared.array(THREADS, float32)
    t = cuda.threadIdx.x
    i = cuda.grid(1)
    values[t] = x[i] if i < x.size else float32(0)
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            values[t] += values[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = values[0]


@cuda.jit
def transpose(x, out):
    """Turn a tile of 16 x 16, its rows a word longer than it needs."""
    tile = cuda.shared.array((TILE, PITCH), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    row = cuda.blockIdx.y * TILE + ty
    column = cuda.blockIdx.x * TILE + tx
    if row < x.shape[0] and column < x.shape[1]:
        tile[ty, tx] = x[row, column]
    cuda.syncthreads()
    row = cuda.blockIdx.x * TILE + ty
    column = cuda.blockIdx.y * TILE + tx
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = tile[tx, ty]


@cuda.jit
def histogram(values, counts):
    """Each block counts in shared memory, then adds its counts to those of all."""
    mine = cuda.shared.array(BINS, int32)
    t = cuda.threadIdx.x
    if t < BINS:
        mine[t] = 0
    cuda.syncthreads()
    i = cuda.grid(1)
    if i < values.size:
        cuda.atomic.add(mine, values[i], 1)
    cuda.syncthreads()
    if t < BINS:
        cuda.atomic.add(counts, t, mine[t])


@cuda.jit
def stencil(x, out):
    """Conduct heat for one step: each cell moves towards the mean of its four neighbours."""
    column, row = cuda.grid(2)
    if 0 < row < x.shape[0] - 1 and 0 < column < x.shape[1] - 1:
        around = x[row - 1, column] + x[row + 1, column] + x[row, column - 1] + x[row, column + 1]
        out[row, column] = float32(0.5) * x[row, column] + float32(0.125) * around


@cuda.jit
def mandelbrot(counts, left, top, step, limit):
    """Count how soon each point escapes; neighbours leave the loop at different times."""
    column, row = cuda.grid(2)
    if row < counts.shape[0] and column < counts.shape[1]:
        real = left + step * column
        imaginary = top + step * row
        x, y, count = 0.0, 0.0, 0
        while x * x + y * y < 4.0 and count < limit:
            x, y = x * x - y * y + real, 2.0 * x * y + imaginary
            count += 1
        counts[row, column] = count


@dataclass(frozen=True)
class Case:
    """A kernel and what it is run on.

    Attributes
    ----------
    name : str
        A key for the record, ``"matmul/16x16x64"``.
    what : str
        In a few words for a table.
    kernel : dispatcher
    grid, block : tuple of int
    arguments : callable
        Takes a ``numpy.random.Generator`` and returns the arguments; the result is the array that
        `output` counts to.
    output : int
    tolerance : float
        How far results may differ, relative to the largest: float32 sums are contracted to fused
        multiply-adds as the compiled kernel's are, or not.
    """

    name: str
    what: str
    kernel: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: Callable[[np.random.Generator], tuple[Any, ...]]
    output: int = -1
    tolerance: float = 0.0

    @property
    def threads(self) -> int:
        """Threads of the launch."""
        return int(np.prod(self.grid) * np.prod(self.block))


def _floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _matmul(M: int, N: int, K: int) -> Case:
    return Case(
        f"matmul/{M}x{N}x{K}",
        f"tiled matrix product, {M} x {N} x {K}",
        matmul,
        (-(-N // TILE), -(-M // TILE)),
        (TILE, TILE),
        lambda rng: (_floats(rng, M, K), _floats(rng, K, N), _zeros(M, N)),
        tolerance=K * 2.0**-24,
    )


_SQUARE = {"grid": (4, 4), "block": (TILE, TILE)}

CASES = (
    Case(
        "saxpy/4096",
        "saxpy, 4,096 elements",
        saxpy,
        (16,),
        (THREADS,),
        lambda rng: (np.float32(1.5), _floats(rng, 4096), _floats(rng, 4096), _zeros(4096)),
        tolerance=2.0**-23,
    ),
    _matmul(16, 16, 64),
    _matmul(64, 64, 64),
    Case(
        "block_sum/2048",
        "sum by a tree in shared memory, 8 blocks of 256",
        block_sum,
        (8,),
        (THREADS,),
        lambda rng: (_floats(rng, 2048), _zeros(8)),
    ),
    Case(
        "transpose/64x64",
        "transpose through shared tiles, 64 x 64",
        transpose,
        arguments=lambda rng: (_floats(rng, 64, 64), _zeros(64, 64)),
        **_SQUARE,
    ),
    Case(
        "histogram/2048",
        "histogram with atomics, 2,048 values in 64 bins",
        histogram,
        (8,),
        (THREADS,),
        lambda rng: (rng.integers(0, BINS, 2048).astype(np.int32), np.zeros(BINS, np.int32)),
    ),
    Case(
        "stencil/64x64",
        "stencil of five points, 64 x 64",
        stencil,
        arguments=lambda rng: (_floats(rng, 64, 64), _zeros(64, 64)),
        tolerance=2.0**-22,
        **_SQUARE,
    ),
    Case(
        "mandelbrot/64x64",
        "Mandelbrot set, 64 x 64 points, at most 32 steps",
        mandelbrot,
        arguments=lambda rng: (np.zeros((64, 64), np.int32), -2.0, -1.5, 3 / 64, 32),
        output=0,
        **_SQUARE,
    ),
)


def case(name: str) -> Case:
    """Return the case of that name.

    Raises
    ------
    KeyError
        If there is none.
    """
    return {each.name: each for each in CASES}[name]
