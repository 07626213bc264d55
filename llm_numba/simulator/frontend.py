"""Numba's front end without its back end: a kernel's typed intermediate representation.

Numba translates Python bytecode to an IR in which each statement is one operation, each variable
has one type and each call one signature. Everything up to that point needs neither a GPU nor NVVM.
The simulator executes this IR, so its types are not an imitation of Numba's: they are Numba's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba.cuda import compiler, types, utils
from numba.cuda.core import errors as numba_errors
from numba.cuda.core.callconv import CUDACallConv
from numba.cuda.core.compiler_lock import global_compiler_lock
from numba.cuda.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.flags import CUDAFlags
from numba.cuda.target import CUDATargetContext, CUDATypingContext
from numba.cuda.typing import signature
from numba.cuda.typing.typeof import Purpose, typeof

from llm_numba.simulator.errors import UnsupportedError


@dataclass(frozen=True)
class TypedFunction:
    """A kernel or device function with a type for each variable.

    Attributes
    ----------
    function : function
        The Python source of it.
    ir : numba FunctionIR
    typemap : dict of str to numba type
    calltypes : dict of IR expression or statement to signature
    return_type : numba type
    """

    function: Callable[..., Any]
    ir: Any
    typemap: dict[str, Any]
    calltypes: dict[Any, Any]
    return_type: Any


@register_pass(mutates_CFG=False, analysis_only=True)
class _KeepTypedIR(FunctionPass):
    """The last pass of our pipeline: where Numba would lower to LLVM, we take what there is."""

    _name = "llm_numba_keep_typed_ir"

    def __init__(self) -> None:  # abstract in the base class
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        state.cr = TypedFunction(
            state.func_id.func, state.func_ir, state.typemap, state.calltypes, state.return_type
        )
        return True


class _TypingCompiler(compiler.CUDACompiler):
    """Numba's CUDA compiler, cut off after type inference."""

    def define_pipelines(self) -> list[PassManager]:
        """Return the untyped and the typed passes, without those that make machine code."""
        passes = PassManager("llm_numba simulator")
        builder = compiler.DefaultPassBuilder
        for pass_type, description in (
            *builder.define_untyped_pipeline(self.state).passes,
            *builder.define_typed_pipeline(self.state).passes,
        ):
            if pass_type is compiler.TranslateByteCode:
                pass_type = compiler.CUDATranslateBytecode
            passes.passes.append((pass_type, description))
        passes.passes.append((_KeepTypedIR, "keep the typed IR"))
        passes.finalize()
        return [passes]


class _TypingContext(CUDATypingContext):
    """Types a call of a device function by typing its body, where Numba would compile it."""

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        if isinstance(func, types.Dispatcher):
            arguments = fold_arguments(func.dispatcher, args, kws)
            typed = type_function(func.dispatcher.py_func, arguments)
            result = signature(typed.return_type, *arguments)
            return result.replace(pysig=utils.pysignature(func.dispatcher.py_func))
        return super().resolve_function_type(func, args, kws)


def fold_arguments(dispatcher: CUDADispatcher, args: Any, kws: Any) -> tuple[Any, ...]:
    """Bring keyword and default arguments into the order of the function's parameters."""
    _, folded = dispatcher.fold_argument_types(args, dict(kws))
    return tuple(types.unliteral(each) for each in folded)


class _Front:
    """The contexts, made when the first kernel is simulated, and the functions typed so far."""

    def __init__(self) -> None:
        self.typing = _TypingContext()
        self.target = CUDATargetContext(self.typing)
        self.typed: dict[Any, TypedFunction] = {}


_front: _Front | None = None


@global_compiler_lock
def type_function(
    function: Callable[..., Any], argument_types: tuple[Any, ...]
) -> TypedFunction:
    """Infer the type of every variable of a function.

    Parameters
    ----------
    function : function
        The ``py_func`` of a kernel or device function.
    argument_types : tuple of numba type

    Returns
    -------
    TypedFunction

    Raises
    ------
    UnsupportedError
        If Numba cannot compile the function for these types; its own message is quoted.
    """
    global _front
    _front = _front or _Front()
    key = (function, argument_types)
    if key not in _front.typed:
        flags = CUDAFlags()
        flags.no_compile = True
        flags.error_model = "numpy"
        flags.compute_capability = (9, 0)
        try:
            with utils.numba_target_override():
                _front.typed[key] = _TypingCompiler(
                    _front.typing,
                    _front.target,
                    None,
                    argument_types,
                    None,
                    flags,
                    {},
                    CUDACallConv(_front.target),
                    {},
                ).compile_extra(function)
        except numba_errors.NumbaError as error:
            code = function.__code__
            raise UnsupportedError(
                f"Numba cannot compile {function.__name__}: {error}",
                "Nor could it for a GPU: mend what its message names.",
                code.co_filename,
                code.co_firstlineno,
            ) from None
    return _front.typed[key]


def type_of(value: Any) -> Any:
    """Return Numba's type of a kernel argument.

    Raises
    ------
    UnsupportedError
        If a kernel cannot take it.
    """
    try:
        return typeof(value, Purpose.argument)
    except (ValueError, numba_errors.NumbaError):
        raise UnsupportedError(
            f"A kernel cannot take an argument of type {type(value).__name__}.",
            "Pass NumPy arrays, numbers, or tuples of these.",
        ) from None
