"""The way in: run a kernel without a GPU."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    SimulationError,
    UnsupportedError,
)
from llm_numba.simulator.frontend import type_of
from llm_numba.simulator.kernel import Kernel, prepare
from llm_numba.simulator.layout import ALONE, Device
from llm_numba.simulator.machine import Machine
from llm_numba.simulator.memory import Buffer, View, owner_of
from llm_numba.simulator.observer import Observer
from llm_numba.simulator.report import Report
from llm_numba.simulator.translation import as_register
from llm_numba.simulator.values import register_dtype

MAX_THREADS = 1024
MAX_SHARED_BYTES = 227 * 1024
_RESIDENT_THREADS = 32768
_RESIDENT_BYTES = 1 << 26


def simulate(
    kernel: Any,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    args: tuple[Any, ...],
    shared_bytes: int = 0,
    explain: bool = True,
    *,
    check: bool | None = None,
    schedule: str = "ordered",
    seed: int = 0,
) -> Report:
    """Run a ``numba.cuda`` kernel in the simulator.

    Parameters
    ----------
    kernel : dispatcher
        A function decorated with ``@cuda.jit``.
    grid, block : int or tuple of int
        Blocks in the grid and threads in a block, 1 to 3 axes.
    args : tuple
        NumPy arrays, read and written in place, and numbers or tuples.
    shared_bytes : int
        Dynamic shared memory of a block.
    explain : bool
        Whether to count what each line costs.
    check : bool, optional
        Whether to look for races and uninitialised reads; by default, if ``explain`` is set or the
        schedule is random. Bounds and barriers are always checked.
    schedule : {"ordered", "random"}
        ``"random"`` lets any thread go first, between any two memory accesses.
    seed : int
        Of the random schedule.

    Returns
    -------
    Report

    Raises
    ------
    SimulationError
        One of its subclasses, if the kernel does something wrong or cannot be simulated.
    """
    rng = random_order(schedule, seed)
    task = Task.of_launch(kernel, grid, block, args, shared_bytes, {}, fine=rng is not None)
    prepared = task.kernel
    watching = (explain or schedule == "random") if check is None else check
    observer = None
    if watching or explain:
        observer = Observer(prepared, costs=explain, faults=watching)
    output: list[str] = []
    barriers = 0
    with np.errstate(all="ignore"):
        for blocks in task.waves():
            machine = task.machine(blocks, observer, rng, output)
            if observer is not None:
                observer.begin(machine)
            _run(machine, observer)
            barriers += machine.barriers.passed
    return Report(
        kernel=prepared.name,
        grid=task.grid,
        block=task.block,
        lines=observer.lines() if explain and observer is not None else [],
        shared_bytes=prepared.shared_bytes + shared_bytes,
        local_bytes=prepared.local_bytes,
        barriers=barriers,
        printed="".join(output),
        arrays=observer.arrays if explain and observer is not None else {},
        float64=prepared.float64,
    )


@dataclass(frozen=True)
class Task:
    """A launch made ready for machines.

    Attributes
    ----------
    kernel : Kernel
    grid, block : tuple of 3 int
    values : list
        Views and registers, one for each parameter.
    shared_bytes : int
        Dynamic shared memory of a block.
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    values: list[Any]
    shared_bytes: int

    @classmethod
    def of_launch(
        cls,
        kernel: Any,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        args: tuple[Any, ...],
        shared_bytes: int,
        buffers: dict[int, Buffer],
        *,
        fine: bool,
    ) -> "Task":
        """Check a launch, as :func:`simulate` takes it, and translate its kernel.

        Parameters
        ----------
        buffers : dict of int to Buffer
            The memory that arguments lie in, by their owners; takes what is not there yet.
        fine : bool
            See :func:`~llm_numba.simulator.kernel.prepare`.
        """
        grid, block = _extents("grid", grid), _extents("block", block)
        if not hasattr(kernel, "py_func") or not hasattr(kernel, "targetoptions"):
            raise UnsupportedError(
                f"{kernel!r} is no kernel.", "Pass a function decorated with @cuda.jit."
            )
        _check_block(block)
        parameters = kernel.py_func.__code__.co_argcount
        if len(args) != parameters:
            raise UnsupportedError(
                f"{kernel.py_func.__name__} got {len(args)} arguments and takes {parameters}.",
                "Pass one for each parameter of the kernel.",
            )
        kinds = tuple(_kernel_type(value) for value in args)
        prepared = prepare(kernel, kinds, fine=fine)
        _check_shared(prepared, shared_bytes)
        _check_clusters(prepared, grid)
        values = [
            _kernel_value(value, kind, buffers, name)
            for value, kind, name in zip(args, kinds, _names(kernel, len(args)), strict=True)
        ]
        return cls(prepared, grid, block, values, shared_bytes)

    @property
    def threads(self) -> int:
        """Threads of the whole grid."""
        return int(np.prod(self.grid)) * int(np.prod(self.block))

    def waves(self) -> list[range]:
        """Return the blocks that run together, by their linear numbers."""
        count, threads = int(np.prod(self.grid)), int(np.prod(self.block))
        return _waves(self.kernel, count, threads, self.shared_bytes)

    def machine(
        self,
        blocks: range,
        observer: Observer | None,
        rng: np.random.Generator | None,
        output: list[str],
        device: Device = ALONE,
    ) -> Machine:
        """Return the machine that runs some of the blocks."""
        return Machine(
            self.kernel,
            self.grid,
            self.block,
            blocks,
            self.values,
            self.shared_bytes,
            observer,
            rng,
            output,
            device,
        )


