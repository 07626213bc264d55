"""Numba's types for the arguments of a launch.

A kernel is compiled once for each combination of them. Of an array they are element type, number
of axes and order, never the lengths.
"""

import functools
from typing import Any

import ml_dtypes
import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import models, register_model
from numba.cuda.np import numpy_support

from llm_numba.runtime.tensor_maps import WORDS, SimulatedTensorMap, TensorMap

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class TensorMapType(types.Type):
    """A tensor map: 128 bytes among a kernel's parameters, and to the kernel their address.

    Only of what the kernel calls a :func:`~llm_numba.kernels.ptx.bulk.parameter` the compiler
    knows that they are there. So the address is of a type of its own.
    """


TENSOR_MAP, MAP_ADDRESS = TensorMapType("TensorMap"), TensorMapType("TensorMap address")
MAP_POINTER = ir.ArrayType(ir.IntType(64), WORDS).as_pointer()


@register_model(TensorMapType)
class _TensorMapModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: TensorMapType) -> None:
        super().__init__(manager, kind, MAP_POINTER)


_PYTHON_TYPES = {
    bool: types.boolean,
    int: types.int64,
    float: types.float64,
    TensorMap: TENSOR_MAP,
}


def argument_key(value: Any) -> tuple[np.dtype, int, str] | type:
    """Return what a compiled kernel depends on of one argument.

    Parameters
    ----------
    value : array or scalar

    Returns
    -------
    tuple of (dtype, int, str), or type
        Of an array: dtype, number of axes, and order: "C", "F", or "A" for any other. Of a tensor
        map what it is on a GPU, also of one of the simulated device.
    """
    if isinstance(value, SimulatedTensorMap):
        return TensorMap
    if hasattr(value, "flags") and not isinstance(value, np.generic):
        flags = value.flags
        order = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"
        return value.dtype, value.ndim, order
    return type(value)


@functools.cache
def numba_type(key: tuple[np.dtype, int, str] | type) -> types.Type:
    """Return the type that a kernel is compiled for.

    Parameters
    ----------
    key : tuple or type
        As returned by :func:`argument_key`.

    Returns
    -------
    numba type
        bfloat16 arrays are arrays of uint16.
    """
    if isinstance(key, type):
        return _PYTHON_TYPES.get(key) or numpy_support.from_dtype(np.dtype(key))
    dtype, ndim, order = key
    element = types.uint16 if dtype == _BFLOAT16 else numpy_support.from_dtype(dtype)
    return types.Array(element, ndim, order)
