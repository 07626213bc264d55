"""The one seam between a launcher and what runs the kernel.

Launchers in ``llm_numba.kernels`` choose grid, block and shared memory; :func:`launch` alone knows
whether a GPU or the simulator runs them, and goes by where the arrays lie.
"""

import contextlib
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import numpy as np

from llm_numba.errors import DeviceError, KernelArgumentError, LaunchError
from llm_numba.runtime.arrays import kernel_view, kind_of
from llm_numba.runtime.device import kernel_device, simulation_requested
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.tensor_maps import TensorMap

# What every CUDA device of compute capability 5.0 and later allows.
_MAX_THREADS = 1024
_MAX_BLOCK = (1024, 1024, 64)
_MAX_GRID = (2**31 - 1, 65535, 65535)
# The driver refuses what is too much for its own device.
_MAX_SHARED_BYTES = max(sm.block_shared_bytes for sm in LIMITS.values())

_BY_VALUE = (int, float, complex, np.generic, TensorMap)
_PLACES = {"cuda": "on the GPU", "sim": "in the simulator", "host": "in the host's memory"}


class Launch(NamedTuple):
    """One kernel launch, ready to run on a GPU or in the simulator.

    Attributes
    ----------
    kernel : dispatcher
        A ``@cuda.jit`` kernel.
    grid, block : tuple of int
        Blocks in the grid and threads in a block, 1 to 3 axes.
    args : tuple
        Arrays, scalars and tensor maps, in the kernel's order.
    shared_bytes : int
        Dynamic shared memory of a block.
    """

    kernel: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: tuple[Any, ...]
    shared_bytes: int = 0


_interceptor: ContextVar[Callable[[Launch], None] | None] = ContextVar("interceptor", default=None)


def launch(
    kernel: Any,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    args: tuple[Any, ...],
    shared_bytes: int = 0,
    stream: Any = None,
) -> None:
    """Run a kernel where its arrays lie: on the GPU, or in the simulator.

    On the GPU the kernel is queued and the call returns; nothing waits for it. The first launch
    with arguments of new types compiles, which takes a second or so and is not allowed while a
    CUDA graph is being captured: launch once before the capture. The simulator has run the kernel
    when the call returns.

    Parameters
    ----------
    kernel : dispatcher
        A ``@cuda.jit`` kernel.
    grid, block : int or tuple of int
        Blocks in the grid and threads in a block, 1 to 3 axes. An empty grid launches nothing.
    args : tuple
        CuPy arrays, or arrays of the simulated device, scalars, and tensor maps. A kernel sees
        bfloat16 as uint16. NumPy arrays are allowed if the environment sets ``LLM_NUMBA_SIM=1``.
    shared_bytes : int
        Dynamic shared memory of a block.
    stream : cupy.cuda.Stream or Numba stream, optional
        By default CuPy's current stream. The simulator has none.

    Raises
    ------
    LaunchError
        If grid, block or shared memory exceed the hardware's limits, or the number of arguments is
        not the kernel's.
    KernelArgumentError
        If arrays lie on different devices, or an argument is neither array nor number.
    DeviceError
        If there are NumPy arrays only and no wish for the simulator, or there are no arrays at all
        and no GPU.
    SimulationError
        If the simulator finds a fault.
    """
    if not hasattr(kernel, "py_func"):
        raise LaunchError(
            f"{kernel!r} is not a kernel.", "Decorate the function with @cuda.jit, and pass it."
        )
    grid = _lengths("grid", grid, _MAX_GRID)
    block = _lengths("block", block, _MAX_BLOCK)
    _check_block(block, shared_bytes)
    if 0 in grid:
        return
    _check_count(kernel, args)
    if callback := _interceptor.get():
        callback(Launch(kernel, grid, block, tuple(args), shared_bytes))
        return
    if _device_of(kernel, args) == "cuda":
        from llm_numba.runtime.gpu import launch_on_gpu

        launch_on_gpu(kernel, grid, block, args, shared_bytes, stream)
    else:
        from llm_numba.simulator import simulate

        arrays = [np.asarray(kernel_view(a)) if isinstance(a, np.ndarray) else a for a in args]
        simulate(kernel, grid, block, tuple(arrays), shared_bytes, explain=False)


def launch_all(launches: Iterable[Launch], stream: Any = None) -> None:
    """Run launches one after another.

    Parameters
    ----------
    launches : iterable of Launch
        In order; on a GPU they share one stream.
    stream : cupy.cuda.Stream or Numba stream, optional
        As of :func:`launch`.
    """
    for item in launches:
        launch(*item, stream=stream)


@contextlib.contextmanager
def intercept(callback: Callable[[Launch], None]) -> Iterator[None]:
    """Hand each launch to a function in place of running it.

    So the microscope looks into a launcher that it knows nothing about. Holds for this thread (and
    asynchronous task) alone.

    Parameters
    ----------
    callback : callable
        Takes a :class:`Launch`, its arguments as the launcher passed them; empty grids never come.
    """
    token = _interceptor.set(callback)
    try:
        yield
    finally:
        _interceptor.reset(token)


