"""Random numbers to fill weights with, made where they are needed.

The formula and the order of the numbers are those of :mod:`llm_numba.reference.random_weights`::

    thread t = 32 g + lane     one call of Philox, of counter t: 16 bytes
    writes                     numbers 512 g + lane + 32 j, j = 0 .. 15

Of a window, some columns of some rows, the threads are those whose numbers lie between its first
and its last. Each makes its 16 and writes those that are inside: that no thread asks another for
its bytes is worth making some in vain.

Nothing is read, and 16 numbers cost ten rounds of two 64-bit products: memory is the ceiling, of
writing alone. A model of 8 billion weights is there in less time than its file takes to open.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint64

from llm_numba.kernels import checks, ptx
from llm_numba.kernels.sampling_numbers import philox4x32
from llm_numba.reference.random_weights import BYTES, LANES
from llm_numba.runtime import Launch, launch_all

_THREADS = 256
_WORD_BYTES = 4
_MOST = (1 << 36) - 1


@cuda.jit
def fill_bytes(out, key, step, centre):
    """Write the 16 numbers of one call of the generator."""
    call = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    words = philox4x32(uint64(call), uint64(0), key)
    number = call // LANES * (LANES * BYTES) + call % LANES
    for w in range(BYTES // _WORD_BYTES):
        for b in range(_WORD_BYTES):
            if number < out.size:
                byte = int32((words[w] >> uint64(8 * b)) & uint64(0xFF))
                value = centre + float32(int32(2 * byte - 255)) * step
                out[number] = ptx.from_float(out, value)
            number += LANES


@cuda.jit
def fill_window(out, first, pitch, key, step, centre):
    """Write of the 16 numbers of one call those that lie in the window, [rows, columns]."""
    before = first // (LANES * BYTES) * LANES
    call = before + int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    words = philox4x32(uint64(call), uint64(0), key)
    number = call // LANES * (LANES * BYTES) + call % LANES
    for w in range(BYTES // _WORD_BYTES):
        for b in range(_WORD_BYTES):
            if number >= first:
                row, column = (number - first) // pitch, (number - first) % pitch
                if row < out.shape[0] and column < out.shape[1]:
                    byte = int32((words[w] >> uint64(8 * b)) & uint64(0xFF))
                    value = centre + float32(int32(2 * byte - 255)) * step
                    out[row, column] = ptx.from_float(out, value)
            number += LANES


def fill_random(
    out: Any,
    key: int,
    step: float,
    centre: float = 0.0,
    *,
    first: int = 0,
    pitch: int | None = None,
    stream: Any = None,
) -> Any:
    """Fill an array with random numbers, in place, on a device: with all, or a window of them.

    Parameters
    ----------
    out : float32, float16 or bfloat16 [...]
        C-contiguous; the tensor has less than 2^36 numbers.
    key : int
        Of 64 bits: another key, other numbers.
    step : float
        s: half of what neighbouring values are apart.
    centre : float
        c: their mean.
    first : int
        Which of the tensor's numbers comes first.
    pitch : int, optional
        How many numbers of the tensor a row of `out` begins behind the row before; by default its
        length: then there are no gaps.
    stream : optional
        By default the current one.

    Returns
    -------
    as out
        `out`: bit for bit what the reference makes, if c is 0 and s a power of two.

    Raises
    ------
    KernelArgumentError
        If an argument has another dtype, layout, device or value.
    """
    checks.array("out", out)
    first = checks.integer("first", first, at_most=_MOST)
    numbers = np.uint64(key), np.float32(step), np.float32(centre)
    length = out.shape[-1] if out.ndim else 1
    pitch = length if pitch is None else checks.integer("pitch", pitch, at_least=length)
    if first == 0 and pitch == length:
        flat = out.reshape(-1)
        calls = -(-flat.size // (LANES * BYTES)) * LANES
        kernel, args = fill_bytes, (flat, *numbers)
    else:
        rows = out.reshape(-1, length) if pitch > length else out.reshape(1, -1)
        # A window without gaps is one row, and nothing lies behind it.
        pitch = max(pitch, rows.shape[1])
        end = first + (len(rows) - 1) * pitch + rows.shape[1]
        group = LANES * BYTES
        calls = (-(-end // group) - first // group) * LANES
        kernel, args = fill_window, (rows, np.int64(first), np.int64(pitch), *numbers)
    launch_all((Launch(kernel, (-(-calls // _THREADS),), (_THREADS,), args),), stream)
    return out
