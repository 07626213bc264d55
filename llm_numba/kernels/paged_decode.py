r"""Decoding attention: one new token of each sequence over its own paged keys and values.

.. math:: o_h = \sum_t p_t v_{t,g}, \qquad p = \mathrm{softmax}_t(s\, q_h \cdot k_{t,g}),
          \qquad g = \lfloor h / (H/G) \rfloor

q and o are [B, H, D]; the caches [num_blocks, block_size, G, D]; float32, float16 or bfloat16 in
memory, float32 in registers. Position t of sequence b lies in block ``block_tables[b, t //
block_size]``, row ``t % block_size``. It counts if t is below ``context_lens[b]`` and within the
window, if there is one. Lengths and tables lie on the device; the host knows the shapes alone.

4 B T H D FLOPs for 2 B T G D numbers: 2 H/G FLOPs a byte in bfloat16, where tensor cores would
need hundreds to be busy. Memory is the ceiling, and the fewest bytes are one read of each key and
value. How the steps come closer, for a group of R = H / G query heads:

==============  =====================  ==================  =======================================
step            reads of each K, V     blocks              a load of a warp
==============  =====================  ==================  =======================================
``naive``       R, and the scores      B H                 keys: 32 rows; values: 32 numbers
``online``      R                      B H                 32 numbers, side by side
``grouped``     1 (up to 8 heads)      B G                 32 numbers
``vectorised``  1                      B G                 32 packets of 16 bytes, several at once
``staged``      1                      B G                 the same, into shared memory, on and on
``split``       1                      B G pieces          the same
``joined``      1                      B G pieces          the same, into registers; one launch
==============  =====================  ==================  =======================================

All powers are of two: the launcher multiplies the scale by :math:`\log_2 e`. A context of no
position gives zeros: rows of padding cost a launch nothing else.

References
----------
Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
SOSP 2023; Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
"Flash-Decoding for long-context inference", 2023 (split-KV).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.paged_decode_parts import MAX_HEAD_DIM
from llm_numba.kernels.paged_decode_plans import (
    candidates,
    fixed_rule,
    plan_grouped,
    plan_joined,
    plan_naive,
    plan_online,
    plan_split,
    plan_staged,
    plan_vectorised,
    rule,
    shape_of,
)
from llm_numba.kernels.tuning import Tunable, choose
from llm_numba.runtime import Launch, empty_like, launch_all, storage_dtype

_DTYPES = ("float32", "float16", "bfloat16")
_EXAMPLE = (64, 2, 4, 2, 128)
_EXAMPLE_BLOCK = 16


def paged_decode_attention(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    block_tables: Any,
    context_lens: Any,
    scale: float,
    window: int | None = None,
    *,
    out: Any = None,
    arrived: Any = None,
    step: str = "joined",
    batch_invariant: bool = False,
    stream: Any = None,
) -> Any:
    """Attend from one new token of each sequence to its own paged context, on a device.

    Parameters
    ----------
    q : float32, float16 or bfloat16 [B, H, D]
        D at most 256.
    k_cache, v_cache : as q [num_blocks, block_size, G, D]
        G divides H.
    block_tables : int32 [B, W]
        Rows shorter than W are padded with anything: only blocks of the context are looked up.
    context_lens : int32 [B]
        Keys of each sequence, the new token's own included, at most W * block_size. 0 is a row
        of padding and gives zeros.
    scale : float
        Usually 1/sqrt(D).
    window : int, optional
        How many positions a query sees, its own included; at least 1.
    out : as q [B, H, D], optional
    arrived : int32 [n], optional
        Counters, at least B * H, all zero; and zero again afterwards. With them short contexts
        take one launch. Calls that may run at the same time must not share them.
    step : {"naive", "online", "grouped", "vectorised", "staged", "split", "joined"}
        Of the ladder.
    batch_invariant : bool
        Make the result of a sequence independent of what else is in the batch, to the bit: the
        pieces of the last steps then have one length always, and none that suits the batch. In
        the steps before, it is so anyway.
    stream : optional
        By default the current one.

    Returns
    -------
    as q [B, H, D]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, H is no multiple of G, D
        is above 256, or there is no such step.
    """
    checks.array("q", q, ndim=3)
    batch, num_heads, head_dim = q.shape
    dtype = storage_dtype(q)
    checks.array("k_cache", k_cache, dtype=dtype, shape=(None, None, None, head_dim), like=q)
    checks.array("v_cache", v_cache, dtype=dtype, shape=k_cache.shape, like=q)
    checks.array("block_tables", block_tables, dtype="int32", shape=(batch, None), like=q)
    checks.array("context_lens", context_lens, dtype="int32", shape=(batch,), like=q)
    scale = checks.number("scale", scale, finite=True)
    if window is not None:
        window = checks.integer("window", window, at_least=1)
    checks.choice("step", step, [each.name for each in LADDER.steps])
    checks.integer("q.shape[2]", head_dim, at_least=1, at_most=MAX_HEAD_DIM)
    if k_cache.shape[2] == 0 or num_heads % k_cache.shape[2]:
        raise KernelArgumentError(
            f"Argument 'q' has {num_heads} heads for the {k_cache.shape[2]} of 'k_cache'.",
            "Each head of the cache must serve as many query heads.",
        )
    if out is None:
        out = empty_like(q)
    checks.array("out", out, dtype=dtype, shape=q.shape, like=q)
    if arrived is not None:
        checks.array("arrived", arrived, ndim=1, dtype="int32", like=q)
        checks.integer("len(arrived)", len(arrived), at_least=batch * num_heads)
    operands = {
        "q": q, "k_cache": k_cache, "v_cache": v_cache, "block_tables": block_tables,
        "context_lens": context_lens, "scale": scale, "window": window, "out": out,
        "arrived": arrived,
    }  # fmt: skip
    if q.size > 0:
        if batch_invariant and step in ("split", "joined"):
            plan = functools.partial(plan_split, fixed_rule(shape_of(**operands), dtype))
        else:
            plan = LADDER.step(step).plan
        launch_all(plan(**operands), stream)
    return out


def _plan_chosen(**operands: Any) -> tuple[Launch, ...]:
    q = operands["q"]
    config = choose(TUNABLE, shape_of(**operands), storage_dtype(q), like=q)
    return plan_split(config, **operands)


def plan_short(**operands: Any) -> tuple[Launch, ...]:
    """Plan the last step; operands as of :func:`paged_decode_attention`."""
    return plan_joined(**operands) or _plan_chosen(**operands)


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    head_dim, num_kv_heads, group, batch, length = shape
    rng = np.random.default_rng(seed)
    width = math.ceil(length / _EXAMPLE_BLOCK)
    num_blocks = batch * width + 1

    def normal(*axes: int) -> np.ndarray:
        return rng.standard_normal(axes, np.float32).astype(dtype)

    q = normal(batch, num_kv_heads * group, head_dim)
    caches = [normal(num_blocks, _EXAMPLE_BLOCK, num_kv_heads, head_dim) for _ in range(2)]
    tables = rng.permutation(num_blocks)[: batch * width].reshape(batch, width)
    return {
        "q": q,
        "k_cache": caches[0],
        "v_cache": caches[1],
        "block_tables": tables.astype(np.int32),
        "context_lens": np.full(batch, length, np.int32),
        "scale": head_dim**-0.5,
        "window": None,
        "out": np.full_like(q, np.nan),
        "arrived": np.zeros(batch * num_kv_heads * group, np.int32),
    }


def _expect(
    q: np.ndarray, k_cache: np.ndarray, v_cache: np.ndarray, block_tables: np.ndarray,
    context_lens: np.ndarray, scale: float, window: int | None, out: np.ndarray,
    arrived: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    # Of a large cache, only the blocks that are asked for become float64.
    used, tables = np.unique(block_tables, return_inverse=True)
    exact = [each.astype(np.float64) for each in (q, k_cache[used], v_cache[used])]
    tables = tables.reshape(block_tables.shape)
    return {"out": reference.paged_decode_attention(*exact, tables, context_lens, scale, window)}


def _fewest_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    head_dim, num_kv_heads, group, batch, length = shape
    return 2 * batch * num_kv_heads * (length + group) * head_dim * itemsize


def _flops(shape: tuple[int, ...]) -> int:
    return 4 * math.prod(shape)


def _bucket(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Batches and contexts by powers of two: they change from step to step."""
    *model, batch, length = shape
    return (*model, _power_of_two(batch), _power_of_two(length))


