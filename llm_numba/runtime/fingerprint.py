"""What a compiled kernel depends on, as one number.

Machine code may be used again as long as nothing has changed that went into it. For a kernel in
Python these are

- the bytecode and the constants of its function, and the options of ``@cuda.jit``;
- what its closure holds: constants that a factory chose, device functions it was given;
- the globals that it names, constants and device functions, and what those name in their turn;
- of intrinsics, which write LLVM as they please, their source file, and those beside it that it
  imports, directly or not;
- the types of its arguments and the GPU's compute capability;
- Python, Numba and NumPy, NVIDIA's compilers, the driver, and Numba's settings.

All of it is walked in a fixed order into one hash. Names of local variables, comments and line
numbers are left out, except where line information is asked for. An object that the walk does not
know makes the kernel one without a fingerprint: it is compiled anew by each process, and never
mistaken for another. So does a device function whose globals have changed in this process: Numba
may have compiled it before.
"""

import ast
import dis
import functools
import hashlib
import re
import struct
import sys
import sysconfig
import weakref
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from numba.cuda import types
from numba.cuda.cudadrv.libs import get_cudalib
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.extending import _Intrinsic

from llm_numba import variables

# Their versions stand for all that is in them.
_PACKAGES = ("numba", "numba-cuda", "llvmlite", "numpy", "ml_dtypes", "cuda-bindings", "cuda-core")
_VERSIONED = {name.replace("-", "_") for name in _PACKAGES} | {"cuda"}
_COMPILERS = ("nvvm", "nvJitLink", "nvrtc")
_ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
_NOTES = 4  # a program header's kind
# Lengths of name and number (a SHA-1), the note's kind, its name; the number.
_BUILD_ID = re.compile(rb"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0(.{20})", re.DOTALL)
_STANDARD = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
_SCALARS = (bool, int, float, complex, str, bytes, type(None), type(...), np.generic, np.dtype)


def fingerprint(kernel: Any, signature: tuple[Any, ...], capability: str) -> str | None:
    """Name the machine code of a kernel by all that it depends on.

    Parameters
    ----------
    kernel : dispatcher
        A ``@cuda.jit`` kernel.
    signature : tuple of numba types
        Of its arguments.
    capability : str
        The GPU's compute capability.

    Returns
    -------
    str or None
        64 hexadecimal digits; None if something that the kernel names is of an unknown kind, or a
        device function that it calls may have been compiled with other globals.
    """
    walk = _Walk()
    try:
        walk.add(kernel)
    except _UnknownKindError:
        return None
    walk.text(repr(signature), capability, environment())
    return walk.digest()


@functools.cache
def environment() -> str:
    """Describe what compiles in this process: versions, compilers, the driver, settings."""
    parts = [sys.implementation.cache_tag]
    for name in _PACKAGES:
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            parts.append(f"{name} unknown")
    parts += [_library(name) for name in _COMPILERS]
    parts.append(f"driver {_driver_version()}")
    parts += sorted(f"{k}={v}" for k, v in variables.beginning_with("NUMBA_").items())
    return "\n".join(parts)


def _library(name: str) -> str:
    # By its build: the version that NVVM states of itself has not changed in years. And not by its
    # place: which of several copies is loaded, and so compiles, depends on what was imported first.
    from cuda import pathfinder

    try:
        if name == "nvvm":  # Numba looks for it in more places
            path = Path(get_cudalib(name))
        else:
            path = Path(pathfinder.load_nvidia_dynamic_lib(name).abs_path)
        return f"{name} {_build_id(path) or _state_of(path)}"
    except (pathfinder.DynamicLibNotFoundError, OSError, TypeError):
        return f"{name} unknown"


def _state_of(path: Path) -> str:
    path = path.resolve()
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _build_id(path: Path) -> str | None:
    """Read what a linker noted in a library to tell builds apart; None if there is no such note.

    Source: "ELF-64 Object File Format", program header table; ``ld --build-id``.
    """
    with path.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or not header.startswith(_ELF64_LITTLE_ENDIAN):
            return None
        (table,) = struct.unpack_from("<Q", header, 32)
        entry_bytes, count = struct.unpack_from("<HH", header, 54)
        for number in range(count):
            file.seek(table + number * entry_bytes)
            kind, _, begin, _, _, num_bytes = struct.unpack("<IIQQQQ", file.read(40))
            if kind == _NOTES:
                file.seek(begin)
                if found := _BUILD_ID.search(file.read(num_bytes)):
                    return found[1].hex()
    return None


def _driver_version() -> int | None:
    from cuda.bindings import driver

    try:
        return driver.cuDriverGetVersion()[1]
    except RuntimeError:  # there is no driver's library
        return None


class _UnknownKindError(Exception):
    """The walk came to an object whose effect on machine code nobody can tell."""


