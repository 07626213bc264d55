"""A launch as the driver takes it: grid and block, a function, and an address for each argument.

To describe a launch takes the host longer than to queue it. So the description is an object of its
own: made once, and queued as often as one likes.
"""

import functools
import struct
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np
from cuda.bindings import driver

from llm_numba.errors import KernelArgumentError
from llm_numba.runtime.tensor_maps import WORDS, TensorMap

_SLOT_BYTES = 8
# By the kind and size of a number, as NumPy writes them: its letter in a struct's format.
_LETTERS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
# CuPy may have been built without it.
_nvtx = cupy.cuda.nvtx if hasattr(cupy.cuda.nvtx, "RangePush") else None


class Layout:
    """What lies where in the arguments of a compiled kernel.

    Numba passes an array as a row of numbers: two reference counts, which a GPU has no use for, the
    number of elements, the bytes of one, the address, the shape, the strides. Each number, and each
    scalar, gets a slot of 8 bytes here. A tensor map is one parameter of 16 slots.

    Parameters
    ----------
    keys : sequence
        What :func:`~llm_numba.runtime.signature.argument_key` says of each argument.

    Attributes
    ----------
    addresses : tuple of (int or None)
        Of each argument the slot of its address, or the first of a tensor map; None of scalars.
    parameters : tuple of int
        Of each of the kernel's parameters its first slot.

    Raises
    ------
    KernelArgumentError
        If an argument is no real number.
    """

    def __init__(self, keys: Sequence[tuple[np.dtype, int, str] | type]) -> None:
        letters: list[str] = []
        addresses: list[int | None] = []
        parameters: list[int] = []
        for key in keys:
            begin = len(letters)
            if key is TensorMap:
                letters += "q" * WORDS
                addresses.append(begin)
                parameters.append(begin)
                continue
            addresses.append(None if isinstance(key, type) else begin + 4)
            letters += [_letter(key)] if isinstance(key, type) else "q" * (5 + 2 * key[1])
            parameters += range(begin, len(letters))
        self.addresses, self.parameters = tuple(addresses), tuple(parameters)
        padded = (f"{each}{_SLOT_BYTES - struct.calcsize(each)}x" for each in letters)
        self._struct = struct.Struct("<" + "".join(padded))

    def slots(self, args: Sequence[Any]) -> "array[int]":
        """Lay arguments out.

        Parameters
        ----------
        args : sequence
            Of the types that the layout was made for.

        Returns
        -------
        array of int64
        """
        numbers: list[Any] = []
        for value, address in zip(args, self.addresses, strict=True):
            if address is None:
                numbers.append(value)
            elif isinstance(value, TensorMap):
                numbers += value.words()
            else:
                numbers += (0, 0, value.size, value.itemsize, value.data.ptr)
                numbers += (*value.shape, *value.strides)
        return array("q", self._struct.pack(*numbers))


class Form(NamedTuple):
    """How a launch fills the GPU.

    Attributes
    ----------
    grid, block : tuple of int
        1 to 3 axes.
    shared_bytes : int
        Dynamic shared memory of a block.
    cooperative : bool
        All blocks at once, so that they can wait for each other.
    early : bool
        Before the kernel in front of it has ended, see :mod:`llm_numba.runtime.overlap`.
    cluster : int
        Blocks along x that reach each other's shared memory; 1 if none do.
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int
    cooperative: bool
    early: bool
    cluster: int


class PreparedLaunch:
    """A launch that can be queued any number of times.

    Parameters
    ----------
    name : str
        The kernel's, for profilers.
    kernel : cuda.core.Kernel
        Compiled and loaded; it stays so as long as this lives.
    form : Form
    layout : Layout
    args : sequence
        CuPy arrays, tensor maps and scalars. The arrays are not kept alive.

    Attributes
    ----------
    slots : array of int64
        The arguments. Who writes other addresses there has the next launch find other arrays.
    """

    def __init__(
        self, name: str, kernel: Any, form: Form, layout: Layout, args: Sequence[Any]
    ) -> None:
        self.slots = layout.slots(args)
        self._name, self._form, self._kernel = name, form, kernel
        self._configs: dict[int, driver.CUlaunchConfig] = {}  # by stream: to hash a form takes long
        self._function = int(kernel.handle)
        # The driver wants the address of a list of addresses, one for each argument.
        begin, _ = self.slots.buffer_info()
        self._list = array("q", [begin + _SLOT_BYTES * slot for slot in layout.parameters])
        self._address, _ = self._list.buffer_info()

    def queue(self, stream: int) -> None:
        """Queue the kernel.

        Parameters
        ----------
        stream : int
            CUDA's handle of it.

        Raises
        ------
        CUDADriverError
            CuPy's, if the driver refuses.
        """
        config = self._configs.get(stream)
        if config is None:
            config = self._configs[stream] = _config(self._form, stream)
        if _nvtx:
            _nvtx.RangePush(self._name)
        try:
            (status,) = driver.cuLaunchKernelEx(config, self._function, self._address, 0)
        finally:
            if _nvtx:
                _nvtx.RangePop()
        if status:
            raise cupy.cuda.driver.CUDADriverError(int(status))


def _letter(key: type) -> str:
    letter = _LETTERS.get(np.dtype(key).str[1:])
    if letter is None:
        raise KernelArgumentError(
            f"An argument of a kernel is of type {key.__name__}.",
            "It must be an array or a real number.",
        )
    return letter


@functools.lru_cache(maxsize=4096)
def _config(form: Form, stream: int) -> driver.CUlaunchConfig:
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = (*form.grid, 1, 1)[:3]
    config.blockDimX, config.blockDimY, config.blockDimZ = (*form.block, 1, 1)[:3]
    config.sharedMemBytes = form.shared_bytes
    config.hStream = driver.CUstream(stream)
    ids = driver.CUlaunchAttributeID
    attributes = []
    if form.cooperative:
        attributes.append(_attribute(ids.CU_LAUNCH_ATTRIBUTE_COOPERATIVE, "cooperative"))
    if form.early:
        kind = ids.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attributes.append(_attribute(kind, "programmaticStreamSerializationAllowed"))
    if form.cluster > 1:
        attributes.append(_cluster_attribute(form.cluster))
    config.attrs, config.numAttrs = attributes, len(attributes)
    return config


def _attribute(kind: Any, switch: str) -> driver.CUlaunchAttribute:
    attribute = driver.CUlaunchAttribute()
    attribute.id = kind
    setattr(attribute.value, switch, 1)
    return attribute


def _cluster_attribute(blocks: int) -> driver.CUlaunchAttribute:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    lengths = attribute.value.clusterDim
    lengths.x, lengths.y, lengths.z = blocks, 1, 1
    return attribute
