"""Launches on a GPU: Numba compiles, CuPy owns arrays and streams, the driver runs.

Numba's own launch takes more of the host's time than a small kernel takes of the GPU's: it looks up
the types of all arguments, wraps each array, and builds the launch's description anew. Here what a
kernel was compiled to is kept, and a launch is a look-up, a list of numbers, and one driver call.
"""

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import cupy
from cuda.bindings import driver
from cuda.core import ObjectCode

from llm_numba.errors import KernelArgumentError, LaunchError
from llm_numba.runtime.cubins import Cubin, cubin_cache
from llm_numba.runtime.fingerprint import fingerprint
from llm_numba.runtime.launch import Launch
from llm_numba.runtime.overlap import begins_early
from llm_numba.runtime.prepared import Form, Layout, PreparedLaunch
from llm_numba.runtime.signature import argument_key, numba_type
from llm_numba.runtime.together import must_start_together
from llm_numba.simulator.clusters import cluster_of

# What a block gets without asking, static and dynamic together; more must be granted first.
_DEFAULT_SHARED_BYTES = 48 * 1024
_TOO_MANY_TOGETHER = int(driver.CUresult.CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE)


@dataclass
class _Compiled:
    """A kernel, compiled for the types of its arguments and loaded onto one GPU."""

    kernel: Any  # cuda.core.Kernel
    layout: Layout
    cooperative: bool
    dynamic_limit: int  # bytes of dynamic shared memory that a launch may use
    registers: int  # of a thread
    local_bytes: int  # of a thread
    static_bytes: int  # of shared memory


# By dispatcher, then by device and argument keys; a kernel that is no more takes its entries along.
_compiled: weakref.WeakKeyDictionary[Any, dict[tuple, _Compiled]] = weakref.WeakKeyDictionary()

Note = Callable[[PreparedLaunch, tuple[int | None, ...], tuple[Any, ...]], None]
_note: ContextVar[Note | None] = ContextVar("note", default=None)


def launch_on_gpu(
    kernel: Any,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: tuple[Any, ...],
    shared_bytes: int,
    stream: Any,
) -> None:
    """Queue a kernel on a stream of the current GPU.

    Parameters
    ----------
    kernel : dispatcher
        A ``@cuda.jit`` kernel.
    grid, block : tuple of int
        1 to 3 axes, within the hardware's limits.
    args : tuple
        CuPy arrays on the current GPU, and scalars.
    shared_bytes : int
        Dynamic shared memory of a block.
    stream : cupy.cuda.Stream, Numba stream or None
        None is CuPy's current stream.

    Raises
    ------
    KernelArgumentError
        If an array lies on another GPU.
    LaunchError
        If the GPU has not that much shared memory for a block, or no room for all blocks of a
        kernel whose blocks wait for each other.
    """
    device = use_device()
    compiled = _load(kernel, device, args)
    if shared_bytes > compiled.dynamic_limit:
        _grant(compiled, device, shared_bytes)
    _check_place(kernel, args, device)
    early = begins_early(kernel) and _has_early_launches(device)
    together = compiled.cooperative or must_start_together(kernel)
    prepared = PreparedLaunch(
        kernel.py_func.__name__,
        compiled.kernel,
        Form(grid, block, shared_bytes, together, early, cluster_of(kernel)),
        compiled.layout,
        args,
    )
    try:
        prepared.queue(stream_handle(stream))
    except cupy.cuda.driver.CUDADriverError as error:
        if error.status != _TOO_MANY_TOGETHER:
            raise
        raise LaunchError(
            f"{math.prod(grid)} blocks of kernel {kernel.py_func.__name__!r} wait for each other, "
            f"and GPU {device} has no room for so many at a time.",
            "Launch fewer blocks, or blocks of fewer threads and less shared memory.",
        ) from error
    if note := _note.get():
        note(prepared, compiled.layout.addresses, args)


@contextlib.contextmanager
def noting(note: Note) -> Iterator[None]:
    """Show each launch to a function when it was queued.

    Holds for this thread (and asynchronous task) alone.

    Parameters
    ----------
    note : callable
        Takes the :class:`PreparedLaunch`, of each argument the slot of its address (None of
        scalars), and the arguments.
    """
    token = _note.set(note)
    try:
        yield
    finally:
        _note.reset(token)


def use_device() -> int:
    """Return the current GPU, and make it known to the driver in a thread that has not used it."""
    device = cupy.cuda.runtime.getDevice()
    cupy.cuda.runtime.setDevice(device)
    return device


