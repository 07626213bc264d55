"""Twins of what `numba.cuda` offers: shuffles, votes, atomics, fences, bits."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

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
    bits = lanes.vector(value)
    if bits.dtype.kind == "f":
        bits = bits.view(f"u{bits.dtype.itemsize}").astype(np.int64)
    matrix = lanes.by_warp(bits)
    equal = matrix[lanes.warps.row] == bits[:, None]
    return (equal * _BITS).sum(axis=1) & lanes.warps.active[lanes.warps.row]


def _as_int32(bits: Any) -> Any:
    return np.asarray(bits).astype(np.int32).astype(np.int64)


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
def _fence(lanes: Lanes) -> None:
    if lanes.machine.watched:
        lanes.machine.observer.fence(lanes)


@twin(cuda.nanosleep)
def _nanosleep(lanes: Lanes, nanoseconds: Any) -> None:
    """Time does not pass in the simulator: others run when this thread waits."""


# -- Atomics -------------------------------------------------------------------------------------


def _atomic(combine: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def function(lanes: Lanes, array: View, index: Any, value: Any) -> Any:
        values = lanes.vector(value).astype(array.dtype)
        return lanes.atomic(array, index, lambda old, thread: combine(old, values[thread]))

    return function


def _nan_aware(choose: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def combine(old: Any, new: Any) -> Any:
        if old != old or new != new:
            return old + new
        return choose(old, new)

    return combine


for _operation, _combine in {
    cuda.atomic.add: operator.add,
    cuda.atomic.sub: operator.sub,
    cuda.atomic.max: _nan_aware(max),
    cuda.atomic.min: _nan_aware(min),
    cuda.atomic.nanmax: np.fmax,
    cuda.atomic.nanmin: np.fmin,
    cuda.atomic.and_: operator.and_,
    cuda.atomic.or_: operator.or_,
    cuda.atomic.xor: operator.xor,
    cuda.atomic.exch: lambda old, new: new,
    cuda.atomic.inc: lambda old, limit: type(old)(0) if old >= limit else type(old)(old + 1),
    cuda.atomic.dec: lambda old, limit: limit if old == 0 or old > limit else type(old)(old - 1),
}.items():
    twin(_operation, loads=True)(_atomic(_combine))


@twin(cuda.atomic.cas, loads=True)
def _cas(lanes: Lanes, array: View, index: Any, expected: Any, new: Any) -> Any:
    wanted = lanes.vector(expected).astype(array.dtype)
    values = lanes.vector(new).astype(array.dtype)
    return lanes.atomic(
        array, index, lambda old, thread: values[thread] if old == wanted[thread] else old
    )


@twin(cuda.atomic.compare_and_swap, loads=True)
def _compare_and_swap(lanes: Lanes, array: View, expected: Any, new: Any) -> Any:
    return _cas(lanes, array, np.int64(0), expected, new)


# -- Bits ----------------------------------------------------------------------------------------


def _width(signature: Any) -> int:
    return signature.args[0].bitwidth


def _unsigned(value: Any, bits: int) -> Any:
    return np.asarray(value).astype(f"u{bits // 8}").astype(np.uint64)


@twin(cuda.popc, typed=True)
def _popc(lanes: Lanes, value: Any, *, signature: Any) -> Any:
    return np.bitwise_count(_unsigned(value, _width(signature))).astype(np.int64)


@twin(cuda.clz, typed=True)
def _clz(lanes: Lanes, value: Any, *, signature: Any) -> Any:
    bits = _width(signature)
    return np.int64(bits) - _bit_length(_unsigned(value, bits), bits)


@twin(cuda.ffs, typed=True)
def _ffs(lanes: Lanes, value: Any, *, signature: Any) -> Any:
    bits = _width(signature)
    value = _unsigned(value, bits)
    lowest = value & (~value + np.uint64(1))
    return _bit_length(lowest, bits)


@twin(cuda.brev, typed=True)
def _brev(lanes: Lanes, value: Any, *, signature: Any) -> Any:
    bits = _width(signature)
    value = _unsigned(value, bits)
    result = np.zeros_like(value)
    for place in range(bits):
        bit = (value >> np.uint64(place)) & np.uint64(1)
        result = result | bit << np.uint64(bits - 1 - place)
    return result


def _bit_length(value: Any, bits: int) -> Any:
    length = np.zeros(np.shape(value), np.int64)
    for place in range(bits):
        length = np.where(value >> np.uint64(place) != 0, place + 1, length)
    return length[()]


@twin(cuda.selp)
def _selp(lanes: Lanes, condition: Any, true: Any, false: Any) -> Any:
    return np.where(condition, true, false)[()]
