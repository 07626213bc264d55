"""Loading somebody's file of kernels on a machine that has no GPU.

``@cuda.jit`` alone compiles at the first launch; with a signature, as in
``@cuda.jit("void(float32[:])")``, at once, for the GPU that is there. While a file is loaded here,
signatures wait as if there were none; :func:`as_declared` holds a launch to them afterwards.
"""

import contextlib
import sys
import threading
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import decorators
from numba.cuda import types as numba_types
from numba.cuda.core import sigutils
from numba.cuda.np import numpy_support

from llm_numba.errors import LLMNumbaError

_SCALARS = bool | int | float | complex | np.generic
# A file may load another one.
_patching = threading.RLock()


class KernelFileError(LLMNumbaError):
    """A file of kernels cannot be loaded, or lacks what was asked for."""


@contextlib.contextmanager
def lazy_signatures() -> Iterator[None]:
    """Let ``@cuda.jit`` with a signature wait for a launch, as it does without one.

    Decorated functions get an attribute ``declared``: for each signature, its argument types.
    Nothing is compiled, so nothing is cached or linked either.
    """
    eager = decorators.jit

    def jit(function_or_signature: Any = None, *args: Any, **options: Any) -> Any:
        options |= {"cache": False, "lto": False}
        if not _is_signature(function_or_signature):
            return eager(function_or_signature, *args, **options)
        several = isinstance(function_or_signature, list)
        signatures = function_or_signature if several else [function_or_signature]
        declared = [sigutils.normalize_signature(each)[0] for each in signatures]

        def decorate(function: Any) -> Any:
            dispatcher = eager(function, *args, **options)
            dispatcher.declared = declared
            return dispatcher

        return decorate

    with _patching:
        cuda.jit = decorators.jit = jit
        try:
            yield
        finally:
            cuda.jit = decorators.jit = eager


def load_file(path: Path) -> types.ModuleType:
    """Run a Python file as a module, with no need of a GPU and no trace in its folder.

    Modules beside the file can be imported while it runs.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    module

    Raises
    ------
    KernelFileError
        If there is no such file, or it fails.
    """
    try:
        source = path.read_bytes()
    except OSError as failure:
        raise KernelFileError(
            f"{path} cannot be read: {failure.strerror}.", "Name a Python file with a kernel."
        ) from failure
    module = types.ModuleType(f"llm_numba_file_{path.stem}")
    module.__file__ = str(path.resolve())
    # A dataclass looks its own module up by name.
    sys.modules[module.__name__] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with lazy_signatures():
            exec(compile(source, module.__file__, "exec"), module.__dict__)
    except (Exception, SystemExit) as failure:
        raise KernelFileError(
            f"{_place(failure, module.__file__)}: The file fails while it is loaded: "
            f"{describe(failure)}",
            "Mend it; what needs a GPU or begins work belongs under "
            '`if __name__ == "__main__":`, which is not run here.',
        ) from failure
    finally:
        sys.path.remove(folder)
    return module


def describe(failure: BaseException) -> str:
    """Name an exception and its message, as the last line of a traceback does."""
    return traceback.format_exception_only(failure)[-1].strip()


def as_declared(kernel: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hold a launch to the signatures that its kernel was declared with.

    Parameters
    ----------
    kernel : dispatcher
        From a file that :func:`load_file` loaded.
    args : tuple
        NumPy arrays and scalars.

    Returns
    -------
    tuple
        The arguments, scalars converted to the types of the first signature whose arrays fit; all
        of them unchanged if the kernel was declared without.

    Raises
    ------
    KernelFileError
        If no signature fits, as Numba would raise a TypeError.
    """
    declared = getattr(kernel, "declared", None)
    if declared is None:
        return args
    for kinds in declared:
        if len(kinds) == len(args) and all(map(_fits, kinds, args)):
            return tuple(map(_converted, kinds, args))
    wanted = " or ".join(f"({', '.join(map(str, kinds))})" for kinds in declared)
    given = ", ".join(
        f"{value.dtype}[{value.ndim}d]" if isinstance(value, np.ndarray) else type(value).__name__
        for value in args
    )
    raise KernelFileError(
        f"Kernel {kernel.py_func.__name__!r} is declared for {wanted} and was given ({given}).",
        "Pass arguments of the declared types, or leave the signature out.",
    )


def _is_signature(value: Any) -> bool:
    return isinstance(value, list) or sigutils.is_signature(value)


def _fits(kind: Any, value: Any) -> bool:
    if isinstance(kind, numba_types.Array):
        return (
            isinstance(value, np.ndarray)
            and value.ndim == kind.ndim
            and value.dtype == numpy_support.as_dtype(kind.dtype)
            and (kind.layout == "A" or value.flags[f"{kind.layout}_CONTIGUOUS"])
        )
    if isinstance(kind, numba_types.Number | numba_types.Boolean):
        return isinstance(value, _SCALARS)
    return not isinstance(value, _SCALARS | np.ndarray)


def _converted(kind: Any, value: Any) -> Any:
    return numpy_support.as_dtype(kind).type(value) if isinstance(value, _SCALARS) else value


def _place(failure: BaseException, file: str) -> str:
    """Return the file and the last of its lines that a failure came through."""
    if isinstance(failure, SyntaxError) and failure.filename == file:
        return f"{file}:{failure.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(failure.__traceback__)
             if frame.filename == file]  # fmt: skip
    return f"{file}:{lines[-1]}" if lines else file
