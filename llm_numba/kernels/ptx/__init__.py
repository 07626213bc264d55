"""The instructions that Python has no word for, in one place: all the PTX of the kernels.

Each is one function for use inside a kernel, made of LLVM or of PTX itself. Its docstring names
the instruction and the least compute capability that has it. Beside it stands its *twin*: what
the instruction does, in NumPy, for the simulator.

=========================================  ==================================================
:mod:`~llm_numba.kernels.ptx.elements`     float32, float16 and bfloat16: widen and round
:mod:`~llm_numba.kernels.ptx.vectors`      16 bytes at once: load and store
:mod:`~llm_numba.kernels.ptx.warps`        two numbers combined; a warp's integers reduced
=========================================  ==================================================
"""

from llm_numba.kernels.ptx.elements import from_float, to_float, widen
from llm_numba.kernels.ptx.vectors import VECTOR, is_aligned16, items16, load16, store16, with_item
from llm_numba.kernels.ptx.warps import (
    add,
    maximum,
    redux_add_sync,
    redux_max_sync,
    redux_min_sync,
)

__all__ = [
    "VECTOR",
    "add",
    "from_float",
    "is_aligned16",
    "items16",
    "load16",
    "maximum",
    "redux_add_sync",
    "redux_max_sync",
    "redux_min_sync",
    "store16",
    "to_float",
    "widen",
    "with_item",
]
