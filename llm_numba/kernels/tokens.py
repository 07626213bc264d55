"""Tokens that go from one step to the next without a way over the host, on a device.

One thread a token. It takes the token that the host gave, or, where the host left a gap, the one
that the step before sampled. A kilobyte or two: the ceiling is the launch.
"""

from typing import Any

from numba import cuda

from llm_numba.kernels import checks, ptx
from llm_numba.runtime import Launch, empty, launch_all, starts_early

_THREADS = 128


@starts_early
@cuda.jit
def filled_in(token_ids, sources, sampled, out):
    """Copy given tokens, and fetch the others."""
    ptx.release_next_kernel()
    ptx.await_previous_kernel()
    i = cuda.grid(1)
    if i < token_ids.size:
        token = token_ids[i]
        out[i] = token if token >= 0 else sampled[sources[i]]


def fill_in_tokens(
    token_ids: Any, sources: Any, sampled: Any, *, out: Any = None, stream: Any = None
) -> Any:
    """Put sampled tokens where the host left gaps.

    Parameters
    ----------
    token_ids : int32 [N]
        On a device; a negative one is a gap.
    sources : int32 [N]
        Of a gap the row of `sampled`; of all others anything.
    sampled : int64 [B]
    out : int32 [N], optional
    stream : optional
        By default the current one.

    Returns
    -------
    int32 [N]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("token_ids", token_ids, ndim=1, dtype="int32")
    checks.array("sources", sources, dtype="int32", shape=token_ids.shape, like=token_ids)
    checks.array("sampled", sampled, ndim=1, dtype="int64", like=token_ids)
    if out is None:
        out = empty(token_ids.shape, "int32", like=token_ids)
    checks.array("out", out, dtype="int32", shape=token_ids.shape, like=token_ids)
    grid = (-(-token_ids.size // _THREADS),)
    launch_all([Launch(filled_in, grid, (_THREADS,), (token_ids, sources, sampled, out))], stream)
    return out
