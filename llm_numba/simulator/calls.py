"""Calls: casts, device functions, barriers, arrays, Python's builtins, and twins."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda
from numba.cuda import types, vector_types
from numba.cuda.core import ir

from llm_numba.simulator.arguments import pass_on, positional, sources
from llm_numba.simulator.arithmetic import cast, dtype_name
from llm_numba.simulator.collectives import Operation
from llm_numba.simulator.frontend import type_function
from llm_numba.simulator.members import Method
from llm_numba.simulator.twins import find_twin
from llm_numba.simulator.values import element_dtype, register_dtype

if TYPE_CHECKING:
    from llm_numba.simulator.scope import Scope

_DEEPEST_CALL = 64
_MAX_STATIC_SHARED = 48 * 1024
_NUMBER_METHODS = {
    "conjugate": "np.conjugate({0})",
    "bit_count": "population({0}, {1.bitwidth})",
    "item": "{0}",
}

Emitter = Callable[["Scope", ir.Var, list[Any], Any], None]
_emitters: dict[Any, Emitter] = {}


def emits(*functions: Any) -> Callable[[Emitter], Emitter]:
    """Register what a call of these functions is translated to."""

    def register(emitter: Emitter) -> Emitter:
        for function in functions:
            _emitters[function] = emitter
        return emitter

    return register


def translate_call(scope: "Scope", target: ir.Var, value: ir.Expr) -> None:
    """Translate ``target = func(args)``."""
    kind = scope.type(value.func)
    signature = scope.typed.calltypes[value]
    if isinstance(kind, types.NumberClass) and len(value.args) == 1:
        scope.convert(target, value.args[0], kind.dtype)
        return
    if isinstance(kind, types.ExceptionClass):
        scope.known[target.name] = scope.known[value.func.name]
        return
    function = scope.known.get(value.func.name, getattr(kind, "typing_key", None))
    arguments = positional(scope, value, signature)
    if isinstance(kind, types.NamedTupleClass):
        parts = sources(scope, arguments, signature.args)
        scope.assign(target, f"({''.join(f'{part}, ' for part in parts)})")
        return
    if isinstance(kind, types.Dispatcher):
        _lay_in(scope, target, kind.dispatcher.py_func, arguments, signature)
    elif isinstance(function, Method):
        _call_method(scope, target, function, arguments, signature)
    elif _is_known(_emitters, function):
        _emitters[function](scope, target, arguments, signature)
    elif isinstance(signature.return_type, vector_types.VectorType):
        _make_vector(scope, target, arguments, signature)
    elif find_twin(function) is not None:
        _call_twin(scope, target, function, arguments, signature)
    elif value in scope.typed.bodies:
        _lay_in(scope, target, scope.typed.bodies[value], arguments, signature)
    elif isinstance(function, np.ufunc):
        _call_ufunc(scope, target, function, arguments, signature)
    else:
        name = getattr(function, "__name__", str(function))
        raise scope.unsupported(
            f"the simulator has no twin of `{name}`.",
            "Register one with llm_numba.simulator.twin.",
        )


def _is_known(table: dict[Any, Any], key: Any) -> bool:
    try:
        return key in table
    except TypeError:
        return False


# -- Device functions ---------------------------------------------------------------------------


def _lay_in(
    scope: "Scope", target: ir.Var, function: Any, arguments: list[Any], signature: Any
) -> None:
    """Lay a device function into its caller."""
    if scope.depth > _DEEPEST_CALL:
        raise scope.unsupported(
            f"`{function.__name__}` calls itself without end in sight.", "Use a loop."
        )
    typed = type_function(function, signature.args)
    passed = [
        pass_on(scope, each, kind) for each, kind in zip(arguments, signature.args, strict=True)
    ]
    start = scope.block
    after = scope.translation.block()
    result = None
    if not isinstance(signature.return_type, types.NoneType):
        result = scope.translation.register()
    scope.translation.translate(
        scope.translation, typed, passed, start, after, result, scope.depth + 1
    )
    # What the caller goes on with stands behind what it called.
    scope.translation.blocks.remove(after)
    scope.translation.blocks.append(after)
    scope.block = after
    scope.reads = set()
    if result is None:
        scope.set_constant(target, None)
    else:
        scope.assign(
            target, cast(scope.read_register(result), typed.return_type, scope.type(target))
        )


def _call_twin(
    scope: "Scope", target: ir.Var, function: Any, arguments: list[Any], signature: Any
) -> None:
    entry = find_twin(function)
    assert entry is not None
    if entry.barrier == "named":
        scope.named_barrier(target, sources(scope, arguments, signature.args))
        return
    if entry.barrier is not None:
        scope.barrier(target, entry.barrier, None, None)
        return
    scope.emit_location()
    dtype = register_dtype(signature.return_type)
    parts = sources(scope, arguments, signature.args)
    if entry.collective:
        operation = Operation(entry.function, dtype, entry.whole_warp)
        scope.collective(target, operation, parts, loads=entry.loads)
        return
    if entry.typed:
        parts.append(f"signature={scope.translation.name(signature, 's')}")
    call = f"{scope.translation.name(entry.function, 't')}({', '.join(['g', *parts])})"
    if dtype is not None:
        call = f"conform({call}, {dtype_name(dtype)})"
    scope.assign(target, call, loads=entry.loads)


def _call_ufunc(
    scope: "Scope", target: ir.Var, function: Any, arguments: list[Any], signature: Any
) -> None:
    parts = sources(scope, arguments, signature.args)
    dtype = dtype_name(register_dtype(signature.return_type))
    scope.assign(
        target, f"conform({scope.translation.name(function)}({', '.join(parts)}), {dtype})"
    )


def _call_method(
    scope: "Scope", target: ir.Var, method: Method, arguments: list[Any], signature: Any
) -> None:
    if method.name == "sync" and isinstance(scope.type(method.owner), types.GridGroup):
        scope.translation.grid_sync = True
        scope.barrier(target, "grid", None, None)
        return
    if method.name in _NUMBER_METHODS:
        owner, kind = scope.use(method.owner), types.unliteral(scope.type(method.owner))
        scope.assign(target, _NUMBER_METHODS[method.name].format(owner, kind))
        return
    if method.name not in ("view", "reshape", "ravel", "transpose"):
        raise scope.unsupported(
            f"the method `.{method.name}()` cannot be simulated.", "Write it as a loop."
        )
    kind = signature.return_type
    if method.name == "view":
        parts = [scope.translation.name(element_dtype(kind.dtype))]
    else:
        parts = [scope.operand(each, None) for each in arguments]
    owner = scope.use(method.owner)
    scope.assign(target, f"{owner}.{method.name}({', '.join(parts)})")


def _make_vector(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    base = signature.return_type.base_type
    parts = []
    for each in arguments:
        kind = types.unliteral(scope.type(each))
        if isinstance(kind, vector_types.VectorType):
            source = scope.use(each)
            parts += [f"{source}[{axis}]" for axis in range(kind.num_elements)]
        else:
            parts.append(scope.use(each, base))
    scope.assign(target, f"({', '.join(parts)},)")


# -- Builtins -----------------------------------------------------------------------------------


@emits(bool)
def _bool(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    scope.convert(target, arguments[0], types.boolean)


@emits(complex)
def _complex(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    kind = signature.return_type
    real, *imaginary = [scope.operand(each, kind) for each in arguments]
    scope.assign(target, " + 1j * ".join([real, *imaginary]))


@emits(int, float)
def _number(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    scope.convert(target, arguments[0], signature.return_type)


@emits(range)
def _range(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    kind = signature.return_type.dtype
    scope.assign(
        target, f"make_range({', '.join(scope.operand(each, kind) for each in arguments)})"
    )


@emits(enumerate)
def _enumerate(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    source, *start = [scope.operand(each, None) for each in arguments]
    scope.assign(target, f"enumerated({source}, {start[0] if start else 'np.int64(0)'})")


def _iterator(name: str) -> Emitter:
    def emitter(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
        scope.assign(target, f"{name}({', '.join(sources(scope, arguments, signature.args))})")

    return emitter


_emitters[iter] = _iterator("iterate")
_emitters[zip] = _iterator("zipped")
_emitters[np.ndindex] = _iterator("indices")
_emitters[np.ndenumerate] = _iterator("index_pairs")


@emits(len)
def _len(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    kind = types.unliteral(scope.type(arguments[0]))
    if isinstance(kind, types.BaseTuple):
        scope.set_constant(target, len(kind))
    elif not isinstance(kind, types.Array):
        raise scope.unsupported(f"the length of {kind} cannot be simulated.", "Use a number.")
    else:
        scope.assign(target, f"{scope.use(arguments[0])}.shape[0]")


@emits(slice)
def _slice(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    scope.assign(target, f"slice({', '.join(scope.operand(each, None) for each in arguments)})")


# -- Threads and barriers -----------------------------------------------------------------------


@emits(cuda.grid)
def _grid(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    _each_axis(scope, target, signature, "grid_index")


@emits(cuda.gridsize)
def _gridsize(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    _each_axis(scope, target, signature, "grid_size")


def _each_axis(scope: "Scope", target: ir.Var, signature: Any, method: str) -> None:
    kind = signature.return_type
    if isinstance(kind, types.BaseTuple):
        parts = ", ".join(f"g.{method}({axis})" for axis in range(len(kind)))
        scope.assign(target, f"({parts},)")
    else:
        scope.assign(target, f"g.{method}(0)")


@emits(cuda.syncthreads)
def _syncthreads(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    scope.barrier(target, "block", None, None)


def _counting_barrier(combine: str) -> Emitter:
    def emitter(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
        scope.barrier(target, "block", combine, arguments[0])

    return emitter


_emitters[cuda.syncthreads_count] = _counting_barrier("count")
_emitters[cuda.syncthreads_and] = _counting_barrier("and")
_emitters[cuda.syncthreads_or] = _counting_barrier("or")


@emits(cuda.cg.this_grid)
def _this_grid(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    scope.known[target.name] = cuda.cg.this_grid


# -- Arrays -------------------------------------------------------------------------------------


def _literal_shape(scope: "Scope", shape: Any) -> tuple[int, ...]:
    kind = scope.type(shape)
    if isinstance(kind, types.BaseTuple):
        return tuple(each.literal_value for each in kind)
    return (kind.literal_value,)


def _quoted(target: ir.Var) -> str:
    """Return the source of a variable's name for messages."""
    return repr(f"`{target.name.partition('.')[0]}`")


