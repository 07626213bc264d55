"""Numba's front end without its back end: a kernel's typed intermediate representation.

Numba translates Python bytecode to an IR in which each statement is one operation, each variable
has one type and each call one signature. Everything up to that point needs neither a GPU nor NVVM.
The simulator executes this IR, so its types are not an imitation of Numba's: they are Numba's.
"""

import dis
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numba.core.errors import NumbaError
from numba.cuda import compiler, types, utils
from numba.cuda.core import errors as numba_errors
from numba.cuda.core import ir
from numba.cuda.core.callconv import CUDACallConv
from numba.cuda.core.compiler_lock import global_compiler_lock
from numba.cuda.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.cuda.cudadrv.error import CudaSupportError
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.flags import CUDAFlags
from numba.cuda.target import CUDATargetContext, CUDATypingContext
from numba.cuda.typing import make_concrete_template, signature
from numba.cuda.typing.typeof import Purpose, typeof

from llm_numba.simulator.errors import UnsupportedError

# Numba and numba-cuda each have a family of errors; some functions it refuses by asking for a GPU.
# Numba looks attributes of modules up as Python does: an AttributeError is its refusal, too.
_REFUSALS = (NumbaError, numba_errors.NumbaError, CudaSupportError, AttributeError)
_COMPUTES = ("binop", "inplace_binop", "unary", "call")


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
    bodies : dict of IR expression to function
        For calls of what Numba itself writes in Python (``@overload``): the function that it chose.
    """

    function: Callable[..., Any]
    ir: Any
    typemap: dict[str, Any]
    calltypes: dict[Any, Any]
    return_type: Any
    bodies: dict[Any, Callable[..., Any]]

    @property
    def float64(self) -> set[tuple[str, int]]:
        """File and line of each operator and call that takes or gives a float64."""
        return {
            (self.function.__code__.co_filename, each.loc.line)
            for each, signature in self.calltypes.items()
            if isinstance(each, ir.Expr)
            and each.op in _COMPUTES
            and signature is not None
            and types.float64 in (signature.return_type, *signature.args)
        }


@register_pass(mutates_CFG=False, analysis_only=True)
class _KeepTypedIR(FunctionPass):
    """The last pass of our pipeline: where Numba would lower to LLVM, we take what there is."""

    _name = "llm_numba_keep_typed_ir"

    def __init__(self) -> None:  # abstract in the base class
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        bodies = {}
        for call, chosen in state.calltypes.items():
            if isinstance(call, ir.Expr) and call.op == "call":
                kind = state.typemap[call.func.name]
                found = getattr(kind, "_impl_keys", {}).get(chosen.args)
                if isinstance(found, _Body):
                    bodies[call] = found.dispatcher.py_func
        state.cr = TypedFunction(
            state.func_id.func,
            state.func_ir,
            state.typemap,
            state.calltypes,
            state.return_type,
            bodies,
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
    """Numba's typing context; its errors all become those to which type inference adds the line."""

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        try:
            return super().resolve_function_type(func, args, kws)
        except (NumbaError, CudaSupportError) as error:
            raise numba_errors.TypingError(str(error)) from None


@dataclass(frozen=True)
class _Body:
    """Stands where Numba keeps the compiled form of a function that it writes in Python itself."""

    dispatcher: CUDADispatcher


def _call_template(self: CUDADispatcher, args: Any, kws: Any) -> Any:
    """Type a call of a device function by typing its body, where Numba would compile it."""
    pysig, folded = self.fold_argument_types(args, dict(kws))
    arguments = tuple(types.unliteral(each) for each in folded)
    for declared in getattr(self, "declared", ()):
        if len(declared) == len(arguments):
            arguments = tuple(declared)
    try:
        typed = type_function(self.py_func, arguments)
    except UnsupportedError as refusal:
        if "numba" not in self.py_func.__module__.split("."):
            raise
        # Numba's own function cannot be had: the line to name is the one that calls it.
        raise numba_errors.TypingError(refusal.cause) from None
    template = make_concrete_template(
        self.py_func.__name__,
        key=self.py_func.__name__,
        signatures=[signature(typed.return_type, *arguments)],
    )
    return template, pysig, arguments, {}


