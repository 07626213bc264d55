"""Weights on their way into a model: what a model asks for, and who answers.

A model asks by the names of a checkpoint, and says which tensors it wants stacked: query, key and
value as one product, gate and up as another. The answer lies on the device, in the format that it
computes in. :class:`FileWeights` reads it from safetensors files, :class:`RandomWeights` makes it
up.

Where several ranks share a model each asks for the same names, and gets its *windows* of them:
ranges of rows, or of columns. Nothing else is read.
"""

import contextlib
import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from llm_numba import ops
from llm_numba.models.checkpoint import Checkpoint, Progress, Source
from llm_numba.models.reading import TensorReader
from llm_numba.models.split import Window
from llm_numba.reference.random_weights import SPREAD
from llm_numba.runtime import Array, reserve_gpu_memory, to_device, write_to, zeros
from llm_numba.runtime.staging import Staging

# What CuPy rounds the size of an array up to.
_GRANULE = 512


class WeightLoader(ABC):
    """Brings tensors to a device, in the compute format.

    A context manager: what was asked for is there at its end. On a GPU it may come later than the
    answer.

    Parameters
    ----------
    checkpoint : Checkpoint
        Validated: its tensors are those of the model.
    dtype : dtype
    progress : callable(name, done_bytes, total_bytes), optional
    device : {"cpu", "cuda", "sim"}
    windows : mapping of str to tuple of Window, optional
        What to bring of each tensor, see :func:`llm_numba.models.split.windows_of`; by default all
        of all.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: np.dtype,
        progress: Progress | None = None,
        device: str = "cpu",
        windows: Mapping[str, tuple[Window, ...]] | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._tensors = checkpoint.tensors
        self._windows = windows or {
            name: (tuple(map(range, info.shape)),) for name, info in checkpoint.tensors.items()
        }
        self._dtype = dtype
        self._device = device
        self._progress = progress
        self._total = sum(map(self._stored_bytes, self._windows))
        self._done = 0
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._device == "cuda":
            sizes = (self._num_elements(name) * self._dtype.itemsize for name in self._windows)
            reserve_gpu_memory(sum(-(-size // _GRANULE) * _GRANULE for size in sizes))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._exits.__exit__(*error)

    def __call__(self, *names: str, transpose: bool = False) -> Array | None:
        """Bring tensors, stacked along their first axis.

        Parameters
        ----------
        *names : str
            Fused weights (query, key and value; gate and up) are one array from the start.
        transpose : bool
            Swap the two axes of each tensor: GPT-2 stores [K, N].

        Returns
        -------
        array of the device or None
            Contiguous, in the compute format; None where another rank holds it all.
        """
        pieces = [(name, window) for name in names for window in self._windows[name]]
        if not pieces:
            return None
        shapes = [tuple(map(len, window)) for _, window in pieces]
        shapes = [shape[::-1] for shape in shapes] if transpose else shapes
        rows = sum(shape[0] for shape in shapes)
        out = zeros((rows, *shapes[0][1:]), self._dtype, self._device)
        row = 0
        for (name, window), shape in zip(pieces, shapes, strict=True):
            self._fill(out[row : row + shape[0]], name, window, transpose)
            row += shape[0]
            self._done += math.prod(shape) * self._tensors[name].itemsize
            if self._progress:
                self._progress(name, self._done, self._total)
        return out

    def _num_elements(self, name: str) -> int:
        return sum(math.prod(map(len, window)) for window in self._windows[name])

    def _stored_bytes(self, name: str) -> int:
        return self._num_elements(name) * self._tensors[name].itemsize

    def place(self, array: np.ndarray) -> Array:
        """Bring an array of the host to where the weights are.

        Parameters
        ----------
        array : ndarray

        Returns
        -------
        array of the device
            On the CPU the array itself.
        """
        return array if self._device == "cpu" else to_device(array, self._device)

    @abstractmethod
    def _fill(self, out: Array, name: str, window: Window, transpose: bool) -> None:
        """Write a window of a tensor, transposed or not, into its rows of a stack."""


class FileWeights(WeightLoader):
    """Reads the tensors of a checkpoint; parameters as of :class:`WeightLoader`.

    For the CPU and the simulator files are mapped into memory, and copied and converted tensor by
    tensor. For a GPU they are read in pieces, on the way while the next are read, and converted
    where they land: see :mod:`llm_numba.runtime.staging`. That takes what lies in one piece, as
    rows do; columns go through the mapped file.
    """

    _staging: Staging | None = None

    def __init__(self, checkpoint: Checkpoint, *args: Any, **kwargs: Any) -> None:
        super().__init__(checkpoint, *args, **kwargs)
        self._read = TensorReader(checkpoint)

    def __enter__(self) -> Self:
        super().__enter__()
        if self._device == "cuda":
            self._files: dict[Path, int] = {}
            self._exits.callback(lambda: [os.close(file) for file in self._files.values()])
            self._staging = self._exits.enter_context(Staging(self._total))
        return self

    def _fill(self, out: Array, name: str, window: Window, transpose: bool) -> None:
        sources = self._checkpoint.sources(name, window)
        if self._staging is None or not _in_one_piece(sources):
            tensor = self._read(name, window)
            write_to(out, tensor.T if transpose else tensor)
        elif transpose:
            stored = zeros(tuple(map(len, window)), self._dtype, self._device)
            self._send(sources[0], stored)
            self._staging.wait()
            ops.transpose(stored, out=out)
        else:
            self._send(sources[0], out)

    def _send(self, source: Source, target: Array) -> None:
        info = source.info
        if info.path not in self._files:
            self._files[info.path] = os.open(info.path, os.O_RDONLY)
        row_bytes = math.prod(info.shape[1:]) * info.itemsize
        begin = info.begin + source.window[0].start * row_bytes
        self._staging.send(self._files[info.path], begin, target, info.dtype, ops.convert)


class RandomWeights(WeightLoader):
    """Makes tensors up where they are needed; parameters as of :class:`WeightLoader`.

    A tensor's numbers follow from its name and nothing else, and all formats hold them exactly: a
    model is the same on every device, in every format, in every order of loading.

    Gains of norms are 1. Weights of products have the standard deviation 1/sqrt(K), to the nearest
    power of two, K being the inputs of an output: so numbers of size 1 stay of size 1 from layer to
    layer, and logits too, be the model small or large.
    """

    def _fill(self, out: Array, name: str, window: Window, transpose: bool) -> None:
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        shape = self._tensors[name].shape
        if transpose:
            shape, window = shape[::-1], window[::-1]
        # Numbers are counted along the rows of the whole tensor.
        place = {"first": window[-1].start + window[0].start * shape[-1], "pitch": shape[-1]}
        if out.ndim > 1:
            ops.fill_random(out, key, _step(shape[-1]), **place)
        elif name.endswith(".bias"):
            ops.fill_random(out, key, _step(_BIAS_INPUTS), first=window[0].start)
        else:
            ops.fill_random(out, key, 0.0, centre=1.0)


# A bias is as large as one input of so many.
_BIAS_INPUTS = 4096


def _step(inputs: int) -> float:
    return 2.0 ** -round(math.log2(SPREAD * math.sqrt(inputs)))


def _in_one_piece(sources: list[Source]) -> bool:
    """Tell whether bytes lie one behind the other in a file, in a format that a GPU converts."""
    if len(sources) > 1:
        return False
    info, window, _ = sources[0]
    return tuple(map(len, window[1:])) == info.shape[1:] and info.dtype != np.float64
