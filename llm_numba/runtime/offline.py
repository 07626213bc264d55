"""What a kernel compiles to, and what it takes of a GPU, found out without one.

Numba and NVVM write PTX for any compute capability, and ``ptxas`` assembles it and reports
registers, shared memory and spills. Both come as wheels: ``pip install 'llm-numba[ptx]'``. Where
nvJitLink is installed, as on most machines with a GPU, Numba optimises once more while linking;
its registers may differ by a few from these.
"""

import contextlib
import functools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

from numba import cuda
from numba.cuda import compiler, dispatcher
from numba.cuda.core.compiler_lock import global_compiler_lock

from llm_numba.errors import CompileError, DependencyError
from llm_numba.runtime.launch import Launch
from llm_numba.runtime.signature import argument_key, numba_type

Capability = tuple[int, int] | tuple[int, int, str]

_OPCODE = re.compile(r"^\s*(?:@!?%\w+\s+)?(?P<opcode>[a-z][\w.:]*)\s")
_LOCATION = re.compile(r"^\s*\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)")
_FILE = re.compile(r'^\s*\.file\s+(?P<number>\d+)\s+"(?P<path>[^"]*)"', re.MULTILINE)
_STACK = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads"
)
_USED = re.compile(r"Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?")

# The least capability that this package is for.
_LEAST = (7, 5)


