"""Points of what a layer does with tokens: embedding, RoPE, the gate, attention."""

from typing import Any

import numpy as np

from llm_numba.bench.kernel_points import Point, repeated
from llm_numba.bench.points_rows import ROWS
from llm_numba.kernels import (
    attention,
    attention_sketch,
    elementwise,
    embedding,
    paged_decode,
    rope,
    rope_attention,
    sampling,
)
from llm_numba.kernels.ladder import Operands

_VOCABULARY = 128256


def _eager_rope(torch: Any, o: dict[str, Any]) -> Any:
    """Turn queries as model code does: halves swapped, one negated."""
    cos, sin = (o[name][o["positions"]].repeat(1, 2)[:, None] for name in ("cos", "sin"))
    x = o["x"].float()
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat((-second, first), -1) * sin).to(o["x"].dtype)


def _eager_silu_mul(torch: Any, o: dict[str, Any]) -> Any:
    gate, up = o["gate_up"].chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def _eager_attention(torch: Any, o: dict[str, Any]) -> Any:
    q, k, v = (o[name].transpose(0, 1)[None] for name in ("q", "k", "v"))
    mixed = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=o["scale"], enable_gqa=True
    )
    return mixed[0].transpose(0, 1)


def _eager_products_and_attention(torch: Any, o: dict[str, Any]) -> Any:
    heads = (o["x"].shape[0], -1, o["out"].shape[2])
    q, k, v = (
        torch.nn.functional.linear(o["x"], o[name]).view(heads) for name in ("wq", "wk", "wv")
    )
    return _eager_attention(torch, o | {"q": q, "k": k, "v": v})


def _side_by_side(torch: Any, o: dict[str, Any]) -> dict[str, Any]:
    """Gather keys and values out of their pages: PyTorch's kernels know no pages."""
    tables = o["block_tables"].long()
    k, v = (o[name][tables].flatten(1, 2).transpose(1, 2) for name in ("k_cache", "v_cache"))
    return o | {"k": k.contiguous(), "v": v.contiguous()}


def _eager_decode(torch: Any, o: dict[str, Any]) -> Any:
    mixed = torch.nn.functional.scaled_dot_product_attention(
        o["q"][:, :, None], o["k"], o["v"], scale=o["scale"], enable_gqa=True
    )
    return mixed[:, :, 0]


def _few_random_embeddings(shape: tuple[int, int, int], dtype: np.dtype, seed: int) -> Operands:
    N, V, _ = shape
    made = repeated(embedding.LADDER, ("weight",), axis=1)(shape, dtype, seed)
    token_ids = np.random.default_rng(seed).permutation(V)[:N].astype(np.int32)
    return made | {"token_ids": token_ids}


def _attention(dtype: str, heads: int = 32, tokens: int = 2048, **of_point: Any) -> Point:
    label = "attention" if tokens == 2048 else f"attention_{tokens}"
    return Point(
        f"{label}/{dtype}",
        attention.LADDER,
        (128, heads // 4, 4, tokens, tokens),
        dtype,
        **of_point,
        eager=_eager_attention,
        eager_code="F.scaled_dot_product_attention(q, k, v, is_causal=True)",
    )


POINTS = (
    Point(
        "embedding/bfloat16",
        embedding.LADDER,
        (ROWS[0], _VOCABULARY, ROWS[1]),
        "bfloat16",
        by_rows=("token_ids", "out"),
        make=_few_random_embeddings,
        eager=lambda torch, o: torch.nn.functional.embedding(o["token_ids"], o["weight"]),
        eager_code="F.embedding(token_ids, weight)",
        compiled=True,
    ),
    Point(
        "rope/bfloat16",
        rope.LADDER,
        (ROWS[0], ROWS[1] // 128, 128),
        "bfloat16",
        by_rows=("x", "positions", "out"),
        eager=_eager_rope,
        eager_code="x * cos + cat((-x2, x1)) * sin",
        compiled=True,
    ),
    Point(
        "silu_mul/bfloat16",
        elementwise.LADDER,
        ROWS,
        "bfloat16",
        by_rows=("gate_up", "out"),
        make=repeated(elementwise.LADDER, ("gate_up", "out")),
        eager=_eager_silu_mul,
        eager_code="F.silu(gate) * up",
        compiled=True,
    ),
    _attention("bfloat16"),
    _attention("float32"),
    # The reference needs 512 MiB a head.
    _attention("bfloat16", heads=8, tokens=8192, steps=("tensor",)),
    Point(
        "attention_sketch/bfloat16",
        attention_sketch.LADDER,
        (64, 4, 4, 1024, 1024),
        "bfloat16",
        eager=_eager_products_and_attention,
        eager_code="F.linear, three times, and F.scaled_dot_product_attention",
    ),
    Point(
        "paged_decode/bfloat16",
        paged_decode.LADDER,
        (128, 8, 4, 16, 8192),
        "bfloat16",
        prepare=_side_by_side,
        eager=_eager_decode,
        eager_code="F.scaled_dot_product_attention(q, k, v), without pages",
    ),
    Point(
        "paged_decode_short/bfloat16",
        paged_decode.LADDER,
        (64, 8, 4, 1, 512),
        "bfloat16",
        steps=("staged", "split", "joined"),
        prepare=_side_by_side,
        eager=_eager_decode,
        eager_code="F.scaled_dot_product_attention(q, k, v), without pages",
    ),
    Point(
        "rope_attention/bfloat16",
        rope_attention.LADDER,
        (64, 8, 4, 1, 512),
        "bfloat16",
        kept=("k_cache", "v_cache"),
    ),
    Point("sample/float32", sampling.LADDER, (64, _VOCABULARY), "float32"),
)
