"""Launches on a GPU: Numba compiles, CuPy owns arrays and streams, the driver runs.

Numba's own launch takes more of the host's time than a small kernel takes of the GPU's: it looks up
the types of all arguments, wraps each array, and builds the launch's description anew. Here all of
that is kept from one launch to the next, and a launch is a look-up, a list of numbers, and one
driver call.
"""

import functools
import weakref
from dataclasses import dataclass
from typing import Any

import cupy
from cuda.bindings import driver
from cuda.core import LaunchConfig, ObjectCode, Stream
from cuda.core import launch as driver_launch

from llm_numba.errors import KernelArgumentError, LaunchError
from llm_numba.runtime.cubins import Cubin, cubin_cache
from llm_numba.runtime.fingerprint import fingerprint
from llm_numba.runtime.launch import Launch
from llm_numba.runtime.overlap import begins_early
from llm_numba.runtime.signature import argument_key, numba_type

# What a block gets without asking, static and dynamic together; more must be granted first.
_DEFAULT_SHARED_BYTES = 48 * 1024
# CuPy may have been built without it.
_nvtx = cupy.cuda.nvtx if hasattr(cupy.cuda.nvtx, "RangePush") else None


@dataclass
class _Compiled:
    """A kernel, compiled for the types of its arguments and loaded onto one GPU."""

    handle: Any  # cuda.core.Kernel
    cooperative: bool
    dynamic_limit: int  # bytes of dynamic shared memory that a launch may use
    registers: int  # of a thread
    local_bytes: int  # of a thread
    static_bytes: int  # of shared memory


# By dispatcher, then by device and argument keys; a kernel that is no more takes its entries along.
_compiled: weakref.WeakKeyDictionary[Any, dict[tuple, _Compiled]] = weakref.WeakKeyDictionary()


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
        If the GPU has not that much shared memory for a block.
    """
    device = cupy.cuda.runtime.getDevice()
    # Also makes the device's context current in a thread that has not used it before.
    cupy.cuda.runtime.setDevice(device)
    compiled = _load(kernel, device, args)
    if shared_bytes > compiled.dynamic_limit:
        _grant(compiled, device, shared_bytes)
    pointer = _pointer(cupy.cuda.get_current_stream() if stream is None else stream)
    early = begins_early(kernel) and _has_early_launches(device)
    config = _config(grid, block, shared_bytes, compiled.cooperative, early)
    parameters = _parameters(kernel, args, device)
    if _nvtx:
        _nvtx.RangePush(kernel.py_func.__name__)
    try:
        driver_launch(_stream(device, pointer), config, compiled.handle, *parameters)
    finally:
        if _nvtx:
            _nvtx.RangePop()


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
        signature = tuple(map(numba_type, key[1:]))
        # Different keys may share one kernel: bfloat16 and uint16, int and numpy.int64.
        if (device, signature) not in variants:
            variants[device, signature] = _prepare(kernel, signature, device)
        variants[key] = variants[device, signature]
    return variants[key]


def _prepare(kernel: Any, signature: tuple[Any, ...], device: int) -> _Compiled:
    cache = cubin_cache()
    key = None
    if cache is not None:
        key = fingerprint(kernel, signature, cupy.cuda.Device(device).compute_capability)
    cubin = cache.read(key) if key else None
    if cubin is not None:
        handle = ObjectCode.from_cubin(cubin.code).get_kernel(cubin.entry)
        cooperative = cubin.cooperative
    else:
        overload = _compile(kernel, signature)
        handle, cooperative = overload.library.get_cufunc().kernel, overload.cooperative
        if key:
            cache.write(
                key, Cubin(overload.entry_name, cooperative, overload.library.get_cubin().code)
            )
    attributes = handle.attributes
    return _Compiled(
        handle,
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
        attribute, shared_bytes, compiled.handle.handle, driver.CUdevice(device)
    )
    if status != driver.CUresult.CUDA_SUCCESS:
        limit = cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]
        raise LaunchError(
            f"A block asks for {shared_bytes} bytes of dynamic shared memory.",
            f"GPU {device} gives a block {limit} bytes at most, static shared memory included.",
        )
    compiled.dynamic_limit = shared_bytes


def _parameters(kernel: Any, args: tuple[Any, ...], device: int) -> list[Any]:
    """Lay arguments out as a compiled kernel takes them."""
    parameters = []
    for position, value in enumerate(args):
        if not isinstance(value, cupy.ndarray):
            parameters.append(value)
            continue
        memory = value.data
        if memory.device_id != device:
            name = kernel.py_func.__code__.co_varnames[position]
            raise KernelArgumentError(
                f"Argument {name!r} lies on GPU {memory.device_id}, the current GPU is {device}.",
                f"Launch inside 'with cupy.cuda.Device({memory.device_id}):', or move it.",
            )
        # The first two are Numba's reference counts, which a GPU has no use for.
        parameters += (0, 0, value.size, value.itemsize, memory.ptr, *value.shape, *value.strides)
    return parameters


def _pointer(stream: Any) -> int:
    # CuPy streams have `ptr`; those of Numba and cuda.core speak CUDA's stream protocol.
    return stream.ptr if hasattr(stream, "ptr") else stream.__cuda_stream__()[1]


@functools.lru_cache(maxsize=64)
def _stream(device: int, pointer: int) -> Stream:
    return Stream.from_handle(pointer)


@functools.lru_cache(maxsize=1024)
def _config(
    grid: tuple[int, ...],
    block: tuple[int, ...],
    shared_bytes: int,
    cooperative: bool,
    early: bool,
) -> LaunchConfig:
    options = {"is_cooperative": True} if cooperative else {}
    if early:
        options["programmatic_stream_serialization"] = True
    return LaunchConfig(grid=grid, block=block, shmem_size=shared_bytes, **options)


@functools.cache
def _has_early_launches(device: int) -> bool:
    return int(cupy.cuda.Device(device).compute_capability) >= 90
