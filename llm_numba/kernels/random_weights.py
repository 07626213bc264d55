"""Random numbers to fill weights with, made where they are needed.

The formula and the order of the numbers are those of :mod:`llm_numba.reference.random_weights`::

    thread t = 32 g + lane     one call of Philox, of counter t: 16 bytes
    writes                     numbers 512 g + lane + 32 j, j = 0 .. 15

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


def fill_random(out: Any, key: int, step: float, centre: float = 0.0, *, stream: Any = None) -> Any:
    """Fill an array with random numbers, in place, on a device.

    Parameters
    ----------
    out : float32, float16 or bfloat16 [...]
        C-contiguous, of less than 2^36 numbers.
    key : int
        Of 64 bits: another key, other numbers.
    step : float
        s: half of what neighbouring values are apart.
    centre : float
        c: their mean.
    stream : optional
        By default the current one.

    Returns
    -------
    as out
        `out`: bit for bit what the reference makes, if c is 0 and s a power of two.

    Raises
    ------
    KernelArgumentError
        If an argument has another dtype, layout or device.
    """
    checks.array("out", out)
    flat = out.reshape(-1)
    calls = -(-flat.size // (LANES * BYTES)) * LANES
    args = (flat, np.uint64(key), np.float32(step), np.float32(centre))
    launch_all((Launch(fill_bytes, (-(-calls // _THREADS),), (_THREADS,), args),), stream)
    return out
