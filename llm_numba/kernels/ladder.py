"""A ladder: the same operation several times, each step with one new idea.

Documentation, tests, simulator, microscope and benchmarks all read the steps from one table, the
``LADDER`` at the end of each kernel file.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from llm_numba.runtime.launch import Launch

Operands = dict[str, Any]
Named = TypeVar("Named")


@dataclass(frozen=True)
class Step:
    """One step of a ladder.

    Attributes
    ----------
    name : str
        Short, as the command line takes it: ``"padded"``.
    idea : str
        One sentence: what is new, and what it should buy.
    plan : callable
        Takes the ladder's operands by keyword (device arrays, outputs included) and returns the
        launches that compute the outputs, in order.
    kernels : tuple of dispatchers
        The ``@cuda.jit`` kernels of the step, for listings and for compilation without a GPU.
    capability : tuple
        The least compute capability that has all its instructions; or with a letter,
        ``(9, 0, "a")``, the only one that has.
    """

    name: str
    idea: str
    plan: Callable[..., tuple[Launch, ...]]
    kernels: tuple[Any, ...]
    capability: tuple[int, int] | tuple[int, int, str] = (7, 5)

    def targets(self, capabilities: Iterable[tuple]) -> list[tuple]:
        """Return those of some compute capabilities that the step is compiled for.

        A step of one architecture is compiled for that, asked for or not.
        """
        if len(self.capability) == 3:
            return [self.capability]
        return [each for each in capabilities if each[:2] >= self.capability]


@dataclass(frozen=True)
class Ladder:
    """An operation and the steps that lead to its fastest kernel.

    Attributes
    ----------
    name : str
        As the command line takes it: ``"transpose"``.
    steps : tuple of Step
        The first is the naive one, the last is what the engine runs.
    operands : callable
        ``operands(shape, dtype, seed)`` returns NumPy operands by name, outputs (zeroed or
        poisoned with NaN) included; ``dtype`` is a NumPy dtype.
    expect : callable
        ``expect(**operands)`` returns ``{output name: float64 or integer array}`` that every step
        must come near, computed by the reference in float64 from the rounded operands.
    dtypes : tuple of str
        Storage formats: of "float32", "float16", "bfloat16", or integer names.
    example : tuple of int
        A shape small enough for the simulator in a second, and large enough to show the cost.
    axes : str
        Names of the axes of the shape, "M N".
    ceiling : {"memory", "compute"}
        What bounds the operation on the hardware.
    fewest_bytes : callable
        ``fewest_bytes(shape, itemsize)``: bytes that must cross global memory.
    flops : callable
        ``flops(shape)``: floating-point operations.
    """

    name: str
    steps: tuple[Step, ...]
    operands: Callable[..., Operands]
    expect: Callable[..., dict[str, np.ndarray]]
    dtypes: tuple[str, ...]
    example: tuple[int, ...]
    axes: str
    ceiling: str
    fewest_bytes: Callable[[tuple[int, ...], int], int]
    flops: Callable[[tuple[int, ...]], int]

    def step(self, name: str) -> Step:
        """Return the step of that name.

        Raises
        ------
        KeyError
            If there is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)


def all_ladders() -> dict[str, Ladder]:
    """Return the ladders of all kernel files by name, in the order of files and definitions."""
    return all_of(Ladder)


def all_of(kind: type[Named]) -> dict[str, Named]:
    """Return all objects of a class in all kernel files by name.

    Any module beside this one counts, and any such object that it holds: nobody keeps a list.

    Parameters
    ----------
    kind : type
        Its objects have a ``name``.

    Raises
    ------
    ValueError
        If two have one name.
    """
    package = importlib.import_module(__package__)
    found: dict[str, Named] = {}
    for module in pkgutil.walk_packages(package.__path__, f"{__package__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, kind) and found.setdefault(value.name, value) is not value:
                raise ValueError(f"two of {kind.__name__} are named {value.name!r}")
    return found