def _power_of_two(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _plan_ruled(**operands: Any) -> tuple[Launch, ...]:
    """Plan the last step as the rule has it: tables of a GPU change nothing in its kernels."""
    return plan_split(rule(shape_of(**operands), storage_dtype(operands["q"])), **operands)


def plan_short_ruled(**operands: Any) -> tuple[Launch, ...]:
    """Plan the last step as the rule has it."""
    return plan_joined(**operands) or _plan_ruled(**operands)


def kernels_of(
    operands: Callable[..., Operands], *plans: Callable[..., tuple[Launch, ...]]
) -> tuple[Any, ...]:
    """Return what is launched for the example, for an odd head dimension, and for a single head.

    Kernels are made for a group, a head dimension and a format: there is no end of them.

    Parameters
    ----------
    operands : callable
        A ladder's, with these axes.
    *plans : callable
    """
    launches = [
        launch
        for plan in plans
        for shape in (_EXAMPLE, tuple(length + 1 for length in _EXAMPLE), (1,) * len(_EXAMPLE))
        for dtype in _DTYPES
        for launch in plan(**operands(shape, np.dtype(dtype), 0))
    ]
    return tuple(dict.fromkeys(launch.kernel for launch in launches))


_kernels = functools.partial(kernels_of, _operands)

LADDER = Ladder(
    name="paged_decode",
    steps=(
        Step(
            "naive",
            "A thread a key, scores in memory: what one would write for a CPU.",
            plan_naive,
            _kernels(plan_naive),
        ),
        Step(
            "online",
            "A warp a key and the online softmax: no scores in memory, no gaps in a request.",
            plan_online,
            _kernels(plan_online),
        ),
        Step(
            "grouped",
            "All query heads of a KV head together: each key and value is read once for them.",
            plan_grouped,
            _kernels(plan_grouped),
        ),
        Step(
            "vectorised",
            "16 bytes a lane, several keys at once, and an exchange in place of butterflies.",
            plan_vectorised,
            _kernels(plan_vectorised, plan_grouped),
        ),
        Step(
            "staged",
            "A ring of tiles in shared memory: the next ones come while one is used.",
            plan_staged,
            _kernels(plan_staged, plan_grouped),
        ),
        Step(
            "split",
            "Pieces of a context in different blocks: enough of them for every SM.",
            _plan_chosen,
            _kernels(_plan_ruled, plan_grouped),
        ),
        Step(
            "joined",
            "Short contexts in registers, and their last block merges: one launch.",
            plan_short,
            _kernels(plan_short_ruled, plan_grouped),
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=_DTYPES,
    example=_EXAMPLE,
    axes="D G R B T",
    ceiling="memory",
    fewest_bytes=_fewest_bytes,
    flops=_flops,
)

TUNABLE = Tunable(
    LADDER,
    rule,
    candidates,
    plan_split,
    shapes=((128, 8, 4, 16, 8192), (128, 8, 4, 1, 32768), (128, 8, 4, 64, 1024)),
    bucket=_bucket,
)
