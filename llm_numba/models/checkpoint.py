"""Weights on disk: one safetensors file, or several behind an index.

Nothing is read here but headers, and held against what the model needs. A checkpoint is untrusted
input: nothing is ever unpickled, and an index cannot name a file outside its directory.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16", which safetensors asks for
import numpy as np
from safetensors import SafetensorError, safe_open

from llm_numba.errors import CheckpointError
from llm_numba.models.fields import read_json, refuse_pipe
from llm_numba.models.split import Window

Progress = Callable[[str, int, int], None]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
STORAGE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
STORAGE_OF = {dtype: storage for storage, dtype in _DTYPES.items()}
_TELLING_BYTES = 64  # of each tensor


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is and what it looks like.

    Attributes
    ----------
    path : Path
    shape : tuple of int
    storage : str
        safetensors' name of the number format, e.g. ``BF16``.
    begin : int
        The byte of the file at which it begins.
    """

    path: Path
    shape: tuple[int, ...]
    storage: str
    begin: int = 0

    @property
    def num_elements(self) -> int:
        """Numbers in the tensor."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def itemsize(self) -> int:
        """Bytes of a number on disk; 0 for a format we do not read."""
        return STORAGE_BYTES.get(self.storage, 0)

    @property
    def num_bytes(self) -> int:
        """Bytes on disk; 0 for a format we do not read."""
        return self.num_elements * self.itemsize

    @property
    def dtype(self) -> np.dtype:
        """The number format in NumPy's words."""
        return np.dtype(_DTYPES[self.storage])


class Source(NamedTuple):
    """Where a window of a tensor, or a part of one, is stored.

    Attributes
    ----------
    info : TensorInfo
        Of a stored array, which may be a part of the tensor.
    window : Window
        Of that array.
    place : tuple of slice
        Where it goes in the window that was asked for.
    """

    info: TensorInfo
    window: Window
    place: tuple[slice, ...]


