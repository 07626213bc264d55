"""Choices that are measured: a table in front of a rule.

How many threads, how large a tile, how many pieces along K: some numbers of a launch have no best
value that reasoning finds. A launcher writes them as one *config*, and states a *rule* that is
good everywhere. ``llm-numba tune`` measures the other candidates on the GPU at hand, and writes the
best for each shape to a table. A launcher asks :func:`choose`, which looks into the table first:

1. the user's own, ``$XDG_CACHE_HOME/llm_numba/tuned/<GPU>.json`` (``~/.cache`` by default),
2. the one of that GPU that comes with the package, in ``kernels/tuned``,
3. the rule.

What is chosen depends on shape, storage format and GPU alone. The simulator always runs the rule's.
"""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llm_numba import variables
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.ladder import Ladder, all_of
from llm_numba.runtime import Launch, kind_of

Shape = tuple[int, ...]

SHIPPED = Path(__file__).parent / "tuned"


@dataclass(frozen=True)
class Tunable:
    """A step of a ladder whose launch has choices.

    Attributes
    ----------
    ladder : Ladder
        Gives operands, reference and the names of the axes; and its name.
    rule : callable
        ``rule(shape, dtype)`` returns a config, a NamedTuple of integers; ``dtype`` is a name.
    candidates : callable
        ``candidates(shape, dtype)`` returns the configs that may be launched there, the rule's
        among them.
    plan : callable
        ``plan(config, **operands)`` returns the launches.
    shapes : tuple of tuple of int
        What ``llm-numba tune`` measures unless it is told otherwise.
    bucket : callable
        ``bucket(shape)`` is the shape whose measurement stands for this one.
    """

    ladder: Ladder
    rule: Callable[[Shape, str], NamedTuple]
    candidates: Callable[[Shape, str], tuple[NamedTuple, ...]]
    plan: Callable[..., tuple[Launch, ...]]
    shapes: tuple[Shape, ...]
    bucket: Callable[[Shape], Shape] = lambda shape: shape

    @property
    def name(self) -> str:
        """The ladder's."""
        return self.ladder.name

    def key(self, shape: Shape, dtype: str) -> str:
        """Return the name of a shape's entry: ``"gemv/bfloat16/1x4096x4096"``."""
        return f"{self.name}/{dtype}/{'x'.join(map(str, self.bucket(shape)))}"


def all_tunables() -> dict[str, Tunable]:
    """Return what can be tuned, by name."""
    return all_of(Tunable)


def choose(tunable: Tunable, shape: Shape, dtype: str, like: Any) -> NamedTuple:
    """Choose a config.

    Parameters
    ----------
    tunable : Tunable
    shape : tuple of int
        Of the operation, in the order of the ladder's axes.
    dtype : str
        Storage format.
    like : array
        An operand: it says whether a GPU, and which, or the simulator will run it.

    Returns
    -------
    NamedTuple
        The table's, if it is still one of the candidates; else the rule's.

    Raises
    ------
    LLMNumbaError
        If the user's table cannot be read.
    """
    if kind_of(like) != "cuda":
        return tunable.rule(shape, dtype)
    return _chosen(tunable, shape, dtype, like.device.id)


@functools.lru_cache(maxsize=4096)
def _chosen(tunable: Tunable, shape: Shape, dtype: str, device: int) -> NamedTuple:
    fallback = tunable.rule(shape, dtype)
    entry = table_of(_gpu_name(device)).get(tunable.key(shape, dtype))
    if entry is None or set(entry["config"]) != set(fallback._fields):
        return fallback
    config = type(fallback)(**entry["config"])
    # A table may be older than the kernels.
    return config if config in tunable.candidates(shape, dtype) else fallback


def forget() -> None:
    """Read the tables anew at the next choice: a table was written."""
    _chosen.cache_clear()
    table_of.cache_clear()


@functools.cache
def table_of(gpu: str) -> dict[str, dict[str, Any]]:
    """Return the measured entries of a GPU, by their keys.

    Parameters
    ----------
    gpu : str
        Its name, as the driver gives it.

    Returns
    -------
    dict
        Of each entry its ``config``, and the ``seconds`` that it and the rule's took.

    Raises
    ------
    LLMNumbaError
        If a table cannot be read.
    """
    entries: dict[str, dict[str, Any]] = {}
    for path in (shipped_table(gpu), user_table(gpu)):
        entries |= read_table(path)["entries"] if path.exists() else {}
    return entries


def read_table(path: Path) -> dict[str, Any]:
    """Read a table.

    Parameters
    ----------
    path : Path

    Raises
    ------
    LLMNumbaError
        If it cannot be read, or is none.
    """
    remedy = "Delete it, or write it anew: llm-numba tune."
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        whole = all(isinstance(each["config"], dict) for each in table["entries"].values())
    except OSError as failure:
        raise LLMNumbaError(f"{path} cannot be read: {failure.strerror}.", remedy) from failure
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise LLMNumbaError(f"{path} is no table of tuned kernels.", remedy) from failure
    if not whole:
        raise LLMNumbaError(f"{path} is no table of tuned kernels.", remedy)
    return table


def user_table(gpu: str) -> Path:
    """Return where ``llm-numba tune`` writes the table of a GPU."""
    home = variables.read("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "llm_numba" / "tuned" / f"{_slug(gpu)}.json"


def shipped_table(gpu: str) -> Path:
    """Return where the package keeps the table of a GPU, if it has one."""
    return SHIPPED / f"{_slug(gpu)}.json"


def _slug(gpu: str) -> str:
    return "-".join(re.findall(r"[a-z0-9.]+", gpu.lower()))


@functools.cache
def _gpu_name(device: int) -> str:
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(device)["name"].decode()
