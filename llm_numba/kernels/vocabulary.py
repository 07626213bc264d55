r"""A vocabulary spread over ranks, on a device.

What each rank does of a lookup and of an argmax is in :mod:`llm_numba.reference.vocabulary`.

The lookup is a copy with an indirection, one number in each thread::

    token_ids   [  7 |  3 | 12 | ... ]           rows 8 to 15 are here: first = 8
    out         | 0 0 0 ... | 0 0 0 ... | row 12 | ...

A step of decoding copies a few rows of some KiB: the ceiling is the launch. The argmax of a part
is the first read of :mod:`llm_numba.kernels.sampling`, and then a warp for each row.
"""

from typing import Any

import numpy as np
from numba import cuda, float32, int64

from llm_numba.kernels import checks, ptx
from llm_numba.kernels.sampling import best_plan
from llm_numba.kernels.sampling_numbers import INFINITY_KEY, key_of, key_of_ranked, value_of
from llm_numba.kernels.sampling_parts import first_of_run, row_best
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype

_THREADS = 256
_ROWS = 4  # of a block, a warp each
_MOST_TOKENS = 1 << 24


@cuda.jit
def look_up_part(token_ids, weight, first, out):
    """Copy one number of a row that is here; else write zero."""
    i = cuda.grid(1)
    row, column = i // weight.shape[1], i % weight.shape[1]
    if row >= out.shape[0]:
        return
    at = token_ids[row] - first
    if 0 <= at < weight.shape[0]:
        out[row, column] = weight[at, column]
    else:
        out[row, column] = ptx.from_float(out, float32(0))


@cuda.jit
def row_argmax_part(logits, best, first, out):
    """Choose among the shares of a row; a warp a row."""
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < best.shape[0]:
        rank = row_best(best, row)
        token = first_of_run(logits, row, rank)
        if cuda.threadIdx.x == 0:
            out[row, 0] = value_of(key_of_ranked(rank))
            out[row, 1] = float32(first + token)


@cuda.jit
def choose_part(parts, out):
    """Choose among the ranks' best; a thread a row."""
    row = cuda.grid(1)
    if row >= out.size:
        return
    chosen, largest = 0, key_of(parts[0, row, 0])
    for p in range(1, parts.shape[0]):
        key = key_of(parts[p, row, 0])
        if key > largest:
            chosen, largest = p, key
    is_finite = -INFINITY_KEY - 1 < largest < INFINITY_KEY
    out[row] = int64(parts[chosen, row, 1]) if is_finite else int64(-1)


def embedding_part(
    token_ids: Any, weight: Any, first: int, *, out: Any = None, stream: Any = None
) -> Any:
    """Look up the tokens whose rows are here; of all others nothing.

    Parameters
    ----------
    token_ids : int32 [N]
    weight : float32, float16 or bfloat16 [V/P, E]
    first : int
        The token of its first row.
    out : as weight [N, E], optional
    stream : optional
        By default the current one.

    Returns
    -------
    as weight [N, E]
        `out`: zeros for tokens of other ranks, all else bit for bit.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout, device or value.
    """
    checks.array("weight", weight, ndim=2)
    checks.array("token_ids", token_ids, ndim=1, dtype="int32", like=weight)
    first = checks.integer("first", first)
    shape = (len(token_ids), weight.shape[1])
    if out is None:
        out = empty(shape, weight.dtype, like=weight)
    checks.array("out", out, dtype=storage_dtype(weight), shape=shape, like=weight)
    if out.size > 0:
        args = (token_ids, weight, np.int32(first), out)
        launch_all((Launch(look_up_part, (-(-out.size // _THREADS),), (_THREADS,), args),), stream)
    return out


def argmax_part(logits: Any, first: int, *, out: Any = None, stream: Any = None) -> Any:
    """Pick each row's largest logit among the tokens that are here, the first of equals.

    Parameters
    ----------
    logits : float32 [N, V/P]
    first : int
        The token of the first column; all tokens are below 2^24, which float32 counts exactly.
    out : float32 [N, 2], optional
    stream : optional
        By default the current one.

    Returns
    -------
    float32 [N, 2]
        `out`: the logit and its token; NaN, with any token, where one of them is NaN.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout, device or value.
    """
    checks.array("logits", logits, ndim=2, dtype="float32")
    rows, columns = logits.shape
    checks.integer("vocabulary (the last axis of 'logits')", columns, at_least=1)
    first = checks.integer("first", first, at_most=_MOST_TOKENS - columns)
    if out is None:
        out = empty((rows, 2), np.float32, like=logits)
    checks.array("out", out, dtype="float32", shape=(rows, 2), like=logits)
    best, launch = best_plan(logits)
    args = (logits, best, np.int32(first), out)
    launch_all((launch, Launch(row_argmax_part, (-(-rows // _ROWS),), (32, _ROWS), args)), stream)
    return out


def argmax_of_parts(parts: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Pick each row's largest logit among those that the ranks found, the first of equals.

    Parameters
    ----------
    parts : float32 [P, N, 2]
        By rank what :func:`argmax_part` returns; tokens of later ranks are larger ones.
    out : int64 [N], optional
    stream : optional
        By default the current one.

    Returns
    -------
    int64 [N]
        `out`; -1 where the largest logit is not a finite number, or any is NaN.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("parts", parts, shape=(None, None, 2), dtype="float32")
    checks.integer("ranks (the first axis of 'parts')", parts.shape[0], at_least=1)
    rows = parts.shape[1]
    if out is None:
        out = empty(rows, np.int64, like=parts)
    checks.array("out", out, dtype="int64", shape=(rows,), like=parts)
    grid = (-(-rows // _THREADS),)
    launch_all((Launch(choose_part, grid, (_THREADS,), (parts, out)),), stream)
    return out
