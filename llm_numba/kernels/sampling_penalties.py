"""Penalties on tokens that were seen before, on a device.

A row has seen some hundreds of tokens of its hundred thousand, so they come as a list. A block
copies its part of a row, and then walks along the row's list: what lies in its part, it corrects.
A logit is read and written; what is computed on the way is little. Memory is the ceiling.

::

    block       0               1               2
    row b       o o o o o o o o | o o o o o o o o | o o o o o o o o   copied by the block's threads
                    ^             ^         ^
    list of b   5 x 2           11 x 1  14 x 0                        walked along by every block

The token that was sampled last may not have come to the host yet. It is `latest`: where it is in
the list, it counts once more, and else the block that has it corrects it at the end.
"""

from typing import Any

from numba import cuda, float32, int32

from llm_numba.kernels import checks, ptx
from llm_numba.runtime import Launch, empty_like, launch_all, storage_dtype

_THREADS = 256
_TOKENS = 8  # of a thread
_SPAN = _THREADS * _TOKENS


@cuda.jit(device=True)
def _correct(out, row, token, count, repetition, presence, frequency):
    """Divide or multiply what was seen, then subtract for what was generated."""
    value, factor = ptx.to_float(out[row, token]), repetition[row]
    value = value / factor if value > float32(0) else value * factor
    if count > 0:
        value -= presence[row] + frequency[row] * float32(count)
    out[row, token] = ptx.from_float(out, value)


@cuda.jit
def penalties(logits, tokens, counts, starts, latest, repetition, presence, frequency, out):
    """Copy a part of a row, and correct what was seen of it."""
    row, thread = cuda.blockIdx.y, cuda.threadIdx.x
    begin = cuda.blockIdx.x * _SPAN
    end = min(begin + _SPAN, logits.shape[1])
    for i in range(_TOKENS):
        column = begin + thread + i * _THREADS
        if column < end:
            out[row, column] = logits[row, column]
    # A thread may correct what another has copied.
    cuda.syncthreads()
    new, listed = latest[row], int32(0)
    for i in range(starts[row] + thread, starts[row + 1], _THREADS):
        token, count = tokens[i], counts[i]
        if token == new:
            count, listed = count + int32(1), int32(1)
        if begin <= token < end:
            _correct(out, row, token, count, repetition, presence, frequency)
    if cuda.syncthreads_or(listed) == 0 and thread == 0 and begin <= new < end:
        _correct(out, row, new, int32(1), repetition, presence, frequency)


def apply_penalties(
    logits: Any,
    tokens: Any,
    counts: Any,
    starts: Any,
    latest: Any,
    repetition: Any,
    presence: Any,
    frequency: Any,
    *,
    out: Any = None,
    stream: Any = None,
) -> Any:
    """Make tokens that were seen before less likely.

    Parameters
    ----------
    logits : float32, float16 or bfloat16 [B, V]
        On a device.
    tokens : int32 [S]
        Those seen by each row, one row after the other; none twice in a row.
    counts : int32 [S]
        How often each was generated; 0 if it is in the prompt only, where the repetition penalty
        alone looks at it.
    starts : int32 [B + 1]
        Row b has seen ``tokens[starts[b]:starts[b + 1]]``.
    latest : int32 [B]
        A token that was generated since, and is in no count yet; outside of 0 to V - 1 for none.
    repetition : float32 [B]
        Positive logits of seen tokens are divided by it, negative ones multiplied.
    presence : float32 [B]
        Subtracted once from generated tokens.
    frequency : float32 [B]
        Subtracted from generated tokens once for each time.
    out : as logits, optional
        Where the result goes; may be `logits`.
    stream : optional
        By default the current one.

    Returns
    -------
    as logits [B, V]
        `out`; computed in float32, rounded once.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("logits", logits, ndim=2)
    checks.array("tokens", tokens, ndim=1, dtype="int32", like=logits)
    checks.array("counts", counts, dtype="int32", shape=tokens.shape, like=logits)
    checks.array("starts", starts, dtype="int32", shape=(len(logits) + 1,), like=logits)
    checks.array("latest", latest, dtype="int32", shape=logits.shape[:1], like=logits)
    factors = {"repetition": repetition, "presence": presence, "frequency": frequency}
    for name, value in factors.items():
        checks.array(name, value, dtype="float32", shape=logits.shape[:1], like=logits)
    if out is None:
        out = empty_like(logits)
    checks.array("out", out, dtype=storage_dtype(logits), shape=logits.shape, like=logits)
    grid = (-(-logits.shape[1] // _SPAN), len(logits))
    args = (logits, tokens, counts, starts, latest, *factors.values(), out)
    launch_all([Launch(penalties, grid, (_THREADS,), args)], stream)
    return out
