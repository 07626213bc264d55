r"""Rotary position embedding (RoPE), alone and as what stands between q, k, v and attention.

.. math::

    y_i = x_i \cos p\theta_i - x_{i+d/2} \sin p\theta_i, \qquad
    y_{i+d/2} = x_{i+d/2} \cos p\theta_i + x_i \sin p\theta_i, \qquad 0 \le i < d/2

x is [N, H, D], float32, float16 or bfloat16 in memory, float32 in registers; components from d on
pass. Cosines and sines come from tables [T, d/2], float32 whatever x is: bfloat16 has 8 bits for
an angle that is to tell position 1000 from 1001. All variants of RoPE are in the tables.

3 operations a component for one read and one write: memory is the ceiling. In a model RoPE never
stands alone. Before it some normalise each head (Qwen3), behind it k and v go to the paged cache:

===========================  =======================  =======================
pass over memory             apart                    :func:`rope_and_write_kv`
===========================  =======================  =======================
q                            2 reads, 2 writes        1 read, 1 write
k                            3 reads, 3 writes        1 read, 1 write
v                            1 read, 1 write          1 read, 1 write
===========================  =======================  =======================

References
----------
Su et al., "RoFormer", 2021; Qwen Team, "Qwen3 Technical Report", 2025 (QK norm); Kwon et al.,
"Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023.
"""

import math
from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.kernels import checks
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.packets import rounded_up
from llm_numba.kernels.rope_heads import norm_heads, rope_naive, rope_write_heads, write_heads
from llm_numba.kernels.rope_packets import rope_write_vectorised, vectorised
from llm_numba.kernels.rope_plans import (
    CANDIDATES,
    plan_apart,
    plan_fused,
    plan_fused_vectorised,
    plan_naive,
    plan_vectorised,
    rule,
)
from llm_numba.kernels.tuning import Tunable, choose
from llm_numba.runtime import Launch, empty, empty_like, launch_all, storage_dtype

_BLOCK_SIZE = 16  # of the ladder's cache


def _plan_vectorised(x: Any, **others: Any) -> tuple[Launch, ...]:
    config = choose(TUNABLE, x.shape, storage_dtype(x), like=x)
    return plan_vectorised(x, **others, config=config)


