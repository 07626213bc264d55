"""Twins of what `numba.cuda` offers: shuffles, votes, fences, bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from llm_numba.simulator import bits
from llm_numba.simulator.arithmetic import converted
from llm_numba.simulator.lanes import WARP, Lanes
from llm_numba.simulator.memory import View
from llm_numba.simulator.twins import twin

_BITS = np.left_shift(np.int64(1), np.arange(WARP))

# -- Shuffles: [warps, 32] matrices whose columns change places ----------------------------------


def _shuffle(lanes: Lanes, value: Any, source: np.ndarray) -> np.ndarray:
    """Give each lane the value of a source lane; a source outside the warp means its own."""
    own = lanes.warps.lane
    source = np.where((source >= 0) & (source < WARP), source, own)
    matrix = lanes.by_warp(value)
    return matrix[lanes.warps.row, source]


@twin(cuda.shfl_sync, collective=True)
def _shfl_idx(lanes: Lanes, mask: Any, value: Any, source: Any) -> Any:
    return _shuffle(lanes, value, lanes.vector(source) & (WARP - 1))


@twin(cuda.shfl_up_sync, collective=True)
def _shfl_up(lanes: Lanes, mask: Any, value: Any, delta: Any) -> Any:
    return _shuffle(lanes, value, lanes.warps.lane - delta)


@twin(cuda.shfl_down_sync, collective=True)
def _shfl_down(lanes: Lanes, mask: Any, value: Any, delta: Any) -> Any:
    return _shuffle(lanes, value, lanes.warps.lane + delta)


@twin(cuda.shfl_xor_sync, collective=True)
def _shfl_xor(lanes: Lanes, mask: Any, value: Any, lane_mask: Any) -> Any:
    return _shuffle(lanes, value, lanes.warps.lane ^ lane_mask)


# -- Votes ---------------------------------------------------------------------------------------


def ballot(lanes: Lanes, predicate: Any) -> np.ndarray:
    """Return, for each thread, the lanes of its warp in which a predicate holds, as bits."""
    holds = lanes.by_warp(lanes.vector(predicate) != 0, False)
    return (holds * _BITS).sum(axis=1)[lanes.warps.row]


@twin(cuda.ballot_sync, collective=True)
def _ballot(lanes: Lanes, mask: Any, predicate: Any) -> Any:
    return _as_int32(ballot(lanes, predicate) & mask)


@twin(cuda.all_sync, collective=True)
def _all(lanes: Lanes, mask: Any, predicate: Any) -> Any:
    here = mask & lanes.warps.active[lanes.warps.row]
    return ballot(lanes, predicate) & here == here


@twin(cuda.any_sync, collective=True)
def _any(lanes: Lanes, mask: Any, predicate: Any) -> Any:
    return ballot(lanes, predicate) & mask != 0


@twin(cuda.eq_sync, collective=True)
def _eq(lanes: Lanes, mask: Any, predicate: Any) -> Any:
    votes, here = ballot(lanes, predicate) & mask, mask & lanes.warps.active[lanes.warps.row]
    return (votes == 0) | (votes == here)


@twin(cuda.match_any_sync, collective=True)
def _match_any(lanes: Lanes, mask: Any, value: Any) -> Any:
    return _as_int32(_equal_lanes(lanes, value) & mask)


@twin(cuda.match_all_sync, collective=True)
def _match_all(lanes: Lanes, mask: Any, value: Any) -> Any:
    here = mask & lanes.warps.active[lanes.warps.row]
    same = _equal_lanes(lanes, value) & here == here
    return _as_int32(np.where(same, here, 0)), same


def _equal_lanes(lanes: Lanes, value: Any) -> np.ndarray:
    pattern = lanes.vector(value)
    if pattern.dtype.kind == "f":
        pattern = pattern.view(f"u{pattern.dtype.itemsize}").astype(np.int64)
    matrix = lanes.by_warp(pattern)
    equal = matrix[lanes.warps.row] == pattern[:, None]
    return (equal * _BITS).sum(axis=1) & lanes.warps.active[lanes.warps.row]


def _as_int32(mask: Any) -> Any:
    return np.asarray(mask).astype(np.int32).astype(np.int64)


@twin(cuda.activemask)
def _activemask(lanes: Lanes) -> Any:
    return lanes.warps.active[lanes.warps.row]


@twin(cuda.lanemask_lt)
def _lanemask_lt(lanes: Lanes) -> Any:
    return np.left_shift(np.int64(1), lanes.warps.lane) - 1


@twin(cuda.syncwarp, collective=True)
def _syncwarp(lanes: Lanes, mask: Any = None) -> None:
    if lanes.machine.watched:
        lanes.machine.observer.sync_warp(lanes, mask)


# -- Fences and time -----------------------------------------------------------------------------


@twin(cuda.threadfence, cuda.threadfence_block, cuda.threadfence_system)
def fence(lanes: Lanes) -> None:
    """Let others who learn of what comes next know what these lanes wrote before."""
    if lanes.machine.watched:
        lanes.machine.observer.fence(lanes)


@twin(cuda.nanosleep)
def _nanosleep(lanes: Lanes, nanoseconds: Any) -> None:
    """Time does not pass in the simulator: others run when this thread waits."""


# -- Loads and stores that say where to cache ------------------------------------------------------


@twin(cuda.ldca, cuda.ldcg, cuda.ldcs, cuda.ldlu, cuda.ldcv, loads=True)
def _load(lanes: Lanes, array: View, index: Any) -> Any:
    return lanes.load(array, index)


@twin(cuda.stcg, cuda.stcs, cuda.stwb, cuda.stwt, typed=True)
def _store(lanes: Lanes, array: View, index: Any, value: Any, *, signature: Any) -> None:
    lanes.store(array, index, converted(value, signature.args[2], signature.args[0].dtype))


# -- Bits ------------------------------------------------------------------------------------------


def _with_width(function: Callable[[Any, int], Any]) -> Callable[..., Any]:
    def compute(lanes: Lanes, value: Any, *, signature: Any) -> Any:
        return function(value, signature.args[0].bitwidth)

    return compute


twin(cuda.popc, typed=True)(_with_width(bits.population))
twin(cuda.clz, typed=True)(_with_width(bits.leading_zeros))
twin(cuda.ffs, typed=True)(_with_width(bits.first_set))
twin(cuda.brev, typed=True)(_with_width(bits.reverse))


@twin(cuda.selp)
def _selp(lanes: Lanes, condition: Any, true: Any, false: Any) -> Any:
    return np.where(condition, true, false)[()]
