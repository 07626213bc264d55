"""The launches whose cost ``llm-numba bench counters`` counts twice: simulated, and on a GPU."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np

from llm_numba.bench import counter_kernels as patterns
from llm_numba.kernels import basics, gemm, reduce, softmax, transpose
from llm_numba.kernels.ladder import Ladder
from llm_numba.runtime import Launch, to_device

_BLOCKS = 16
_THREADS = patterns.THREADS
_SEED = 5

_LANE = np.arange(32)
_HALF, _IN_HALF = np.divmod(_LANE, 16)
_QUARTER, _IN_QUARTER = np.divmod(_LANE, 8)
_DRAWN = np.random.default_rng(_SEED)
# Patterns that tell which lanes of a warp share a pass: whole warp, halves or quarters of it. The
# places are numbers of 8 bytes (16 rows of banks apart: the same banks) or packets of 16 (8 apart).
_PLACES_OF_8 = {
    "a number a half": _HALF * 5,
    "a number a half, same banks": _HALF * 16,
    "halves conflict apart": _IN_HALF * 16 + _HALF,
    "pairs of lanes": _LANE // 2,
    "fours of lanes": _LANE // 4,
    "halves alike": _IN_HALF,
    "pairs of lanes, two apart": _LANE // 4 * 2 + _LANE % 2,
    "pairs of lanes, four apart": _LANE // 8 * 4 + _LANE % 4,
    "pairs beside and two apart": np.where(_LANE < 16, _LANE // 2, _LANE // 4 * 2 + _LANE % 2),
    "pairs but for one lane": np.where(_LANE == 31, 40, _LANE // 2),
    "even lanes": np.where(_LANE % 2, -1, _LANE // 2),
    "every fourth lane": np.where(_LANE % 4, -1, _LANE // 4),
    "first half": np.where(_LANE < 16, _LANE, -1),
    "lanes 0 and 16": np.where(_IN_HALF, -1, _LANE),
    "lane 5": np.where(_LANE == 5, 5, -1),
    "drawn": _DRAWN.integers(0, 512, 32),
    "drawn near": _DRAWN.integers(0, 48, 32),
}
_PLACES_OF_16 = {
    "a packet a quarter": _QUARTER,
    "a packet a half": _HALF * 3,
    "quarters alike": _IN_QUARTER,
    "halves alike": _IN_HALF,
    "pairs of lanes": _LANE // 2,
    "halves conflict apart": _IN_HALF * 8 + _HALF,
    "quarters conflict apart": _IN_QUARTER * 8 + _QUARTER,
    "pairs of lanes, two apart": _LANE // 4 * 2 + _LANE % 2,
    "pairs of lanes, four apart": _LANE // 8 * 4 + _LANE % 4,
    "pairs but for one lane": np.where(_LANE == 31, 40, _LANE // 2),
    "even lanes": np.where(_LANE % 2, -1, _LANE // 2),
    "every fourth lane": np.where(_LANE % 4, -1, _LANE // 4),
    "first half": np.where(_LANE < 16, _LANE, -1),
    "first quarter": np.where(_LANE < 8, _LANE, -1),
    "a lane a quarter": np.where(_IN_QUARTER, -1, _LANE),
    "lane 5": np.where(_LANE == 5, 5, -1),
    "drawn": _DRAWN.integers(0, 256, 32),
    "drawn near": _DRAWN.integers(0, 24, 32),
}


@dataclass(frozen=True)
class Case:
    """One or more launches.

    Attributes
    ----------
    name : str
        A key for the record, ``"transpose/tile/float32"``.
    shape : dict
        Sizes that the figures depend on.
    launches : callable
        Takes the device, "cuda" or "sim", and returns the launches on arrays that lie there.
    """

    name: str
    shape: dict[str, Any]
    launches: Callable[[str], tuple[Launch, ...]]


def cases() -> Iterator[Case]:
    """Make the cases; the same ones each time, with the same contents of their arrays."""
    for dtype, steps in (("float32", None), ("float16", ("tile", "padded"))):
        yield from _climb(transpose.LADDER, (256, 256), dtype, steps)
    yield from _climb(reduce.LADDER, (64, 2048), "float32", ("tree", "warp", "block", "vectorised"))
    yield from _climb(reduce.LADDER, (64, 2048), "float16", ("vectorised",))
    yield from _climb(reduce.LADDER, (64, 2048), "int32", ("redux",))
    yield from _climb(softmax.LADDER, (64, 1024), "float32", ("naive", "block", "vectorised"))
    yield from _climb(gemm.LADDER, (128, 128, 64), "float32", None)
    yield from _climb(basics.LADDER, (4096,), "float32", ("thread",))
    yield Case("saxpy/misaligned/float32", {"N": 4096, "first": 1}, _misaligned_saxpy)
    yield from _climb(basics.HISTOGRAM_LADDER, (16384, 64), "int32", None)
    for stride in (2, 8, 32):
        yield _pattern(patterns.global_stride, "float32", stride, _THREADS * _BLOCKS * stride)
    yield Case("global_packets/float32", {}, _global_packets)
    for stride in (1, 2, 8, 32):
        yield _pattern(patterns.shared_stride, "float32", stride, patterns.WORDS)
    for group in (2, 8, 32):
        yield _pattern(patterns.shared_groups, "float32", group, patterns.WORDS)
    for stride in (0, 1, 2, 16):
        yield _pattern(patterns.shared_float64, "float64", stride, patterns.WORDS)
    for stride in (0, 1, 2, 8):
        yield _pattern(patterns.shared_packets, "float32", stride, patterns.WORDS, width=4)
    for name, places in _PLACES_OF_8.items():
        yield _table(patterns.shared_float64_at, "float64", name, places, width=1)
    for name, places in _PLACES_OF_16.items():
        yield _table(patterns.shared_packets_at, "float32", name, places, width=4)


def _climb(
    ladder: Ladder, shape: tuple[int, ...], dtype: str, steps: tuple[str, ...] | None
) -> Iterator[Case]:
    """Make a case of each step of a ladder, or of the steps that are named."""
    for step in ladder.steps:
        if steps is None or step.name in steps:
            yield Case(
                f"{ladder.name}/{step.name}/{dtype}",
                dict(zip(ladder.axes.split(), shape, strict=True)),
                lambda device, plan=step.plan: plan(
                    **_to_device(ladder.operands(shape, np.dtype(dtype), _SEED), device)
                ),
            )


def _to_device(operands: dict[str, Any], device: str) -> dict[str, Any]:
    return {
        name: to_device(value, device) if isinstance(value, np.ndarray) else value
        for name, value in operands.items()
    }


def _misaligned_saxpy(device: str) -> tuple[Launch, ...]:
    operands = _to_device(basics.LADDER.operands((4097,), np.dtype("float32"), _SEED), device)
    # All three begin 4 bytes behind a sector's beginning.
    shifted = {name: operands[name][1:] for name in ("x", "y", "out")}
    return basics.LADDER.step("thread").plan(alpha=operands["alpha"], **shifted)


def _global_packets(device: str) -> tuple[Launch, ...]:
    x, out = (_floats(4 * _THREADS * _BLOCKS, "float32", device) for _ in range(2))
    return (Launch(patterns.global_packets, (_BLOCKS,), (_THREADS,), (x, out)),)


def _pattern(kernel: Any, dtype: str, step: int, length: int, width: int = 1) -> Case:
    """Make a case of a kernel (x, step, out) that reads `width` elements a thread."""

    def launches(device: str) -> tuple[Launch, ...]:
        x = _floats(length, dtype, device)
        out = _floats(_THREADS * _BLOCKS * width, dtype, device)
        return (Launch(kernel, (_BLOCKS,), (_THREADS,), (x, step, out)),)

    name = kernel.py_func.__name__
    parameter = kernel.py_func.__code__.co_varnames[1]
    return Case(f"{name}/{step}/{dtype}", {parameter: step}, launches)


def _table(kernel: Any, dtype: str, name: str, places: np.ndarray, width: int) -> Case:
    """Make a case of a kernel (x, places, out), of which lane l reads at ``places[l]``."""

    def launches(device: str) -> tuple[Launch, ...]:
        x = _floats(patterns.WORDS, dtype, device)
        out = _floats(_THREADS * _BLOCKS * width, dtype, device)
        table = to_device(places.astype(np.int32), device)
        return (Launch(kernel, (_BLOCKS,), (_THREADS,), (x, table, out)),)

    return Case(f"{kernel.py_func.__name__}/{name}", {"places": places.tolist()}, launches)


def _floats(length: int, dtype: str, device: str) -> Any:
    return to_device(np.random.default_rng(_SEED).normal(size=length).astype(dtype), device)