class Float64(NamedTuple):
    """An instruction that computes in float64.

    Attributes
    ----------
    instruction : str
        As in the PTX.
    file : str or None
    line : int or None
        The kernel's source line; of a device function's instructions, the line of the call.
    """

    instruction: str
    file: str | None
    line: int | None


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes of a GPU.

    Attributes
    ----------
    kernel : str
        Its name.
    signature : str
        Types of its arguments, as Numba writes them.
    capability : str
        Compute capability, "9.0a".
    registers : int
        Of a thread.
    shared_bytes : int
        Of a block, static and dynamic.
    stack_bytes : int
        Of a thread, in local memory: arrays that found no place in registers, and spills.
    spill_stores, spill_loads : int
        Bytes that a thread moves to local memory and back for want of registers.
    float64 : tuple of Float64
        Instructions that compute in float64, which most GPUs do at 1/64 of the speed of float32.
    """

    kernel: str
    signature: str
    capability: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_stores: int
    spill_loads: int
    float64: tuple[Float64, ...]


@functools.cache
def compiler_problem() -> str | None:
    """Say why kernels cannot be compiled and assembled here, or return None if they can."""
    try:
        assemble(compile_to_ptx(_nothing, (), (7, 5)), (7, 5))
    except DependencyError as error:
        return str(error)
    return None


@cuda.jit
def _nothing() -> None:
    pass


def signature_of(launch: Launch) -> tuple[Any, ...]:
    """Return the Numba types that a kernel is compiled for when it is launched.

    Parameters
    ----------
    launch : Launch
        Its arguments may be NumPy arrays, too.

    Returns
    -------
    tuple of numba types
    """
    return tuple(numba_type(argument_key(value)) for value in launch.args)


def compile_to_ptx(
    kernel: Any, signature: tuple[Any, ...], capability: Capability, *, line_info: bool = False
) -> str:
    """Compile a kernel without a GPU.

    Parameters
    ----------
    kernel : dispatcher
        A ``@cuda.jit`` kernel; its options hold.
    signature : tuple of numba types
        Of its arguments.
    capability : tuple of int
        ``(9, 0)``, or ``(9, 0, "a")`` with the instructions of that architecture alone.
    line_info : bool
        Whether to note the source lines.

    Returns
    -------
    str
        PTX.

    Raises
    ------
    DependencyError
        If NVVM or NVRTC is not installed.
    """
    try:
        library = _lowered(kernel, signature, line_info)
        with global_compiler_lock:
            return library.get_asm_str(cc=capability)
    except RuntimeError as error:
        # The loader's own class of exception lies in a package that may be of any version.
        if "libnvrtc" in str(error) or "libnvvm" in str(error):
            raise _missing("NVVM or NVRTC, which compile kernels, are") from error
        raise


@functools.lru_cache(maxsize=64)
def _lowered(kernel: Any, signature: tuple[Any, ...], line_info: bool) -> Any:
    """Return a kernel in NVVM's language, which is the same for every capability.

    Numba has nothing to choose between two GPUs from 7.5 on. Our own instructions leave it to NVVM
    (:mod:`llm_numba.kernels.ptx.target`).
    """
    options = kernel.targetoptions
    with _pretended():
        # What `cuda.compile_ptx` does before it has NVVM write for one capability.
        library, _ = compiler._compile_pyfunc_with_fixup(
            kernel.py_func,
            signature,
            lineinfo=line_info,
            device=False,
            fastmath=options["fastmath"],
            cc=_LEAST,
            opt=options["opt"],
            abi="numba",
            launch_bounds=options["launch_bounds"],
        )
    return library


def resources(launch: Launch, capability: Capability) -> Resources:
    """Compile and assemble the kernel of a launch, and say what it takes.

    Parameters
    ----------
    launch : Launch
        Gives the kernel, the types of its arguments, and its dynamic shared memory.
    capability : tuple of int
        ``(9, 0)`` or ``(9, 0, "a")``.

    Returns
    -------
    Resources

    Raises
    ------
    DependencyError
        If NVVM, NVRTC or ptxas is not installed.
    CompileError
        If ptxas refuses the PTX: an instruction that the capability lacks, for one.
    """
    kernel, signature = launch.kernel, signature_of(launch)
    ptx = compile_to_ptx(kernel, signature, capability)
    float64 = find_float64(ptx)
    if float64:  # where it comes from costs a second compilation
        float64 = find_float64(compile_to_ptx(kernel, signature, capability, line_info=True))
    log = assemble(ptx, capability, kernel.targetoptions.get("max_registers"))
    functions = [list(map(int, found)) for found in _STACK.findall(log)]
    used = [(int(registers), int(shared or 0)) for registers, shared in _USED.findall(log)]
    stack, stores, loads = map(sum, zip(*functions, strict=True))
    return Resources(
        kernel=kernel.py_func.__name__,
        signature=", ".join(map(str, signature)),
        capability=capability_name(capability),
        registers=max(registers for registers, _ in used),
        shared_bytes=max(shared for _, shared in used) + launch.shared_bytes,
        stack_bytes=stack,
        spill_stores=stores,
        spill_loads=loads,
        float64=float64,
    )


def find_float64(ptx: str) -> tuple[Float64, ...]:
    """Find the instructions that compute in float64.

    Parameters
    ----------
    ptx : str
        With line information, if lines are wanted.

    Returns
    -------
    tuple of Float64
    """
    files = {found["number"]: found["path"] for found in _FILE.finditer(ptx)}
    found, file, line = [], None, None
    for text in ptx.splitlines():
        if location := _LOCATION.match(text):
            file, line = files.get(location["file"]), int(location["line"])
        elif (match := _OPCODE.match(text)) and ".f64" in match["opcode"]:
            found.append(Float64(" ".join(text.split()), file, line))
    return tuple(found)


def assemble(ptx: str, capability: Capability, max_registers: int | None = None) -> str:
    """Assemble PTX with ptxas.

    Parameters
    ----------
    ptx : str
    capability : tuple of int
        As compiled for.
    max_registers : int, optional
        A limit that the kernel asks for.

    Returns
    -------
    str
        The log, with the resources of each function.

    Raises
    ------
    DependencyError
        If ptxas is not installed.
    CompileError
        If ptxas refuses the PTX.
    """
    from cuda import pathfinder

    ptxas = pathfinder.find_nvidia_binary_utility("ptxas")
    if ptxas is None:
        raise _missing("ptxas, which assembles kernels, is")
    options = [f"-maxrregcount={max_registers}"] if max_registers else []
    if ".extern .func" in ptx:
        # Numba links what it wrote in CUDA C++, cooperative groups for one, at the launch only.
        options.append("--compile-only")
    with TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        arch = f"-arch=sm_{capability_name(capability).replace('.', '')}"
        command = [
            ptxas,
            "-v",
            arch,
            *options,
            str(source),
            "-o",
            str(Path(folder, "kernel.cubin")),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    log = done.stdout + done.stderr
    if done.returncode:
        raise CompileError(
            f"ptxas refuses the kernel for compute capability {capability_name(capability)}: "
            f"{log.strip()}",
            "Compile it for the capability that it states, or change the instruction.",
        )
    return log


def capability_name(capability: Capability) -> str:
    """Write a compute capability as NVIDIA does: "9.0", "9.0a".

    Parameters
    ----------
    capability : tuple of int
    """
    major, minor, *suffix = capability
    return f"{major}.{minor}{''.join(suffix)}"


@contextlib.contextmanager
def _pretended() -> Iterator[None]:
    """Let Numba believe that there is a device.

    Device functions are compiled when the kernel that calls them is, and ask the device.
    """
    stand_in = SimpleNamespace(compute_capability=_LEAST)
    with global_compiler_lock:  # what is replaced is a global of one of Numba's modules
        real = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: stand_in
        try:
            yield
        finally:
            dispatcher.get_current_device = real


def _missing(what: str) -> DependencyError:
    return DependencyError(f"{what} not installed.", "Install it: pip install 'llm-numba[ptx]'.")
