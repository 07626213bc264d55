"""``llm-numba bench kernels``: every step of every ladder on a GPU, against PyTorch and the copy.

First each step is held to the reference in float64, on outputs that were poisoned before. Then it
is timed. What it reaches stands beside what is measured in the same run: a device-to-device copy,
which is what memory gives, PyTorch's own kernels, run as people run them, and what torch.compile
makes of the same lines.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_numba.bench.choosing import chosen
from llm_numba.bench.gpu_timing import (
    GPUTimer,
    Timing,
    capture_launches,
    capture_torch,
    copy_bandwidth,
    read_bandwidth,
)
from llm_numba.bench.kernel_points import Point, allowed_error, relative_error
from llm_numba.bench.kernel_tables import PEERS
from llm_numba.bench.points import POINTS
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.ladder import Operands
from llm_numba.runtime import is_device_array, launch_all, storage_dtype, to_device, to_host

# Enough to get past the L2 cache of any GPU (60 MB on an H200) between two uses of an input.
_ROTATED_BYTES = 256 << 20
_CHECKED_ROWS = 192
# What each run measures of the card itself.
CEILINGS = ("copy", "read", "copy_again")


@dataclass(frozen=True)
class KernelSettings:
    """What to run.

    Attributes
    ----------
    only : tuple of str
        Names or patterns of points, ``"softmax"`` or ``"softmax/bfloat16"``; empty for all.
    repeats, warmup : int
        Counted and uncounted runs.
    budget_seconds : float
        Slow work is repeated less often, see :class:`.gpu_timing.GPUTimer`.
    """

    only: tuple[str, ...] = ()
    repeats: int = 30
    warmup: int = 3
    budget_seconds: float = 0.5

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)


def choose(only: Sequence[str]) -> list[Point]:
    """Return the points that are asked for.

    Parameters
    ----------
    only : sequence of str
        As of :class:`KernelSettings`.

    Raises
    ------
    LLMNumbaError
        If one names nothing.
    """
    offered = f"from: {', '.join(point.name for point in POINTS)}"
    return chosen(only, POINTS, lambda point: (point.name, point.name.partition("/")[0]), offered)


def measure(settings: KernelSettings, wrong: list[LLMNumbaError]) -> Iterator[Result]:
    """Run the benchmark on this machine's GPU.

    Parameters
    ----------
    settings : KernelSettings
    wrong : list of LLMNumbaError
        Gets what is said of kernels that are wrong. Their ladders end there, and others go on.

    Yields
    ------
    Result
        The copy and the read first; the copy once more at the end.
    """
    points = choose(settings.only)
    timer = GPUTimer(settings.repeats, settings.warmup, settings.budget_seconds)
    copied = summarize([rate / 1e9 for rate in copy_bandwidth(timer)], "GB/s")
    yield Result("copy", "device-to-device copy, read and written", copied)
    reads = summarize([rate / 1e9 for rate in read_bandwidth(timer)], "GB/s")
    yield Result("read", "reading alone", reads)
    torch = import_torch()
    for point in points:
        try:
            yield from measure_point(point, timer, copied.median, torch)
        except LLMNumbaError as error:
            wrong.append(error)
    again = summarize([rate / 1e9 for rate in copy_bandwidth(timer)], "GB/s")
    yield Result("copy_again", "the copy at the end of the run", again)


def measure_point(
    point: Point, timer: GPUTimer, copy_rate: float, torch: Any, device: str | None = None
) -> Iterator[Result]:
    """Check and time all steps of a ladder, and PyTorch's.

    Parameters
    ----------
    point : Point
    timer : GPUTimer
    copy_rate : float
        GB/s of the device-to-device copy.
    torch : module or None
    device : {"cuda", "sim"}, optional

    Yields
    ------
    Result
        For each step its speed (GB/s or TFLOP/s), its share of the copy where memory is the
        ceiling, and its ratios to PyTorch's where there is an equivalent.
    """
    operands = point.operands()
    rows = _rows_to_check(point, operands)
    expected = point.expected(operands, rows)
    sets = device_sets(operands, device)
    peers: dict[str, Timing] = {}
    if torch is not None and point.eager is not None:
        prepare = point.prepare or (lambda torch, tensors: tensors)
        tensors = [prepare(torch, as_tensors(torch, operands)) for operands in sets]
        for name, run in _peers(point, torch).items():
            _check(point, PEERS[name], _results_of(torch, run(tensors[0])), expected, rows)
            works = [lambda run=run, t=t: run(t) for t in tensors]
            peers[name] = timer.time(works, lambda works: capture_torch(torch, works))
            yield from _results(point, name, point.eager_code, peers[name], copy_rate, {})
    for step in point.chosen:
        plans = [step.plan(**each) for each in sets]
        for name in expected.keys() - set(point.kept):
            poison(sets[0][name])
        launch_all(plans[0])
        found = {name: to_host(sets[0][name]) for name in expected}
        _check(point, step.name, found, expected, rows)
        works = [lambda plan=plan: launch_all(plan) for plan in plans]
        timing = timer.time(works, capture_launches)
        yield from _results(point, step.name, step.idea, timing, copy_rate, peers)


def _peers(point: Point, torch: Any) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Return PyTorch's ways to the same result, by the name of their results."""

    def run(tensors: dict[str, Any]) -> Any:
        return point.eager(torch, tensors)

    if not point.compiled:
        return {"pytorch": run}
    # It compiles one function a few times only, and all points share this one.
    torch.compiler.reset()
    return {"pytorch": run, "compiled": torch.compile(run, dynamic=False)}


