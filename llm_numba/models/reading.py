"""Windows of stored tensors, read through mapped files."""

import math
from pathlib import Path

import numpy as np
from safetensors import safe_open

from llm_numba.models.checkpoint import Checkpoint, Source, open_safetensors
from llm_numba.models.split import Window

# A mapped page counts as memory in use until its file is closed; files are reopened this often.
REOPEN_AFTER_BYTES = 1 << 20


class TensorReader:
    """Reads windows of tensors as they are stored: one file open, and of it what was asked for.

    Parameters
    ----------
    checkpoint : Checkpoint
    """

    _file: safe_open | None = None
    _path: Path | None = None
    _read_since_open = 0

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __call__(self, name: str, window: Window) -> np.ndarray:
        """Read a window of a tensor.

        Parameters
        ----------
        name : str
        window : Window

        Returns
        -------
        ndarray
            A copy, in the format of the file.
        """
        sources = self._checkpoint.sources(name, window)
        if len(sources) == 1:
            return self._read(name, sources[0])
        out = np.empty(tuple(map(len, window)), sources[0].info.dtype)
        for source in sources:
            out[source.place] = self._read(name, source)
        return out

    def _read(self, name: str, source: Source) -> np.ndarray:
        info, window = source.info, source.window
        if info.path != self._path or self._read_since_open > REOPEN_AFTER_BYTES:
            self._file, self._path = open_safetensors(info.path), info.path
            self._read_since_open = 0
        shape = tuple(map(len, window))
        self._read_since_open += math.prod(shape) * info.itemsize
        if shape == info.shape:
            return self._file.get_tensor(name)
        return self._file.get_slice(name)[tuple(slice(r.start, r.stop) for r in window)]
