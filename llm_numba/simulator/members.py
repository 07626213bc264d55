"""Attributes: ``cuda.threadIdx.x``, ``x.shape``, ``math.pi``, a vector's ``.y``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numba import cuda
from numba.cuda import types, vector_types
from numba.cuda.core import ir

from llm_numba.simulator.lanes import WARP
from llm_numba.simulator.values import element_dtype

if TYPE_CHECKING:
    from llm_numba.simulator.scope import Scope

_AXES = {"x": 0, "y": 1, "z": 2}
_INDICES = {
    "threadIdx": "thread_index",
    "blockIdx": "block_index",
    "blockDim": "block_size",
    "gridDim": "grid_dim",
}
_VIEW_ATTRIBUTES = {"shape", "strides", "size", "ndim", "itemsize", "nbytes"}


@dataclass(frozen=True)
class Method:
    """A method, bound to the variable it was taken from."""

    owner: ir.Var
    name: str


def translate_member(scope: "Scope", target: ir.Var, value: ir.Expr) -> None:
    """Translate ``target = value.attr``."""
    kind = types.unliteral(scope.type(value.value))
    if isinstance(kind, types.Module):
        _module_member(scope, target, value)
    elif isinstance(kind, types.Dim3):
        method = _INDICES[scope.known[value.value.name]]
        scope.assign(target, f"g.{method}({_AXES[value.attr]})")
    elif isinstance(scope.type(target), types.BoundFunction):
        scope.known[target.name] = Method(value.value, value.attr)
    elif isinstance(kind, types.Array):
        _array_member(scope, target, value)
    elif isinstance(kind, vector_types.VectorType):
        scope.assign(target, f"{scope.use(value.value)}[{kind.attr_names.index(value.attr)}]")
    elif isinstance(kind, types.Complex):
        scope.assign(target, f"{scope.use(value.value)}.{value.attr}")
    elif isinstance(kind, types.BaseNamedTuple):
        scope.assign(target, f"{scope.use(value.value)}[{kind.fields.index(value.attr)}]")
    elif isinstance(kind, types.EnumClass):
        scope.set_constant(target, getattr(kind.instance_class, value.attr))
    elif isinstance(kind, types.EnumMember) and value.attr == "value":
        scope.assign(target, scope.use(value.value))
    else:
        raise scope.unsupported(
            f"the attribute `.{value.attr}` of {kind} cannot be simulated.",
            "Compute it before the launch and pass it as an argument.",
        )


def _module_member(scope: "Scope", target: ir.Var, value: ir.Expr) -> None:
    module = scope.known[value.value.name]
    kind: Any = scope.type(target)
    if isinstance(kind, types.Dim3):
        scope.known[target.name] = value.attr
    elif module is cuda and value.attr == "laneid":
        scope.assign(target, "g.lane_index()")
    elif module is cuda and value.attr == "warpsize":
        scope.set_constant(target, WARP)
    else:
        scope.bind_object(target, getattr(module, value.attr))


def _array_member(scope: "Scope", target: ir.Var, value: ir.Expr) -> None:
    if value.attr in _VIEW_ATTRIBUTES:
        scope.assign(target, f"{scope.use(value.value)}.{value.attr}")
    elif value.attr == "T":
        scope.assign(target, f"{scope.use(value.value)}.transposed()")
    elif value.attr == "dtype":
        scope.known[target.name] = element_dtype(scope.type(value.value).dtype)
    elif value.attr in ("real", "imag") or _is_field(scope.type(value.value).dtype, value.attr):
        scope.assign(target, f"{scope.use(value.value)}.field({value.attr!r})")
    else:
        raise scope.unsupported(
            f"the attribute `.{value.attr}` of an array cannot be simulated.",
            "Compute it before the launch and pass it as an argument.",
        )


def _is_field(kind: Any, name: str) -> bool:
    return isinstance(kind, types.Record) and name in kind.fields
