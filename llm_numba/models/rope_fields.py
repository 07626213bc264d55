"""RoPE's keys in ``config.json``: base, kind of scaling, and what each kind needs.

Both spellings are read: ``rope_theta`` and ``rope_scaling`` of Transformers 4, ``rope_parameters``
of Transformers 5.
"""

from typing import Any

from llm_numba.models.fields import LARGEST_SIZE, Fields
from llm_numba.ops import RopeScaling

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def read_rope(fields: Fields, head_dim: int, num_positions: int) -> tuple[float, RopeScaling]:
    """Read RoPE's base and scaling, in either spelling.

    Parameters
    ----------
    fields : Fields
        Of ``config.json``.
    head_dim : int
        D
    num_positions : int
        ``max_position_embeddings``: the original context where none is named.

    Returns
    -------
    theta : float
    scaling : RopeScaling

    Raises
    ------
    ConfigError
        If the kind is not one of :data:`ROPE_KINDS`, a value that it needs is missing or makes no
        sense, or only a part of each head is to turn.
    """
    newer = fields.get("rope_parameters", dict, {})
    rope = Fields({**fields.get("rope_scaling", dict, {}), **newer}, fields.source)
    kind = rope.get("rope_type", str, rope.get("type", str, "default"))
    if kind not in ROPE_KINDS or any(isinstance(value, dict) for value in newer.values()):
        raise fields.fail(
            f"RoPE variant {kind if kind not in ROPE_KINDS else 'per layer type'!r} is not "
            "supported",
            f"Supported are: {', '.join(ROPE_KINDS)}.",
        )
    part = rope.get("partial_rotary_factor", float, fields.get("partial_rotary_factor", float, 1.0))
    if part != 1.0:
        raise fields.fail(
            f"'partial_rotary_factor' is {part}, but in this family RoPE turns whole heads",
            "Remove that value if the model was trained without it.",
        )
    theta = rope.positive("rope_theta", fields.positive("rope_theta", 10000.0))
    needs: dict[str, Any] = {}
    if kind == "dynamic":
        needs["original_context"] = num_positions
    elif kind == "llama3":
        needs = _llama3(rope)
    elif kind == "yarn":
        needs = _yarn(rope, _original_context(fields, rope, num_positions))
    elif kind == "longrope":
        needs = _longrope(rope, _original_context(fields, rope, num_positions), head_dim)
        needs["factor"] = rope.positive("factor", num_positions / needs["original_context"])
    factor = rope.positive("factor", 1.0, required=kind not in ("default", "longrope"))
    if factor > LARGEST_SIZE:
        raise fields.fail(
            f"'factor' is {factor:g}: no context is stretched so far", "Correct that value."
        )
    return theta, RopeScaling(**{"kind": kind, "factor": factor} | needs)


def _original_context(fields: Fields, rope: Fields, num_positions: int) -> int:
    """Read the context in training, which Phi3 and its like name outside of RoPE's own keys."""
    key = "original_max_position_embeddings"
    return fields.size(key, rope.size(key, num_positions))


def _llama3(rope: Fields) -> dict[str, Any]:
    low = rope.positive("low_freq_factor", 1.0, required=True)
    high = rope.positive("high_freq_factor", 4.0, required=True)
    if low >= high:
        raise rope.fail(
            "'low_freq_factor' is not below 'high_freq_factor'", "Correct those values."
        )
    return {
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_context": rope.size("original_max_position_embeddings"),
    }


def _yarn(rope: Fields, original_context: int) -> dict[str, Any]:
    fast, slow = rope.positive("beta_fast", 32.0), rope.positive("beta_slow", 1.0)
    if fast <= slow:
        raise rope.fail("'beta_fast' is not above 'beta_slow'", "Correct those values.")
    return {
        "original_context": original_context,
        "beta_fast": fast,
        "beta_slow": slow,
        "truncate": rope.get("truncate", bool, True),
        "attention_factor": _attention_factor(rope),
        "mscale": rope.get("mscale", float, 0.0),
        "mscale_all_dim": rope.get("mscale_all_dim", float, 0.0),
    }


def _longrope(rope: Fields, original_context: int, head_dim: int) -> dict[str, Any]:
    factors = {}
    for key in ("short_factor", "long_factor"):
        values = rope.get(key, list, required=True)
        if len(values) != head_dim // 2:
            raise rope.fail(
                f"'{key}' has {len(values)} values for {head_dim // 2} frequencies",
                "It must have one for each two components of a head.",
            )
        each = [Fields({key: value}, rope.source) for value in values]
        factors[f"{key}s"] = tuple(one.positive(key, 1.0, required=True) for one in each)
    attention_factor = _attention_factor(rope)
    if original_context == 1 and attention_factor is None:
        raise rope.fail(
            "'original_max_position_embeddings' is 1, whose logarithm is 0 and divides",
            "Correct that value, or give 'attention_factor'.",
        )
    return {
        "original_context": original_context,
        "attention_factor": attention_factor,
        **factors,
    }


def _attention_factor(rope: Fields) -> float | None:
    given = rope.raw.get("attention_factor") is not None
    return rope.positive("attention_factor", 1.0) if given else None