@emits(cuda.shared.array)
def _shared_array(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    shape = _literal_shape(scope, arguments[0])
    dtype = element_dtype(signature.return_type.dtype)
    name = scope.translation.name(dtype)
    if 0 in shape:
        scope.assign(target, f"g.machine.dynamic_array({name}, {_quoted(target)})")
        return
    offset = scope.translation.reserve_shared(int(np.prod(shape)) * dtype.itemsize)
    if scope.translation.shared_bytes > _MAX_STATIC_SHARED:
        raise scope.unsupported(
            f"the shared arrays take {scope.translation.shared_bytes} bytes of a block.",
            f"At most {_MAX_STATIC_SHARED} can be static: use cuda.shared.array(0, dtype) and give "
            "the bytes with the launch.",
        )
    place = f"{offset}, {shape!r}, {name}, {_quoted(target)}"
    scope.assign(target, f"g.machine.shared_array({place})")


@emits(cuda.local.array)
def _local_array(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    shape = _literal_shape(scope, arguments[0])
    dtype = element_dtype(signature.return_type.dtype)
    offset = scope.translation.reserve_local(int(np.prod(shape)) * dtype.itemsize)
    name = scope.translation.name(dtype)
    place = f"{offset}, {shape!r}, {name}, {_quoted(target)}"
    scope.assign(target, f"g.machine.local_array({place})")
    scope.private.add(target.name)


@emits(cuda.const.array_like)
def _const_array(scope: "Scope", target: ir.Var, arguments: list[Any], signature: Any) -> None:
    scope.assign(target, scope.use(arguments[0]))