def rope(
    x: Any,
    positions: Any,
    cos: Any,
    sin: Any,
    *,
    out: Any = None,
    step: str = "vectorised",
    stream: Any = None,
) -> Any:
    """Turn queries or keys by the angles of their positions, on a device.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [N, H, D]
    positions : int32 [N]
        From 0 to T - 1; what they are is not checked.
    cos, sin : float32 [T, d/2]
        From :func:`llm_numba.reference.rope_tables`; d <= D.
    out : as x [N, H, D], optional
        Where the result goes; not x itself in step "naive".
    step : {"naive", "vectorised"}
        Of the ladder.
    stream : optional
        By default the current one.

    Returns
    -------
    as x [N, H, D]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    checks.array("x", x, ndim=3)
    _check_tables(x, positions, cos, sin)
    checks.choice("step", step, [each.name for each in LADDER.steps])
    if out is None:
        out = empty_like(x)
    checks.array("out", out, dtype=storage_dtype(x), shape=x.shape, like=x)
    if x.size > 0:
        plan = LADDER.step(step).plan
        launch_all(plan(x=x, positions=positions, cos=cos, sin=sin, out=out), stream)
    return out


def rope_and_write_kv(
    qkv: Any,
    positions: Any,
    cos: Any,
    sin: Any,
    k_cache: Any,
    v_cache: Any,
    slot_mapping: Any,
    q_norm: Any = None,
    k_norm: Any = None,
    eps: float = 0.0,
    *,
    out: Any = None,
    step: str = "vectorised",
    stream: Any = None,
) -> Any:
    """Do all that lies between the product that makes q, k, v and attention, on a device.

    Queries are normalised and turned; keys too, and written to the cache, as are values.

    Parameters
    ----------
    qkv : float32, float16 or bfloat16 [N, (H + 2G) D]
        Of each token all queries, then all keys, then all values. H follows from the width.
    positions : int32 [N]
        From 0 to T - 1; what they are is not checked.
    cos, sin : float32 [T, d/2], optional
        As of :func:`rope`; None for models without rotation.
    k_cache, v_cache : as qkv [num_blocks, block_size, G, D]
        Written in place.
    slot_mapping : int32 [N]
        The slot of each token, no slot twice. A token whose slot is negative is not written.
    q_norm, k_norm : as qkv [D], optional
        Weights of an RMSNorm of each head, before it is turned.
    eps : float
        Of the norms.
    out : as qkv [N, H, D], optional
        Where the queries go.
    step : {"apart", "fused", "vectorised"}
        Of the ladder.
    stream : optional
        By default the current one.

    Returns
    -------
    as qkv [N, H, D]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, only one of `cos` and
        `sin` is given, or there is no such step.
    """
    checks.array("qkv", qkv, ndim=2)
    dtype = storage_dtype(qkv)
    checks.array("k_cache", k_cache, ndim=4, dtype=dtype, like=qkv)
    checks.array("v_cache", v_cache, dtype=dtype, shape=k_cache.shape, like=qkv)
    groups, length = k_cache.shape[2:]
    heads = qkv.shape[1] // max(1, length) - 2 * groups
    heads = checks.integer("heads of q", heads, at_least=1)
    checks.array("qkv", qkv, shape=(None, (heads + 2 * groups) * length))
    qkv = qkv.reshape(len(qkv), heads + 2 * groups, length)
    if cos is None and sin is None:
        cos = sin = empty((0, 0), np.float32, like=qkv)
    _check_tables(qkv, positions, cos, sin)
    checks.array("slot_mapping", slot_mapping, dtype="int32", shape=qkv.shape[:1], like=qkv)
    weights = []
    for name, weight in (("q_norm", q_norm), ("k_norm", k_norm)):
        if weight is None:
            weight = empty((0,), qkv.dtype, like=qkv)
        else:
            checks.array(name, weight, dtype=dtype, shape=(length,), like=qkv)
        weights.append(weight)
    eps = checks.number("eps", eps, finite=True, at_least=0)
    checks.choice("step", step, [each.name for each in FUSED_LADDER.steps])
    shape = (len(qkv), heads, length)
    if out is None:
        out = empty(shape, qkv.dtype, like=qkv)
    checks.array("out", out, dtype=dtype, shape=shape, like=qkv)
    if qkv.size > 0:
        plan = FUSED_LADDER.step(step).plan
        launches = plan(
            qkv=qkv, positions=positions, cos=cos, sin=sin, k_cache=k_cache, v_cache=v_cache,
            slot_mapping=slot_mapping, q_norm=weights[0], k_norm=weights[1], eps=eps, out=out,
        )  # fmt: skip
        launch_all(launches, stream)
    return out


def _check_tables(x: Any, positions: Any, cos: Any, sin: Any) -> None:
    checks.array("positions", positions, dtype="int32", shape=x.shape[:1], like=x)
    checks.array("cos", cos, ndim=2, dtype="float32", like=x)
    checks.integer("2 * cos.shape[1]", 2 * cos.shape[1], at_most=x.shape[-1])
    checks.array("sin", sin, dtype="float32", shape=cos.shape, like=x)


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    rng = np.random.default_rng(seed)
    tokens, _, length = shape
    x = rng.normal(size=shape).astype(dtype)
    frequencies = reference.rope_frequencies(length // 2 * 2, 10000.0, reference.RopeScaling())
    cos, sin = reference.rope_tables(frequencies, max(1, tokens), np.float32)
    positions = rng.permutation(tokens).astype(np.int32)
    return {
        "x": x, "positions": positions, "cos": cos, "sin": sin, "out": np.full_like(x, np.nan)
    }  # fmt: skip


def _expect(
    x: np.ndarray, positions: np.ndarray, cos: np.ndarray, sin: np.ndarray, out: np.ndarray
) -> dict[str, np.ndarray]:
    exact = x.astype(np.float64)
    return {"out": reference.rope(exact, positions, cos.astype(float), sin.astype(float))}


LADDER = Ladder(
    name="rope",
    steps=(
        Step(
            "naive",
            "A component a thread: every number is loaded twice, and every angle by each head.",
            plan_naive,
            (rope_naive,),
        ),
        Step(
            "vectorised",
            "Both packets of a pair in one thread, of two heads: one load a number and angle.",
            _plan_vectorised,
            (vectorised(1), vectorised(2), rope_naive),
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=("float32", "float16", "bfloat16"),
    example=(8, 4, 64),
    axes="N H D",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: (
        2 * math.prod(shape) * itemsize + shape[0] * (shape[2] // 2 * 8 + 4)
    ),
    flops=lambda shape: 3 * math.prod(shape),
)

TUNABLE = Tunable(
    LADDER,
    rule,
    lambda shape, dtype: CANDIDATES,
    lambda config, **operands: plan_vectorised(**operands, config=config),
    shapes=((1, 32, 128), (64, 32, 128), (4096, 32, 128), (16384, 64, 128)),
    bucket=rounded_up,
)


def _fused_operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    tokens, heads, groups, length = shape
    rng = np.random.default_rng(seed)
    rope = _operands((tokens, heads + 2 * groups, length), dtype, seed)
    blocks = math.ceil(tokens / _BLOCK_SIZE) + 1
    slots = rng.permutation(blocks * _BLOCK_SIZE)[:tokens].astype(np.int32)
    slots[tokens // 2 :: 5] = -1
    weights = rng.normal(1, 0.1, size=(2, length)).astype(dtype)
    cache = (blocks, _BLOCK_SIZE, groups, length)
    return {
        "qkv": rope["x"].reshape(tokens, -1),
        "positions": rope["positions"],
        "cos": rope["cos"],
        "sin": rope["sin"],
        "k_cache": np.zeros(cache, dtype),
        "v_cache": np.zeros(cache, dtype),
        "slot_mapping": slots,
        "q_norm": weights[0],
        "k_norm": weights[1],
        "eps": 1e-6,
        "out": np.full((tokens, heads, length), np.nan, dtype),
    }


def _fused_expect(out: np.ndarray, eps: float, **operands: np.ndarray) -> dict[str, np.ndarray]:
    slots = operands.pop("slot_mapping")
    positions = operands.pop("positions")
    exact = {name: array.astype(np.float64) for name, array in operands.items()}
    k_cache, v_cache = exact.pop("k_cache") * 0, exact.pop("v_cache") * 0
    q = reference.rope_and_write_kv(
        positions=positions, slot_mapping=slots, k_cache=k_cache, v_cache=v_cache, eps=eps, **exact
    )
    return {"out": q, "k_cache": k_cache, "v_cache": v_cache}


def _fused_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    tokens, heads, groups, length = shape
    return tokens * (2 * (heads + 2 * groups) * length * itemsize + length // 2 * 8 + 8)


FUSED_LADDER = Ladder(
    name="rope_write_kv",
    steps=(
        Step(
            "apart",
            "Norm, rotation and KV write are kernels: q and k go to memory and back between them.",
            plan_apart,
            (norm_heads, rope_naive, write_heads),
        ),
        Step(
            "fused",
            "A warp takes a head through all three: one read and one write of each number.",
            plan_fused,
            (rope_write_heads,),
        ),
        Step(
            "vectorised",
            "16 bytes at a time, a head in the registers of a few neighbours.",
            plan_fused_vectorised,
            (rope_write_vectorised, rope_write_heads),
        ),
    ),
    operands=_fused_operands,
    expect=_fused_expect,
    dtypes=("float32", "float16", "bfloat16"),
    example=(4, 4, 2, 64),
    axes="N H G D",
    ceiling="memory",
    fewest_bytes=_fused_bytes,
    flops=lambda shape: shape[0] * (shape[1] + shape[2]) * shape[3] * 7,
)
