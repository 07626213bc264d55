r"""Two arrays into one, number by number, as kernels of their own.

.. math:: z = x + y \qquad\text{or}\qquad z = x \cdot y

x, y and z have one shape; float32, float16 or bfloat16 in memory, float32 in registers. One
operation for three numbers moved: memory is the ceiling, and the fewest bytes are two reads and
one write.

::

    packets of x, y    |  0 |  1 | ... | 255 | 256 | 257 | ... | 511 | 512 | ...
    thread, 256          t0   t1   ...  t255    t0    t1   ...  t255             block 0
                                                                        t0   ... block 1

Where one of the operands is a product's result, the epilogue of that product does it without a
trip to memory. These kernels are what a model pays that does not fuse.
"""

import math
from typing import Any

from numba import cuda, uint32

from llm_numba.kernels import checks, ptx
from llm_numba.kernels.packets import widened
from llm_numba.runtime import Launch, empty_like, launch_all, storage_dtype

_THREADS = 256
_PACKETS = 2
_WORDS = 4 * _PACKETS


@cuda.jit(device=True)
def _sum(a, b):
    return a + b


@cuda.jit(device=True)
def _product(a, b):
    return a * b


def _combined(function: Any) -> Any:
    """Make the kernel that combines two numbers by a device function."""

    @cuda.jit
    def combine_packets(x, y, whole, out):
        """Combine the whole packets, all loads of a thread first, and the numbers after them."""
        of_x = cuda.local.array(_WORDS, uint32)
        of_y = cuda.local.array(_WORDS, uint32)
        width = ptx.items16(x)
        first = cuda.blockIdx.x * (_PACKETS * cuda.blockDim.x) + cuda.threadIdx.x
        for k in range(_PACKETS):
            packet = first + k * cuda.blockDim.x
            if packet < whole:
                a, b = ptx.load_raw16(x, packet * width), ptx.load_raw16(y, packet * width)
                for w in range(4):
                    of_x[4 * k + w], of_y[4 * k + w] = a[w], b[w]
        for k in range(_PACKETS):
            packet = first + k * cuda.blockDim.x
            single = whole * (width - 1) + packet
            if packet < whole:
                left, right = widened(x, of_x, k), widened(y, of_y, k)
                results = ptx.zeros16(out)
                for e in range(width):
                    results = ptx.with_item(results, e, function(left[e], right[e]))
                ptx.store16(out, packet * width, results)
            elif single < x.size:
                result = function(ptx.to_float(x[single]), ptx.to_float(y[single]))
                out[single] = ptx.from_float(out, result)

    return combine_packets


_ADD, _MULTIPLY = _combined(_sum), _combined(_product)


def add(x: Any, y: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Add two arrays, on a device.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [...]
    y : as x [...]
    out : as x [...], optional
        Where the result goes; may be x or y itself.
    stream : cupy.cuda.Stream or Numba stream, optional
        By default the current one.

    Returns
    -------
    as x [...]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another dtype, shape, layout or device.
    """
    return _run(_ADD, x, y, out, stream)


def multiply(x: Any, y: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Multiply two arrays number by number, on a device; operands as of :func:`add`."""
    return _run(_MULTIPLY, x, y, out, stream)


def _run(kernel: Any, x: Any, y: Any, out: Any, stream: Any) -> Any:
    checks.array("x", x)
    same = {"dtype": storage_dtype(x), "shape": x.shape, "like": x}
    checks.array("y", y, **same)
    if out is None:
        out = empty_like(x)
    checks.array("out", out, **same)
    width = ptx.VECTOR[storage_dtype(x)]
    whole = x.size // width if all(map(ptx.is_aligned16, (x, y, out))) else 0
    turns = whole + x.size - whole * width
    grid = (math.ceil(turns / (_THREADS * _PACKETS)),)
    args = (*(each.reshape(-1) for each in (x, y)), whole, out.reshape(-1))
    launch_all((Launch(kernel, grid, (_THREADS,), args),), stream)
    return out