def stream_handle(stream: Any = None) -> int:
    """Return CUDA's handle of a stream.

    Parameters
    ----------
    stream : cupy.cuda.Stream or Numba stream, optional
        By default CuPy's current stream.
    """
    if stream is None:
        stream = cupy.cuda.get_current_stream()
    # CuPy streams have `ptr`; those of Numba and cuda.core speak CUDA's stream protocol.
    return stream.ptr if hasattr(stream, "ptr") else stream.__cuda_stream__()[1]


def prepare_on_gpu(launch: Launch) -> None:
    """Compile the kernel of a launch, or find it in the cache, and load it; launch nothing.

    Parameters
    ----------
    launch : Launch
    """
    _load(launch.kernel, use_device(), launch.args)


def resources_on_gpu(launch: Launch) -> tuple[int, int, int]:
    """Say what the kernel of a launch takes of the current GPU, as the driver has it.

    Parameters
    ----------
    launch : Launch
        Compiled here if it was not before.

    Returns
    -------
    registers : int
        Of a thread.
    local_bytes : int
        Of a thread, in memory: arrays that found no place in registers, and spills.
    shared_bytes : int
        Of a block, static and dynamic.
    """
    compiled = _load(launch.kernel, cupy.cuda.runtime.getDevice(), launch.args)
    return compiled.registers, compiled.local_bytes, compiled.static_bytes + launch.shared_bytes


def _load(kernel: Any, device: int, args: tuple[Any, ...]) -> _Compiled:
    variants = _compiled.setdefault(kernel, {})
    key = (device, *map(argument_key, args))
    if key not in variants:
        layout = Layout(key[1:])
        signature = tuple(map(numba_type, key[1:]))
        # Different keys may share one kernel: bfloat16 and uint16, int and numpy.int64.
        if (device, signature) not in variants:
            variants[device, signature] = _prepare(kernel, signature, layout, device)
        variants[key] = variants[device, signature]
    return variants[key]


def _prepare(kernel: Any, signature: tuple[Any, ...], layout: Layout, device: int) -> _Compiled:
    cache = cubin_cache()
    key = None
    if cache is not None:
        key = fingerprint(kernel, signature, cupy.cuda.Device(device).compute_capability)
    cubin = cache.read(key) if key else None
    if cubin is not None:
        loaded = ObjectCode.from_cubin(cubin.code).get_kernel(cubin.entry)
        cooperative = cubin.cooperative
    else:
        overload = _compile(kernel, signature)
        loaded, cooperative = overload.library.get_cufunc().kernel, overload.cooperative
        if key:
            cache.write(
                key, Cubin(overload.entry_name, cooperative, overload.library.get_cubin().code)
            )
    attributes = loaded.attributes
    return _Compiled(
        loaded,
        layout,
        cooperative,
        _DEFAULT_SHARED_BYTES - attributes.shared_size_bytes,
        attributes.num_regs,
        attributes.local_size_bytes,
        attributes.shared_size_bytes,
    )


def _compile(kernel: Any, signature: tuple[Any, ...]) -> Any:
    overload = kernel.compile(signature)
    # Numba binds a kernel to the GPU that it compiled for; a second GPU must be asked for.
    overload.bind()
    return overload


def _grant(compiled: _Compiled, device: int, shared_bytes: int) -> None:
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (status,) = driver.cuKernelSetAttribute(
        attribute, shared_bytes, compiled.kernel.handle, driver.CUdevice(device)
    )
    if status != driver.CUresult.CUDA_SUCCESS:
        limit = cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]
        raise LaunchError(
            f"A block asks for {shared_bytes} bytes of dynamic shared memory.",
            f"GPU {device} gives a block {limit} bytes at most, static shared memory included.",
        )
    compiled.dynamic_limit = shared_bytes


def _check_place(kernel: Any, args: tuple[Any, ...], device: int) -> None:
    for position, value in enumerate(args):
        if isinstance(value, cupy.ndarray) and value.data.device_id != device:
            name, place = kernel.py_func.__code__.co_varnames[position], value.data.device_id
            raise KernelArgumentError(
                f"Argument {name!r} lies on GPU {place}, the current GPU is {device}.",
                f"Launch inside 'with cupy.cuda.Device({place}):', or move it.",
            )


@functools.cache
def _has_early_launches(device: int) -> bool:
    return int(cupy.cuda.Device(device).compute_capability) >= 90