class _Walk:
    """A hash of objects and of all that they refer to; cycles end where they close."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._numbers: dict[int, int] = {}
        self._held: list[Any] = []  # what is gone could share its identity with what comes

    def digest(self) -> str:
        return self._hash.hexdigest()

    def text(self, *parts: str) -> None:
        # Lengths keep neighbours apart.
        for part in parts:
            data = part.encode()
            self._hash.update(b"%d:" % len(data))
            self._hash.update(data)

    def add(self, value: Any) -> None:
        if isinstance(value, _SCALARS):
            self.text(type(value).__name__, repr(value))
        elif isinstance(value, types.Type):
            self.text("type", repr(value))
        elif isinstance(value, tuple | list):
            # Of a named tuple the names say which item a kernel means.
            names = getattr(value, "_fields", ())
            self.text(type(value).__name__, str(len(value)), *names)
            for item in value:
                self.add(item)
        elif isinstance(value, frozenset):
            self.text("frozenset", *sorted(map(repr, value)))
        elif isinstance(value, dict):
            self.text("dict", str(len(value)))
            for key in sorted(value, key=str):
                self.add(key)
                self.add(value[key])
        elif isinstance(value, np.ndarray):
            self.text("array", repr(value.dtype), repr(value.shape), value.tobytes().hex())
        elif isinstance(value, CodeType):
            self._code(value)
        elif _is_versioned(value):
            self.text("versioned", f"{value.__name__} of {getattr(value, '__module__', '')}")
        else:
            self._once(value)

    def _once(self, value: Any) -> None:
        """Take in what may refer to itself, or be referred to often."""
        if (number := self._numbers.get(id(value))) is not None:
            self.text("again", str(number))
            return
        self._numbers[id(value)] = len(self._numbers)
        self._held.append(value)
        if isinstance(value, CUDADispatcher):
            if value.targetoptions.get("device") and _has_changed(value):
                raise _UnknownKindError(type(value))
            self.text("dispatcher")
            self.add(value.targetoptions)
            self._function(value.py_func, lines=bool(value.targetoptions.get("lineinfo")))
        elif isinstance(value, _Intrinsic):
            source = Path(value._defn.__code__.co_filename)
            self.text("intrinsic", value._name, _sources(source))
            # Its globals are in those files, and objects of LLVM among them.
            self._function(value._defn, with_globals=False)
        elif isinstance(value, FunctionType):
            self._function(value)
        else:
            raise _UnknownKindError(type(value))

    def _function(
        self, function: FunctionType, lines: bool = False, with_globals: bool = True
    ) -> None:
        code = function.__code__
        self._code(code, function.__doc__)
        if lines:
            self.text(code.co_filename, repr(list(code.co_positions())))
        self.add(function.__defaults__)
        for cell in function.__closure__ or ():
            self.add(cell.cell_contents)
        if with_globals:
            for path in _global_names(code):
                self._global(function.__globals__, *path)

    def _global(self, scope: dict[str, Any], name: str, *attributes: str) -> None:
        """Take in a global, or of a module what is looked up in it."""
        self.text("global", name, *attributes)
        if name in scope:  # or else a builtin
            self.add(_looked_up(scope, name, *attributes))

    def _code(self, code: CodeType, docstring: str | None = None) -> None:
        self.text("code", code.co_code.hex(), str(code.co_flags), str(code.co_argcount))
        # Of local variables only the number: their names are for people, and so is the docstring.
        self.text(str(len(code.co_varnames)), *code.co_names, *code.co_freevars)
        described = docstring is not None and code.co_consts[:1] == (docstring,)
        self.add(code.co_consts[described:])


def _looked_up(scope: dict[str, Any], name: str, *attributes: str) -> Any:
    """Return a global, or of a module what is looked up in it; None for a builtin."""
    value = scope.get(name)
    for attribute in attributes:
        if not isinstance(value, ModuleType) or _is_versioned(value):
            break
        value = getattr(value, attribute)
    return value


# What the globals of each device function were when a kernel that calls it was first compiled.
_globals_of: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()


def _has_changed(function: Any) -> bool:
    """Whether a device function's globals are others than they were.

    Numba keeps what it compiled a device function to, with their old values, as long as the
    process lives. A kernel that calls it is of both times.
    """
    scope = function.py_func.__globals__
    now = [_looked_up(scope, *path) for path in _global_names(function.py_func.__code__)]
    return any(a is not b for a, b in zip(_globals_of.setdefault(function, now), now, strict=True))


@functools.cache
def _global_names(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """Return the globals that a function reads, each with the attributes read of it in a row."""
    found: dict[tuple[str, ...], None] = {}
    path: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        if path and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            path = (*path, instruction.argval)
            continue
        if path:
            found[path] = None
        path = (instruction.argval,) if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") else ()
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= dict.fromkeys(_global_names(inner))
    return tuple(found)


def _is_versioned(value: Any) -> bool:
    """Whether a module, class or function is Python's, or of a package whose version counts."""
    if not hasattr(value, "__name__") or isinstance(value, CUDADispatcher | _Intrinsic):
        return False
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    top = (home or "").partition(".")[0]
    return top in _VERSIONED or _is_standard(top)


@functools.cache
def _is_standard(name: str) -> bool:
    """Whether a module is Python's own, and not somebody's who gave it such a name."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or name not in sys.stdlib_module_names:
        return False
    if spec.origin in (None, "built-in", "frozen"):
        return True
    path = Path(spec.origin)
    return any(map(path.is_relative_to, _STANDARD)) and "site-packages" not in path.parts


@functools.cache
def _sources(path: Path) -> str:
    """Digest a Python file, and those beside it that it imports, directly or not."""
    found, waiting = {path}, [path]
    while waiting:
        new = _imported_beside(waiting.pop()) - found
        found |= new
        waiting += new
    digest = hashlib.sha256()
    for each in sorted(found):
        digest.update(hashlib.sha256(each.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def _imported_beside(path: Path) -> frozenset[Path]:
    """Find the files beside a file that bear the name of something that it imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in node.names}
    files = (path.with_name(f"{name.rpartition('.')[2]}.py") for name in names)
    return frozenset(each for each in files if each.exists())