def _rows_to_check(point: Point, operands: Operands) -> np.ndarray:
    if not point.by_rows:
        return np.arange(0)
    count = len(operands[point.by_rows[0]])
    # Evenly spread, the first and the last among them.
    return np.unique(np.linspace(0, count - 1, _CHECKED_ROWS).astype(np.int64))


def device_sets(operands: Operands, device: str | None) -> list[Operands]:
    """Copy the operands to the device as often as it takes to get past its caches.

    Parameters
    ----------
    operands : dict
        NumPy arrays are copied, all else is handed through.
    device : {"cuda", "sim"}, optional

    Returns
    -------
    list of dict
    """
    total = sum(value.nbytes for value in operands.values() if isinstance(value, np.ndarray))
    return [
        {
            name: to_device(value, device) if isinstance(value, np.ndarray) else value
            for name, value in operands.items()
        }
        for _ in range(max(2, -(-_ROTATED_BYTES // max(total, 1 << 20))))
    ]


def poison(array: Any) -> None:
    """Fill an output, so that what is not written shows."""
    # All ones: NaN in every float format, -1 as an integer.
    array.reshape(-1).view(np.uint8).fill(0xFF)


def _check(
    point: Point,
    who: str,
    found: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    rows: np.ndarray,
) -> None:
    for name, output in found.items():
        part = output[rows] if name in point.by_rows else output
        error = relative_error(part, expected[name])
        allowed = allowed_error(output, point.shape[-1])
        if not error <= allowed:  # NaN is never right
            raise LLMNumbaError(
                f"{point.name}, {who}: `{name}` is off by {error:.2g} of its norm, where "
                f"{allowed:.2g} is rounding.",
                "A wrong kernel has no speed; run its tests.",
            )


def _results(
    point: Point,
    name: str,
    what: str,
    timing: Timing,
    copy_rate: float,
    peers: dict[str, Timing],
) -> Iterator[Result]:
    key = f"{point.name}/{name}"
    shape = dict(zip(point.ladder.axes.split(), point.shape, strict=True)) | {
        "dtype": point.dtype,
        "microseconds": round(1e6 * timing.median, 3),
        "host_microseconds": round(1e6 * timing.host_seconds, 3),
        "host_bound": timing.host_bound,
        "captured": timing.captured,
    }
    if point.ladder.ceiling == "memory":
        rates = [point.fewest_bytes / seconds / 1e9 for seconds in timing.seconds]
        speed = summarize(rates, "GB/s", warmup=timing.warmup)
        yield Result(key, f"{key}: {what}", speed, shape | {"bytes": point.fewest_bytes})
        shares = [100 * rate / copy_rate for rate in rates]
        share = summarize(shares, "%", warmup=timing.warmup)
        yield Result(f"of_copy/{key}", f"{key}: of the copy", share, shape)
    else:
        flops = point.ladder.flops(point.shape)
        rates = [flops / seconds / 1e12 for seconds in timing.seconds]
        speed = summarize(rates, "TFLOP/s", warmup=timing.warmup)
        yield Result(key, f"{key}: {what}", speed, shape | {"flops": flops})
    for peer, theirs in peers.items():
        ratios = [theirs.median / seconds for seconds in timing.seconds]
        speedup = summarize(ratios, "x", warmup=timing.warmup)
        yield Result(f"of_{peer}/{key}", f"{key}: times {PEERS[peer]}", speedup, shape)


# -- PyTorch --------------------------------------------------------------------------------------


def import_torch() -> Any:
    """Return PyTorch, with full float32 in matrix products, or None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return torch


def as_tensors(torch: Any, operands: Operands) -> dict[str, Any]:
    """Show operands to PyTorch, which shares their memory.

    Parameters
    ----------
    torch : module
    operands : dict
        Device arrays and numbers. Empty arrays, which stand for what is not there, become None.
    """
    return {name: _as_tensor(torch, value) for name, value in operands.items()}


def _as_tensor(torch: Any, value: Any) -> Any:
    if not is_device_array(value):
        return value
    if value.size == 0:
        return None
    if storage_dtype(value) == "bfloat16":  # which the exchange of arrays does not know
        return torch.from_dlpack(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(value)


def _results_of(torch: Any, result: Any) -> dict[str, np.ndarray]:
    """Copy what PyTorch computed to the host: one output, or several by name."""
    outputs = result if isinstance(result, dict) else {"out": result}
    return {name: _from_torch(torch, tensor) for name, tensor in outputs.items()}


def _from_torch(torch: Any, tensor: Any) -> np.ndarray:
    host = tensor.detach().cpu()
    if host.dtype is torch.bfloat16:
        import ml_dtypes

        return host.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return host.numpy()