class Checkpoint:
    """The tensors of a checkpoint directory, by name; nothing is read but headers.

    Parameters
    ----------
    directory : Path

    Attributes
    ----------
    tensors : dict of str to TensorInfo

    Raises
    ------
    CheckpointError
        If files are missing or damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tensors: dict[str, TensorInfo] = {}
        for path in self._files():
            self.tensors |= read_infos(path)

    @property
    def stored_dtype(self) -> str:
        """The number format that most of the weights are stored in, by NumPy's name."""
        sizes: Counter[str] = Counter()
        for info in self.tensors.values():
            sizes[_DTYPES.get(info.storage, "float32")] += info.num_elements
        return max(sizes, key=sizes.__getitem__, default="float32")

    def digest(self) -> str:
        """Tell this checkpoint from others, without reading it whole.

        Of each tensor that is its name, its shape, its format, and its first bytes: a model that
        was trained further is another in all of them. A byte in the middle that was damaged shows
        nowhere.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        hashed = hashlib.sha256()
        for name, info in sorted(self.tensors.items()):
            hashed.update(f"{name} {info.shape} {info.storage} ".encode())
            hashed.update(self._first_bytes(info))
        return hashed.hexdigest()

    def _first_bytes(self, info: TensorInfo) -> bytes:
        with info.path.open("rb") as file:
            file.seek(info.begin)
            return file.read(min(_TELLING_BYTES, info.num_bytes))

    def _files(self) -> list[Path]:
        if (self.directory / SINGLE_FILE).exists():
            return [self.directory / SINGLE_FILE]
        if (self.directory / INDEX_FILE).exists():
            return self._shards()
        pickles = sorted(p.name for p in self.directory.glob("*.bin"))
        found = f" (only {pickles[0]}, whose pickle format can run code)" if pickles else ""
        raise CheckpointError(
            f"{self.directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}{found}.",
            "Export the model with save_pretrained(..., safe_serialization=True).",
        )

    def _shards(self) -> list[Path]:
        index = self.directory / INDEX_FILE
        weight_map = read_json(index, CheckpointError).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(
                f"{index} has no 'weight_map'.", "Download or export the checkpoint again."
            )
        shards = []
        for name in sorted({str(value) for value in weight_map.values()}):
            if Path(name).name != name or name in ("", ".", ".."):
                raise CheckpointError(
                    f"{index} names {name!r}, which is not a file of its own directory.",
                    "Do not use this checkpoint, or correct its index.",
                )
            # os.path, because Path's method raises where a name is too long.
            if not os.path.exists(self.directory / name):
                raise CheckpointError(
                    f"{index} names {name}, which is missing.", "Download that file too."
                )
            shards.append(self.directory / name)
        return shards

    def sources(self, name: str, window: Window) -> list[Source]:
        """Say where a window of a tensor is stored.

        Parameters
        ----------
        name : str
        window : Window

        Returns
        -------
        list of Source
            Together the window, without overlaps.
        """
        return [Source(self.tensors[name], window, (slice(None),) * len(window))]

    def validate(
        self, expected: dict[str, tuple[int, ...]], ignored: Callable[[str], bool]
    ) -> None:
        """Check that exactly the expected tensors are there, in a format that can be read.

        Those that are there and not needed are forgotten.

        Parameters
        ----------
        expected : dict of str to shape
        ignored : callable(name) -> bool
            Tensors that may be there and are not needed.

        Raises
        ------
        CheckpointError
            Naming the tensors that are missing, extra, misshapen or in another format.
        """
        have = self.tensors
        problems = {
            "missing": [n for n in expected if n not in have],
            "not part of the model": [n for n in have if n not in expected and not ignored(n)],
            "of the wrong shape": [
                f"{n} is {list(have[n].shape)} and should be {list(shape)}"
                for n, shape in expected.items()
                if n in have and have[n].shape != shape
            ],
            f"in a format other than {', '.join(STORAGE_BYTES)}": [
                f"{n} is {have[n].storage}"
                for n in expected
                if n in have and have[n].storage not in STORAGE_BYTES
            ],
        }
        found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
        if found:
            raise CheckpointError(
                f"The weights in {self.directory} do not fit its config.json; {'; '.join(found)}.",
                "Use the config.json and the weights of one and the same model.",
            )
        self.tensors = {name: have[name] for name in expected}


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def open_safetensors(path: Path) -> safe_open:
    """Open a safetensors file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    CheckpointError
        If it cannot be read or is damaged, with the byte counts.
    """
    try:
        refuse_pipe(path, CheckpointError)
        path.open("rb").close()
        return safe_open(path, framework="numpy")
    except PermissionError:
        raise CheckpointError(
            f"{path} may not be read.", "Ask for permission to read it."
        ) from None
    except (SafetensorError, OSError) as failure:
        raise CheckpointError(
            f"{path} cannot be read: {_damage(path) or failure}.", "Download that file again."
        ) from None


def read_infos(path: Path) -> dict[str, TensorInfo]:
    """Read what a safetensors file holds.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to TensorInfo

    Raises
    ------
    CheckpointError
        If it cannot be read or is damaged.
    """
    # The library's own check: whoever passes it has offsets that are in order, without gaps.
    with open_safetensors(path):
        pass
    data, header = read_header(path)
    return {
        name: TensorInfo(
            path, tuple(entry["shape"]), entry["dtype"], data + entry["data_offsets"][0]
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Read the header of a safetensors file that was found sound.

    Parameters
    ----------
    path : Path

    Returns
    -------
    data : int
        The byte at which the data begin; offsets count from there.
    header : dict
        By tensor ``dtype``, ``shape`` and ``data_offsets``; and ``__metadata__``.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return 8 + size, json.loads(file.read(size))


def _damage(path: Path) -> str | None:
    """Say which byte count is wrong: 8 bytes of header length, the header, the data."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if size < 8:
                return f"8 bytes say how long its header is, the file has {size} bytes"
            if 8 + header_size > size:
                return f"its header should end at byte {8 + header_size}, the file has {size} bytes"
            header = json.loads(file.read(header_size))
            ends = [e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"]
            whole = 8 + header_size + max(ends, default=0)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return None if whole == size else f"it should have {whole} bytes and has {size}"
