r"""From one number format to another, on a device.

.. math:: y_i = \mathrm{round}(x_i)

Weights are stored in one format and computed with in another. They cross the bus as they are
stored, and each piece is converted where it lands: the bus is twenty times slower than the memory
that this reads and writes, so a number a thread is fast enough.
"""

from typing import Any

from numba import cuda

from llm_numba.kernels import checks, ptx
from llm_numba.runtime import Launch, launch_all

_THREADS = 256


@cuda.jit
def convert_numbers(x, out):
    """Widen one number to float32, and round that."""
    i = cuda.grid(1)
    if i < x.size:
        out[i] = ptx.from_float(out, ptx.to_float(x[i]))


def convert(x: Any, out: Any, *, stream: Any = None) -> Any:
    """Write numbers in another format, on a device.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [...]
    out : float32, float16 or bfloat16, shape of x
        In its own format.
    stream : optional
        By default the current one.

    Returns
    -------
    as out
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another dtype, shape, layout or device.
    """
    checks.array("x", x)
    checks.array("out", out, shape=x.shape, like=x)
    grid = (-(-x.size // _THREADS),)
    launch_all(
        (Launch(convert_numbers, grid, (_THREADS,), (x.reshape(-1), out.reshape(-1))),), stream
    )
    return out
