r"""All that lies between two products of a decoding step: RoPE, the KV write, attention.

q, k and v of a new token come from one product, [B, (H + 2G) D]. Queries and keys turn by the angle
of their position, key and value go to the paged cache, and each query attends to its context:

.. math:: o_h = \sum_t p_t v_{t,g}, \qquad
          p = \mathrm{softmax}_t(s\, R_n q_h \cdot k_{t,g}), \qquad k_{n,g} = R_n k_g

with the new token's position n, the last of its context, and the rotation :math:`R_n` of
:mod:`~llm_numba.kernels.rope`.

==============  ========================================  ==========================
step            passes over q, k, v                       launches
==============  ========================================  ==========================
``apart``       q: 2 reads, 1 write; k, v: 2 and 1        2; 3 where it is split
``turning``     q, k, v: a read                           1
==============  ========================================  ==========================

Of a short context memory is the ceiling in name alone: what a launch costs is more than what it
moves. So the second step is for those, and others take the first.

References
----------
Su et al., "RoFormer", 2021; Dao et al., "Flash-Decoding for long-context inference", 2023.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks, paged_decode
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.paged_decode_parts import MAX_HEAD_DIM
from llm_numba.kernels.paged_decode_plans import plan_grouped, plan_turning
from llm_numba.kernels.rope_plans import plan_fused_vectorised
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype


def rope_and_decode_attention(
    qkv: Any,
    positions: Any,
    cos: Any,
    sin: Any,
    k_cache: Any,
    v_cache: Any,
    slot_mapping: Any,
    block_tables: Any,
    context_lens: Any,
    scale: float,
    window: int | None = None,
    *,
    out: Any = None,
    arrived: Any = None,
    step: str = "turning",
    stream: Any = None,
) -> Any:
    """Turn queries and keys, write keys and values, and attend, one new token a sequence.

    Parameters
    ----------
    qkv : float32, float16 or bfloat16 [B, (H + 2G) D]
        Of each token all queries, then all keys, then all values. D at most 256.
    positions : int32 [B]
        The last of each context: ``context_lens - 1``, and anything of a row of padding.
    cos, sin : float32 [T, d/2]
        As of :func:`llm_numba.kernels.rope.rope`.
    k_cache, v_cache : as qkv [num_blocks, block_size, G, D]
        Written in place.
    slot_mapping : int32 [B]
        Where `block_tables` have that position; of a row of padding a slot that nobody reads, or
        -1.
    block_tables : int32 [B, W]
    context_lens : int32 [B]
        Keys of each sequence, the new token's own included. 0 is a row of padding and gives zeros.
    scale : float
    window : int, optional
        How many positions a query sees, its own included; at least 1.
    out : as qkv [B, H, D], optional
    arrived : int32 [n], optional
        As of :func:`llm_numba.kernels.paged_decode.paged_decode_attention`: without it, queries
        turn in a launch of their own.
    step : {"apart", "turning"}
        Of the ladder.
    stream : optional
        By default the current one.

    Returns
    -------
    as qkv [B, H, D]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, H is no multiple of G, D
        is above 256, or there is no such step.
    """
    checks.array("qkv", qkv, ndim=2)
    dtype, batch = storage_dtype(qkv), len(qkv)
    checks.array("k_cache", k_cache, ndim=4, dtype=dtype, like=qkv)
    checks.array("v_cache", v_cache, dtype=dtype, shape=k_cache.shape, like=qkv)
    groups, head_dim = k_cache.shape[2:]
    checks.integer("k_cache.shape[3]", head_dim, at_least=1, at_most=MAX_HEAD_DIM)
    heads = checks.integer("heads of q", qkv.shape[1] // head_dim - 2 * groups, at_least=1)
    checks.array("qkv", qkv, shape=(None, (heads + 2 * groups) * head_dim))
    if groups == 0 or heads % groups:
        raise KernelArgumentError(
            f"Argument 'qkv' has {heads} query heads for the {groups} of 'k_cache'.",
            "Each head of the cache must serve as many query heads.",
        )
    integers = {"dtype": "int32", "like": qkv}
    for name, value in (
        ("positions", positions), ("slot_mapping", slot_mapping), ("context_lens", context_lens),
    ):  # fmt: skip
        checks.array(name, value, shape=(batch,), **integers)
    checks.array("block_tables", block_tables, shape=(batch, None), **integers)
    checks.array("cos", cos, ndim=2, dtype="float32", like=qkv)
    checks.integer("2 * cos.shape[1]", 2 * cos.shape[1], at_most=head_dim)
    checks.array("sin", sin, dtype="float32", shape=cos.shape, like=qkv)
    scale = checks.number("scale", scale, finite=True)
    if window is not None:
        window = checks.integer("window", window, at_least=1)
    checks.choice("step", step, [each.name for each in LADDER.steps])
    if arrived is not None:
        checks.array("arrived", arrived, ndim=1, **integers)
        checks.integer("len(arrived)", len(arrived), at_least=batch * heads)
    if out is None:
        out = empty((batch, heads, head_dim), qkv.dtype, like=qkv)
    checks.array("out", out, dtype=dtype, shape=(batch, heads, head_dim), like=qkv)
    if out.size > 0:
        launches = LADDER.step(step).plan(
            qkv=qkv, positions=positions, cos=cos, sin=sin, k_cache=k_cache, v_cache=v_cache,
            slot_mapping=slot_mapping, block_tables=block_tables, context_lens=context_lens,
            scale=scale, window=window, out=out, arrived=arrived,
        )  # fmt: skip
        launch_all(launches, stream)
    return out


def _plan_apart(
    qkv: Any, positions: Any, cos: Any, sin: Any, slot_mapping: Any, out: Any,
    attend: Callable[..., tuple[Launch, ...]] = paged_decode.plan_short, **others: Any,
) -> tuple[Launch, ...]:  # fmt: skip
    """Plan two operations, with the queries in memory between them."""
    q, nothing = empty(out.shape, out.dtype, like=out), empty((0,), qkv.dtype, like=qkv)
    caches = {name: others[name] for name in ("k_cache", "v_cache")}
    turn = plan_fused_vectorised(
        qkv=qkv, positions=positions, cos=cos, sin=sin, **caches, slot_mapping=slot_mapping,
        q_norm=nothing, k_norm=nothing, eps=0.0, out=q,
    )  # fmt: skip
    return (*turn, *attend(q=q, out=out, **others))


def _plan_turning(**operands: Any) -> tuple[Launch, ...]:
    return plan_turning(**operands) or _plan_apart(**operands)


_apart_ruled = functools.partial(_plan_apart, attend=paged_decode.plan_short_ruled)


def _turning_ruled(**operands: Any) -> tuple[Launch, ...]:
    """Plan the last step as the rule has it: tables of a GPU change nothing in its kernels."""
    return plan_turning(**operands) or _apart_ruled(**operands)


def _plan_grouped(qkv: Any, out: Any, **operands: Any) -> tuple[Launch, ...]:
    """Plan the attention of arrays that no packets of 16 bytes begin on."""
    for name in ("positions", "cos", "sin", "slot_mapping"):
        del operands[name]
    return plan_grouped(q=out, out=out, **operands)


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    head_dim, groups, group, batch, length = shape
    made = paged_decode.LADDER.operands(shape, dtype, seed)
    del made["q"]
    rng = np.random.default_rng(seed)
    width = (group + 2) * groups * head_dim
    frequencies = reference.rope_frequencies(head_dim // 2 * 2, 10000.0, reference.RopeScaling())
    cos, sin = reference.rope_tables(frequencies, max(1, length), np.float32)
    newest, tables, block_size = length - 1, made["block_tables"], made["k_cache"].shape[1]
    slots = tables[:, newest // block_size] * block_size + newest % block_size
    return {
        "qkv": rng.standard_normal((batch, width), np.float32).astype(dtype),
        "positions": np.full(batch, newest, np.int32),
        "cos": cos,
        "sin": sin,
        "slot_mapping": slots.astype(np.int32),
        **made,
    }


def _expect(out: np.ndarray, arrived: np.ndarray, **operands: Any) -> dict[str, np.ndarray]:
    exact = {
        name: value.astype(np.float64) if name in _FLOATS else value
        for name, value in operands.items()
    }
    found = reference.rope_and_decode_attention(**exact)
    return {"out": found, "k_cache": exact["k_cache"], "v_cache": exact["v_cache"]}


_FLOATS = ("qkv", "cos", "sin", "k_cache", "v_cache")


def _fewest_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    head_dim, groups, group, batch, length = shape
    numbers = 2 * batch * groups * (length + group + 1) * head_dim
    return numbers * itemsize + batch * head_dim // 2 * 8


LADDER = Ladder(
    name="rope_attention",
    steps=(
        Step(
            "apart",
            "RoPE and the KV write by a kernel, and attention by another: queries go to memory.",
            _plan_apart,
            paged_decode.kernels_of(_operands, _apart_ruled, _plan_grouped),
        ),
        Step(
            "turning",
            "Attention turns queries in registers, and has the newest key before the cache has it.",
            _plan_turning,
            paged_decode.kernels_of(_operands, _turning_ruled, _plan_grouped),
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=paged_decode.LADDER.dtypes,
    example=paged_decode.LADDER.example,
    axes="D G R B T",
    ceiling="memory",
    fewest_bytes=_fewest_bytes,
    flops=lambda shape: 4 * math.prod(shape),
)
