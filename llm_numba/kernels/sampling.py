"""From logits to the next token, on a device: the launchers.

See :mod:`llm_numba.reference.sampling` for what each of them means.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from llm_numba import reference
from llm_numba.kernels import checks
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.sampling_draw import draws
from llm_numba.kernels.sampling_logprobs import log_softmax, top_logprobs
from llm_numba.kernels.sampling_parts import (
    MAX_SHARES,
    SHARE,
    THREADS,
    bests,
    gather_packet,
    grid_of,
    load_packet,
    row_argmax,
    rows_are_packets,
    runs_of,
    shares_of,
)
from llm_numba.kernels.sampling_penalties import apply_penalties
from llm_numba.kernels.sampling_refine import ROOM
from llm_numba.kernels.sampling_search import SEARCH_THREADS, sample_search
from llm_numba.kernels.sampling_select import BINS, COUNTERS, CUTS, histograms
from llm_numba.reference.sampling import GREEDY_BELOW
from llm_numba.runtime import Launch, empty, launch_all

__all__ = ["apply_penalties", "argmax", "log_softmax", "sample_tokens", "top_logprobs"]

# Random numbers of the benchmark keep as far from the border of two tokens.
_CLEARANCE = 2.0**-16


class _Kernels(NamedTuple):
    """The kernels that read logits, by one way of loading."""

    share_best: Any
    row_histogram: Any
    row_candidates: Any
    row_draw: Any


def _made(load: Any) -> _Kernels:
    return _Kernels(bests(load), histograms(load), *draws(load))


_PACKETS, _GATHERED = _made(load_packet), _made(gather_packet)


def _kernels(logits: Any) -> _Kernels:
    return _PACKETS if rows_are_packets(logits) else _GATHERED


def argmax(logits: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Pick each row's largest logit, the first of equals.

    Parameters
    ----------
    logits : float32, float16 or bfloat16 [B, V]
        On a device; V at least 1.
    out : int64 [B], optional
    stream : optional
        By default the current one.

    Returns
    -------
    int64 [B]
        `out`; -1 where the largest logit is not a finite number, or any is NaN.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    out = _checked(logits, out)
    launch_all(_argmax_plan(logits, out), stream)
    return out


def _argmax_plan(logits: Any, out: Any) -> tuple[Launch, ...]:
    best, first = best_plan(logits)
    return first, Launch(row_argmax, (-(-len(logits) // 4),), (32, 4), (logits, best, out))


def best_plan(logits: Any) -> tuple[Any, Launch]:
    """Plan the read that finds the largest logit of each share of a row, and nothing else.

    Parameters
    ----------
    logits : array [B, V]

    Returns
    -------
    best : int64 [B, shares]
        What the launch writes, see :func:`llm_numba.kernels.sampling_parts.row_best`.
    launch : Launch
    """
    nothing, no_masses = _histogram(logits, 0)
    return _best_plan(logits, nothing, nothing, no_masses, nothing)


def sample_tokens(
    logits: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    seeds: Any,
    streams: Any,
    positions: Any,
    *,
    out: Any = None,
    step: str = "histogram",
    stream: Any = None,
) -> Any:
    """Choose the next token of each row, by its own parameters.

    A row's token depends on nothing but its logits and its parameters: sums are sums of integers,
    and the number of parts is that of V.

    Parameters
    ----------
    logits : float32, float16 or bfloat16 [B, V]
        After penalties, on a device; V from 1 to 2^22.
    temperature : float32 [B]
        Below 1e-5 the most likely token is taken, the first of equals.
    top_k : int32 [B]
        Keep the k most likely tokens; 0 and below keep all.
    top_p : float32 [B]
        Keep the fewest most likely tokens whose probabilities reach this sum; 1 keeps all.
    min_p : float32 [B]
        Keep tokens at least this many times as likely as the most likely one; 0 keeps all.
    seeds : uint64 [B]
    streams, positions : int32 [B]
        Of the random number; see :func:`llm_numba.reference.sampling.philox_uniform`.
    out : int64 [B], optional
    step : {"search", "histogram"}
        Of the ladder; both draw the same tokens, rounding next to a border aside.
    stream : optional
        By default the current one.

    Returns
    -------
    int64 [B]
        `out`; -1 where the largest logit is not a finite number, or any is NaN.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    checks.choice("step", step, [each.name for each in LADDER.steps])
    out = _checked(logits, out, SHARE * MAX_SHARES)
    for name, value, dtype in (
        ("temperature", temperature, "float32"),
        ("top_k", top_k, "int32"),
        ("top_p", top_p, "float32"),
        ("min_p", min_p, "float32"),
        ("seeds", seeds, "uint64"),
        ("streams", streams, "int32"),
        ("positions", positions, "int32"),
    ):
        checks.array(name, value, dtype=dtype, shape=(len(logits),), like=logits)
    limits = (temperature, top_k, top_p, min_p)
    launch_all(LADDER.step(step).plan(logits, *limits, seeds, streams, positions, out), stream)
    return out


def _plan_search(
    logits: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    seeds: Any,
    streams: Any,
    positions: Any,
    out: Any,
) -> tuple[Launch, ...]:
    args = (logits, temperature, top_k, top_p, min_p, seeds, streams, positions, out)
    return (Launch(sample_search, (len(logits),), (SEARCH_THREADS,), args),)