@contextlib.contextmanager
def compiling_only() -> Iterator[None]:
    """Compile what launches need, and let none of them run; in the simulator do neither.

    Arrays that they would write stay as they are. Holds for this thread (and asynchronous task)
    alone.
    """
    with intercept(_compile):
        yield


def _compile(item: Launch) -> None:
    if _device_of(item.kernel, item.args) == "cuda":
        from llm_numba.runtime.gpu import prepare_on_gpu

        prepare_on_gpu(item)


def intercepted() -> bool:
    """Tell whether launches are handed to somebody, and do not run."""
    return _interceptor.get() is not None


def _lengths(name: str, lengths: int | tuple[int, ...], limits: tuple[int, ...]) -> tuple[int, ...]:
    try:
        axes = tuple(map(operator.index, lengths if isinstance(lengths, tuple) else (lengths,)))
    except TypeError:
        raise LaunchError(
            f"The {name} is {lengths!r}.", "It must be an integer or a tuple of 1 to 3 integers."
        ) from None
    if not 1 <= len(axes) <= 3:
        raise LaunchError(f"The {name} {axes} has {len(axes)} axes.", "It must have 1 to 3.")
    for axis, length, limit in zip("xyz", axes, limits, strict=False):
        if not 0 <= length <= limit:
            raise LaunchError(
                f"The {name} {axes} is {length} long along {axis}.",
                f"CUDA allows 0 to {limit} there.",
            )
    return axes


def _check_block(block: tuple[int, ...], shared_bytes: int) -> None:
    threads = math.prod(block)
    if not 1 <= threads <= _MAX_THREADS:
        raise LaunchError(
            f"The block {block} has {threads} threads.", f"CUDA allows 1 to {_MAX_THREADS}."
        )
    if not 0 <= shared_bytes <= _MAX_SHARED_BYTES:
        raise LaunchError(
            f"A block asks for {shared_bytes} bytes of dynamic shared memory.",
            f"No GPU gives a block more than {_MAX_SHARED_BYTES}.",
        )


def _check_count(kernel: Any, args: tuple[Any, ...]) -> None:
    code = kernel.py_func.__code__
    if len(args) != code.co_argcount and not code.co_flags & inspect.CO_VARARGS:
        names = ", ".join(code.co_varnames[: code.co_argcount])
        raise LaunchError(
            f"Kernel {_name(kernel)} was given {len(args)} arguments.",
            f"It takes {code.co_argcount}: {names}.",
        )


def _device_of(kernel: Any, args: tuple[Any, ...]) -> Literal["cuda", "sim"]:
    """Decide by the arrays where a kernel runs."""
    kinds = {kind_of(value) for value in args if not isinstance(value, _BY_VALUE)}
    if None in kinds:
        raise _no_argument(kernel, args)
    if "host" in kinds and simulation_requested():
        kinds = kinds - {"host"} | {"sim"}
    if not kinds:
        return kernel_device()
    if len(kinds) > 1:
        raise _mixed(kernel, args)
    if "host" in kinds:
        raise DeviceError(
            f"Kernel {_name(kernel)} was given NumPy arrays, which lie in the host's memory.",
            "Copy them to a device with runtime.to_device, or set LLM_NUMBA_SIM=1 to run the "
            "kernel in the simulator.",
        )
    return kinds.pop()


def _no_argument(kernel: Any, args: tuple[Any, ...]) -> KernelArgumentError:
    name, value = next(
        (name, value)
        for name, value in _named(kernel, args)
        if kind_of(value) is None and not isinstance(value, _BY_VALUE)
    )
    return KernelArgumentError(
        f"Argument {name!r} of kernel {_name(kernel)} is of type {type(value).__name__}.",
        "It must be a number or an array: CuPy's (cupy.asarray shares the memory of others), or "
        "one that runtime.to_device made.",
    )


def _mixed(kernel: Any, args: tuple[Any, ...]) -> KernelArgumentError:
    arrays = [(name, kind) for name, value in _named(kernel, args) if (kind := kind_of(value))]
    first, wanted = next(((n, k) for n, k in arrays if k != "host"))
    name, kind = next((n, k) for n, k in arrays if k != wanted)
    return KernelArgumentError(
        f"Argument {name!r} of kernel {_name(kernel)} lies {_PLACES[kind]}, but {first!r} lies "
        f"{_PLACES[wanted]}.",
        f"{name!r} must lie {_PLACES[wanted]} too: use runtime.to_device.",
    )


def _named(kernel: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    names = kernel.py_func.__code__.co_varnames
    return zip(names, args, strict=False)


def _name(kernel: Any) -> str:
    return repr(kernel.py_func.__name__)
