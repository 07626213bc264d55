"""A kernel made ready for the machine: typed, laid out in blocks, turned into Python."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm_numba.simulator import (  # noqa: F401  (they register twins)
    iteration,
    parts,
    twins_atomics,
    twins_cuda,
    twins_half,
    twins_libdevice,
    twins_math,
)
from llm_numba.simulator.clusters import cluster_of
from llm_numba.simulator.frontend import type_function
from llm_numba.simulator.program import arrange, assemble, mark_live
from llm_numba.simulator.statements import translate
from llm_numba.simulator.translation import Translation


@dataclass(frozen=True)
class Kernel:
    """A kernel for one set of argument types.

    Attributes
    ----------
    name : str
    program : list of callable
        One function a block of the program; takes a group, returns the next block's number.
    live : list of tuple of int
        Registers that each block needs from those before it.
    locations : list of (file, line)
    registers : int
    shared_bytes, local_bytes : int
        Static shared memory of a block, local arrays of a thread.
    grid_sync : bool
        Whether it waits for the whole grid.
    cluster : int
        Blocks of a cluster.
    float64 : list of (file, line)
        Where something is computed in float64.
    """

    name: str
    program: list[Callable[[Any], int]]
    live: list[tuple[int, ...]]
    locations: list[tuple[str, int]]
    registers: int
    shared_bytes: int
    local_bytes: int
    grid_sync: bool
    cluster: int
    float64: list[tuple[str, int]]


_kernels: dict[Any, Kernel] = {}


def prepare(dispatcher: Any, argument_types: tuple[Any, ...], *, fine: bool = False) -> Kernel:
    """Return a kernel for some argument types; the second time it is at hand.

    Parameters
    ----------
    dispatcher : CUDADispatcher
    argument_types : tuple of numba type
    fine : bool
        Whether each memory access is a block of its own, between which other threads may run.
    """
    function = dispatcher.py_func
    contract = dispatcher.targetoptions.get("opt", True) is not False
    key = (function, argument_types, contract, fine)
    if key not in _kernels:
        typed = type_function(function, argument_types)
        translation = Translation(translate, contract=contract, fine=fine)
        arguments = [translation.register() for _ in argument_types]
        translate(translation, typed, arguments, translation.block())
        blocks = arrange(translation.blocks)
        mark_live(blocks)
        _kernels[key] = Kernel(
            function.__name__,
            assemble(blocks, translation.namespace, function.__name__),
            [tuple(sorted(block.live_in)) for block in blocks],
            list(translation.places),
            translation.registers,
            translation.shared_bytes,
            translation.local_bytes,
            translation.grid_sync,
            cluster_of(dispatcher),
            sorted(translation.float64),
        )
    return _kernels[key]