def _plan_histogram(
    logits: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    seeds: Any,
    streams: Any,
    positions: Any,
    out: Any,
) -> tuple[Launch, ...]:
    rows, kernels, grid, block = len(logits), _kernels(logits), grid_of(logits), (THREADS,)
    counts, masses = _histogram(logits, BINS)
    counters = empty((rows, COUNTERS), np.int32, like=logits)
    cuts = empty((rows, CUTS), np.int64, like=logits)
    limits = (temperature, top_k, top_p, min_p)
    tops = empty((rows, runs_of(logits)), np.int32, like=logits)
    best, first = _best_plan(logits, tops, counts, masses, counters)
    sure = empty(best.shape, np.int64, like=logits)
    collected = empty((rows, ROOM), np.int64, like=logits)
    found = (cuts, counters, sure, collected)
    histogram = (logits, *limits, best, tops, counts, masses, counters, cuts)
    draw = (logits, *limits, seeds, streams, positions, best, *found, out)
    return (
        first,
        Launch(kernels.row_histogram, grid, block, histogram),
        Launch(kernels.row_candidates, grid, block, (logits, *limits, best, tops, *found)),
        Launch(kernels.row_draw, (rows,), block, draw),
    )


def _best_plan(logits: Any, *results: Any) -> tuple[Any, Launch]:
    """Plan the first read; return the ranks of the shares, and the launch."""
    best = empty((len(logits), shares_of(logits.shape[1])), np.int64, like=logits)
    args = (logits, best, *results)
    return best, Launch(_kernels(logits).share_best, grid_of(logits), (THREADS,), args)


def _histogram(logits: Any, bins: int) -> tuple[Any, Any]:
    shape = (len(logits), bins)
    return empty(shape, np.int32, like=logits), empty(shape, np.int64, like=logits)


def _checked(logits: Any, out: Any, most: int = 2**31 - 1) -> Any:
    checks.array("logits", logits, ndim=2)
    checks.integer(
        "vocabulary (the last axis of 'logits')", logits.shape[1], at_least=1, at_most=most
    )
    if out is None:
        out = empty(len(logits), np.int64, like=logits)
    checks.array("out", out, dtype="int64", shape=(len(logits),), like=logits)
    return out


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    """Draw logits as language models give them, and requests of many kinds."""
    rng = np.random.default_rng(seed)
    rows, vocabulary = shape
    # The logarithm of how common a token is falls with that of its rank: Zipf's law.
    rank = rng.permuted(np.broadcast_to(np.arange(1.0, vocabulary + 1), shape), axis=1)
    logits = 18 - 1.4 * np.log(rank) + rng.normal(scale=0.3, size=shape)
    logits = logits.astype(dtype, order="C")
    operands = {
        "logits": logits,
        "temperature": rng.choice([0, 0.5, 0.8, 1, 1.3], rows).astype(np.float32),
        "top_k": rng.choice([0, 1, 20, 50, 1000], rows).astype(np.int32),
        "top_p": rng.choice([0.5, 0.9, 0.95, 1], rows).astype(np.float32),
        "min_p": rng.choice([0, 0.02, 0.1], rows).astype(np.float32),
        "seeds": rng.integers(2**64, size=rows, dtype=np.uint64),
        "streams": rng.integers(4, size=rows).astype(np.int32),
    }
    operands["positions"] = _clear_positions(**operands)
    return operands | {"out": np.full(rows, -2, np.int64)}


def _clear_positions(
    logits: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    min_p: np.ndarray,
    seeds: np.ndarray,
    streams: np.ndarray,
) -> np.ndarray:
    """Find positions whose random numbers do not fall next to the border of two tokens.

    There rounding decides, in float32 not as in float64; so tokens can be asked to be equal.
    """
    positions = np.zeros(len(logits), np.int32)
    for b in range(len(logits)):
        row = slice(b, b + 1)
        limits = (temperature[row].clip(GREEDY_BELOW), top_k[row], top_p[row], min_p[row])
        probs = reference.sampling_probabilities(*_exact(logits[row], *limits))
        borders = np.cumsum(probs)
        for positions[b] in range(1000):
            uniform = reference.philox_uniform(seeds[row], streams[row], positions[row])
            if np.abs(borders - uniform).min() > _CLEARANCE:
                break
    return positions


def _exact(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array if array.dtype.kind in "iu" else array.astype(np.float64) for array in arrays]


def _expect(out: np.ndarray, **operands: np.ndarray) -> dict[str, np.ndarray]:
    exact = _exact(*operands.values())
    return {"out": reference.sample_tokens(**dict(zip(operands, exact, strict=True)))}


LADDER = Ladder(
    name="sample",
    steps=(
        Step(
            "search",
            "A block a row halves the interval of logits, and reads the row for each question.",
            _plan_search,
            (sample_search,),
        ),
        Step(
            "histogram",
            "Many blocks a row, three reads: a histogram leaves few tokens in doubt.",
            _plan_histogram,
            (*_PACKETS, *_GATHERED),
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=("float32", "float16", "bfloat16"),
    example=(4, 2048),
    axes="B V",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: math.prod(shape) * itemsize,
    flops=lambda shape: 3 * math.prod(shape),
)
