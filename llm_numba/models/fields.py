"""Reading the JSON files of a checkpoint, with errors that name the file and the key."""

import json
import math
from pathlib import Path
from typing import Any

from llm_numba.errors import ConfigError, LLMNumbaError

# More than any model has of anything; still a number that arrays can be counted in.
LARGEST_SIZE = 2**31 - 1


def read_text(path: Path, error: type[LLMNumbaError]) -> str:
    """Read a text file of a checkpoint.

    Parameters
    ----------
    path : Path
    error : type
        The error raised for an unreadable file.

    Raises
    ------
    LLMNumbaError
        Of the given type, naming the file.
    """
    try:
        refuse_pipe(path, error)
        return path.read_text(encoding="utf-8")
    except OSError as failure:
        raise error(
            f"{path} cannot be read: {failure.strerror}.",
            "Point to a directory in Hugging Face layout whose files you may read.",
        ) from None
    except UnicodeDecodeError as failure:
        raise error(
            f"{path} is not UTF-8 text: {failure}.", "Download or export the checkpoint again."
        ) from None


def refuse_pipe(path: Path, error: type[LLMNumbaError]) -> None:
    """Make sure that to read a file does not mean to wait for somebody who writes it.

    Parameters
    ----------
    path : Path
    error : type
        The error raised for a pipe or a device.

    Raises
    ------
    LLMNumbaError
        Of the given type, naming the file.
    OSError
        If what it is may not be asked.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise error(f"{path} is no file but a pipe or a device.", "Copy the file there.")


def read_json(path: Path, error: type[LLMNumbaError] = ConfigError) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint.

    Parameters
    ----------
    path : Path
    error : type
        The error raised for an unreadable file.

    Raises
    ------
    LLMNumbaError
        Of the given type, naming the file and, for bad JSON, the line.
    """
    try:
        value = json.loads(read_text(path, error))
    except (ValueError, RecursionError) as failure:  # a number of 5,000 digits is a ValueError
        raise error(
            f"{path} is not valid JSON: {failure}.", "Download or export the checkpoint again."
        ) from None
    if not isinstance(value, dict):
        raise error(f"{path} holds no JSON object.", "Download or export the checkpoint again.")
    return value


class Fields:
    """Typed access to a JSON object, with errors that name the file and the key.

    Parameters
    ----------
    raw : dict
    source : str
        What to call the object in errors.
    """

    def __init__(self, raw: dict[str, Any], source: str) -> None:
        self.raw = raw
        self.source = source

    def fail(self, problem: str, remedy: str) -> ConfigError:
        """Build the error for a problem in this file."""
        return ConfigError(f"{self.source}: {problem}.", remedy)

    def get(self, key: str, kind: type, default: Any = None, *, required: bool = False) -> Any:
        """Return a value of the expected type; JSON null counts as left out."""
        value = self.raw.get(key)
        if value is None:
            if required:
                raise self.fail(f"'{key}' is missing", "Use the config.json the model came with.")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = _as_float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fail(
                f"'{key}' is {value!r}, not of type {kind.__name__}", "Correct that value."
            )
        return value

    def positive(self, key: str, default: float, *, required: bool = False) -> float:
        """Return a finite number above 0."""
        value = self.get(key, float, default, required=required)
        if not 0 < value < math.inf:
            raise self.fail(f"'{key}' is {value}, not a positive number", "Correct that value.")
        return value

    def size(self, key: str, default: int | None = None, most: int = LARGEST_SIZE) -> int:
        """Return a positive integer up to a bound, required where there is no default."""
        value = self.get(key, int, default, required=default is None)
        if value <= 0:
            raise self.fail(f"'{key}' is {value}, not a positive number", "Correct that value.")
        if value > most:
            raise self.fail(f"'{key}' is {value}, and {most} is the most", "Correct that value.")
        return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