@contextmanager
def _typing_only() -> Iterator[None]:
    """Keep dispatchers from compiling while a kernel's calls are typed."""
    saved = CUDADispatcher.get_call_template, CUDADispatcher.get_overload
    CUDADispatcher.get_call_template = _call_template
    CUDADispatcher.get_overload = lambda self, sig: _Body(self)
    try:
        yield
    finally:
        CUDADispatcher.get_call_template, CUDADispatcher.get_overload = saved


class _Flags(CUDAFlags):
    """Numba's flags, compared by those that are set: it compares them thousands of times."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Flags) and self._values == other._values

    def __hash__(self) -> int:
        return hash(frozenset(self._values))


class _Front:
    """The contexts, made when the first kernel is simulated, and the functions typed so far."""

    def __init__(self) -> None:
        self.typing = _TypingContext()
        self.target = CUDATargetContext(self.typing)
        self.typed: dict[Any, TypedFunction] = {}


_front: _Front | None = None


@global_compiler_lock
def type_function(function: Callable[..., Any], argument_types: tuple[Any, ...]) -> TypedFunction:
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
        flags = _Flags()
        flags.no_compile = True
        flags.error_model = "numpy"
        flags.compute_capability = (9, 0)
        try:
            with utils.numba_target_override(), _typing_only():
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
        except _REFUSALS as error:
            raise _refusal(function, error) from None
    return _front.typed[key]


def _refusal(function: Callable[..., Any], error: Exception) -> UnsupportedError:
    code = function.__code__
    remedy = "A GPU would not run it either: mend what the message names."
    if "ExternFunction" in str(error):
        remedy = "Its code lies in another library: write it as a device function in Python."
    if _has_computed_length(str(error)):
        remedy = (
            "The lengths of shared and local arrays must be known to the compiler: write a number,"
            " 33 in place of TILE + 1, or a name that has one outside the kernel, PITCH = TILE + 1."
        )
    named = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    lines = [int(line) for file, line in named if Path(file).name == Path(code.co_filename).name]
    unknown = re.search(r"(?:name|attribute) '(\w+)'", str(error))
    if not lines and unknown:  # Numba gives no line for these
        uses = (each for each in dis.get_instructions(code) if each.argval == unknown[1])
        lines = [each.positions.lineno for each in uses if each.positions][:1]
    return UnsupportedError(
        f"Numba cannot compile {function.__name__}: {_summary(str(error))}.",
        remedy,
        code.co_filename,
        (lines[-1] if lines else None) or code.co_firstlineno,
    )


def _has_computed_length(message: str) -> bool:
    """Tell whether Numba refuses a shared or local array because a length is no constant."""
    asked = re.search(r"(?:shared|local)\.array at [^:]+:\s*>>> (.+)", message)
    return bool(asked and re.search(r"[(,=] ?u?int\d+\b", asked[1]))


def _summary(message: str) -> str:
    """Return what is wrong from one of Numba's messages, without candidates and source lines."""
    reasons = re.findall(r"^ *(?:Typing|Type|Value|RequireLiteralValue)\w*: (.+)$", message, re.M)
    reasons = [reason for reason in reasons if ".py:" not in reason]
    message = re.sub(r"^Failed in .* pipeline \(step: .*\)\n", "", message)
    message = re.split(r"There are \d+ candidate|\n *During:|\n *File |\n *raised from", message)[0]
    message = re.sub(r"Function\(<(?:built-in )?function (\S+?)(?: at 0x\w+)?>\)", r"\1", message)
    message = message.replace(">>> ", "")
    parts = [" ".join(each.split()).rstrip(".: ") for each in (message, *reasons[-1:])]
    return ": ".join(dict.fromkeys(parts))


def type_of(value: Any) -> Any:
    """Return Numba's type of a kernel argument.

    Raises
    ------
    UnsupportedError
        If a kernel cannot take it.
    """
    try:
        return typeof(value, Purpose.argument)
    except (ValueError, *_REFUSALS):
        raise UnsupportedError(
            f"A kernel cannot take an argument of type {type(value).__name__}.",
            "Pass NumPy arrays, numbers, or tuples of these.",
        ) from None
