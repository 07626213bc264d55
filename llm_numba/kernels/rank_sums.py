r"""The arrays of several ranks added up on a device, from the first rank's to the last one's.

.. math:: y = \sum_{p=0}^{P-1} x_p

float32, float16 or bfloat16 in memory and float32 in registers, rounded once; integers and float64
in their own format. A thread has one packet of 16 bytes of y, and reads it of each rank in turn::

    parts   rank 0  | packet 0 | packet 1 | packet 2 | ...
            rank 1  | packet 0 | packet 1 | packet 2 | ...
                         |          |          |
    y               | thread 0 | thread 1 | thread 2 | ...

P reads and one write for P - 1 sums: memory is the ceiling. It is ten times as fast as the links
between GPUs, over which the parts have come.
"""

import functools
import math
from typing import Any

from numba import cuda, float32

from llm_numba.kernels import checks, ptx
from llm_numba.reference.rank_sums import Reduction
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype

_THREADS = 256
# The most numbers of a packet.
_WIDEST = 8
_FLOATS = ("float32", "float16", "bfloat16")
_OTHERS = ("float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


@cuda.jit(device=True)
def _sum(a, b):
    return a + b


@cuda.jit(device=True)
def _larger(a, b):
    # A number is not equal to itself if it is NaN, which must not get lost.
    return b if b > a or b != b else a


_JOINED = {"sum": _sum, "max": _larger}


@functools.cache
def _floats(op: Reduction) -> Any:
    """Make the kernel for numbers that are joined in float32."""
    join = _JOINED[op]

    @cuda.jit
    def combine_packets(parts, whole, out):
        """Join the whole packets, and the numbers after them one a thread."""
        totals = cuda.local.array(_WIDEST, float32)
        packet, width = cuda.grid(1), ptx.items16(out)
        single = whole * (width - 1) + packet
        if packet < whole:
            first = ptx.load16(parts, packet * width)
            for e in range(width):
                totals[e] = first[e]
            for p in range(1, parts.shape[0]):
                more = ptx.load16(parts, p * parts.shape[1] + packet * width)
                for e in range(width):
                    totals[e] = join(totals[e], more[e])
            values = ptx.zeros16(out)
            for e in range(width):
                values = ptx.with_item(values, e, totals[e])
            ptx.store16(out, packet * width, values)
        elif single < out.size:
            total = ptx.to_float(parts[0, single])
            for p in range(1, parts.shape[0]):
                total = join(total, ptx.to_float(parts[p, single]))
            out[single] = ptx.from_float(out, total)

    return combine_packets


@functools.cache
def _numbers(op: Reduction) -> Any:
    """Make the kernel for numbers that are joined in their own format."""
    join = _JOINED[op]

    @cuda.jit
    def combine_numbers(parts, out):
        """Join one number in each thread."""
        i = cuda.grid(1)
        if i < out.size:
            total = parts[0, i]
            for p in range(1, parts.shape[0]):
                total = join(total, parts[p, i])
            out[i] = total

    return combine_numbers


def combine_parts(parts: Any, op: Reduction = "sum", *, out: Any = None, stream: Any = None) -> Any:
    """Add up the arrays of several ranks, or take their largest numbers, on a device.

    Parameters
    ----------
    parts : number [P, ...]
        An array of each rank, in the order in which they are added.
    op : {"sum", "max"}
    out : as parts [...], optional
        Where the result goes; no part of parts.
    stream : cupy.cuda.Stream or Numba stream, optional
        By default the current one.

    Returns
    -------
    as parts [...]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another dtype, shape, layout or device.
    """
    checks.array("parts", parts, dtype=(*_FLOATS, *_OTHERS))
    checks.choice("op", op, list(_JOINED))
    dtype, shape = storage_dtype(parts), parts.shape[1:]
    if out is None:
        out = empty(shape, parts.dtype, like=parts)
    checks.array("out", out, dtype=dtype, shape=shape, like=parts)
    rows, flat = parts.reshape(len(parts), -1), out.reshape(-1)
    if dtype in _OTHERS:
        grid = (math.ceil(flat.size / _THREADS),)
        plan = Launch(_numbers(op), grid, (_THREADS,), (rows, flat))
    else:
        width = ptx.VECTOR[dtype]
        is_packed = flat.size % width == 0 and all(map(ptx.is_aligned16, (rows, flat)))
        whole = flat.size // width if is_packed else 0
        grid = (math.ceil((flat.size - whole * (width - 1)) / _THREADS),)
        plan = Launch(_floats(op), grid, (_THREADS,), (rows, whole, flat))
    launch_all((plan,), stream)
    return out
