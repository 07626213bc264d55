"""Penalties on tokens that were seen before, on a device.

One thread a token, several tokens a thread: a logit and a count of 4 bytes, a flag of one, and a
logit back. A handful of operations for 13 bytes: memory is the ceiling.
"""

from typing import Any

from numba import cuda, float32

from llm_numba.kernels import checks, ptx
from llm_numba.runtime import Launch, empty_like, launch_all, storage_dtype

_THREADS = 256
_TOKENS = 8  # of a thread


@cuda.jit
def penalties(logits, counts, in_prompt, repetition, presence, frequency, out):
    """Divide or multiply what was seen, then subtract for what was generated."""
    row = cuda.blockIdx.y
    first = cuda.blockIdx.x * _THREADS * _TOKENS + cuda.threadIdx.x
    for i in range(_TOKENS):
        column = first + i * _THREADS
        if column < logits.shape[1]:
            value, count = ptx.to_float(logits[row, column]), counts[row, column]
            if count > 0 or in_prompt[row, column]:
                factor = repetition[row]
                value = value / factor if value > float32(0) else value * factor
            if count > 0:
                value -= presence[row] + frequency[row] * float32(count)
            out[row, column] = ptx.from_float(out, value)


def apply_penalties(
    logits: Any,
    counts: Any,
    in_prompt: Any,
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
    counts : int32 [B, V]
        How often each token was generated so far.
    in_prompt : bool [B, V]
        Whether each token occurs in the prompt; only the repetition penalty looks at it.
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
    rows = (len(logits),)
    for name, value, dtype, shape in (
        ("counts", counts, "int32", logits.shape),
        ("in_prompt", in_prompt, "bool", logits.shape),
        ("repetition", repetition, "float32", rows),
        ("presence", presence, "float32", rows),
        ("frequency", frequency, "float32", rows),
    ):
        checks.array(name, value, dtype=dtype, shape=shape, like=logits)
    if out is None:
        out = empty_like(logits)
    checks.array("out", out, dtype=storage_dtype(logits), shape=logits.shape, like=logits)
    blocks = -(-logits.shape[1] // (_THREADS * _TOKENS))
    args = (logits, counts, in_prompt, repetition, presence, frequency, out)
    launch_all([Launch(penalties, (blocks, len(logits)), (_THREADS,), args)], stream)
    return out