def random_order(schedule: str, seed: int) -> np.random.Generator | None:
    """Return what draws a random schedule; None for the ordered one."""
    if schedule not in ("ordered", "random"):
        raise UnsupportedError(f"There is no schedule {schedule!r}.", "Use 'ordered' or 'random'.")
    return np.random.default_rng(seed) if schedule == "random" else None


def _run(machine: Machine, observer: Any) -> None:
    try:
        machine.run()
    except BarrierDivergenceError:
        raise
    except SimulationError:
        # What went wrong after wrong data had been read says less than that it was.
        if observer is not None and observer.fault is not None:
            raise observer.fault from None
        raise
    if observer is not None and observer.fault is not None:
        raise observer.fault


def _extents(name: str, value: int | tuple[int, ...]) -> tuple[int, int, int]:
    extents = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not 1 <= len(extents) <= 3 or any(int(extent) != extent or extent < 1 for extent in extents):
        raise UnsupportedError(
            f"{name}={value!r} is no launch shape.", "Give 1 to 3 positive integers."
        )
    whole = tuple(int(extent) for extent in extents)
    return (*whole, *(1,) * (3 - len(whole)))  # type: ignore[return-value]


def _shape_name(extents: tuple[int, int, int]) -> str:
    axes = 3 if extents[2] > 1 else 2 if extents[1] > 1 else 1
    return " x ".join(map(str, extents[:axes]))


def _check_block(block: tuple[int, int, int]) -> None:
    threads = int(np.prod(block))
    if threads > MAX_THREADS or block[2] > 64:
        raise UnsupportedError(
            f"A block of {_shape_name(block)} threads is more than the hardware runs.",
            f"Use at most {MAX_THREADS} threads in a block, and at most 64 along z.",
        )


def _check_shared(kernel: Kernel, shared_bytes: int) -> None:
    total = kernel.shared_bytes + shared_bytes
    if total > MAX_SHARED_BYTES:
        raise UnsupportedError(
            f"{kernel.name} wants {total} bytes of shared memory in a block "
            f"({kernel.shared_bytes} of them static).",
            f"The hardware has at most {MAX_SHARED_BYTES}.",
        )


def _check_clusters(kernel: Kernel, grid: tuple[int, int, int]) -> None:
    if grid[0] % kernel.cluster:
        raise UnsupportedError(
            f"{kernel.name} runs in clusters of {kernel.cluster} blocks, and its grid of "
            f"{_shape_name(grid)} blocks has no whole number of them along x.",
            f"Round the grid up to a multiple of {kernel.cluster}.",
        )


def _waves(kernel: Kernel, count: int, threads: int, dynamic: int) -> list[range]:
    """Return the blocks that run together: whole clusters; for those that sync a grid, all."""
    size = max(kernel.shared_bytes + dynamic + threads * kernel.local_bytes, 1)
    together = max(1, min(_RESIDENT_THREADS // threads, _RESIDENT_BYTES // size))
    together = max(1, together // kernel.cluster) * kernel.cluster
    if kernel.grid_sync:
        together = count
    return [range(start, min(start + together, count)) for start in range(0, count, together)]


def _names(kernel: Any, count: int) -> list[str]:
    code = kernel.py_func.__code__
    return [f"`{name}`" for name in code.co_varnames[:count]]


def _kernel_type(value: Any) -> Any:
    return type_of(value.view(np.ndarray) if isinstance(value, np.ndarray) else value)


def _kernel_value(value: Any, kind: Any, buffers: dict[int, Buffer], name: str) -> Any:
    if isinstance(value, np.void):
        value = np.asarray(value)  # shares the record's memory
    if isinstance(value, np.ndarray):
        owner = id(owner_of(value))
        if owner not in buffers:
            buffers[owner] = Buffer.of_host(value)
        return View.of_host(value, buffers[owner], name)
    if isinstance(value, tuple):
        return tuple(
            _kernel_value(each, one, buffers, name) for each, one in zip(value, kind, strict=True)
        )
    dtype = register_dtype(kind)
    return value if dtype is None else as_register(value, kind)
