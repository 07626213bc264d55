r"""Which part of each stored tensor a rank holds.

A product of W [N, K] can be cut two ways among P ranks. *By columns* of its result: each rank has
N/P rows of W, and makes as many numbers of each result. *By rows* of its operand: each rank has K/P
columns of W, and makes a part of the sum that each number is::

    column-parallel       W  | rank 0 |          row-parallel      W  | rank : rank |
                             | rank 1 |                               |  0   :  1   |

A block opens with one and closes with the other: its heads, or the inner numbers of its MLP, are
then never sent around. Cuts go by these units, not by rows, so that a head stays whole; and a
stacked weight (query, key and value; gate and up) is cut in each of its parts.

Source: Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism", 2019, section 3.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from llm_numba.errors import ConfigError
from llm_numba.models.config import ModelConfig
from llm_numba.parallel import Partition

Shape = tuple[int, ...]
# Of a stored tensor, along each axis which indices.
Window = tuple[range, ...]


class Cut(NamedTuple):
    """How a product, or a table, is cut.

    Attributes
    ----------
    unit : str
        What its outputs are counted in; of a product that closes a block, its inputs. See
        :func:`_ranges`.
    outputs : int
        The axis of the stored weight that outputs lie along; GPT-2's are stored [K, N].
    closes : bool
        Whether it closes a block.
    """

    unit: str
    outputs: int = 0
    closes: bool = False


# By the end of a module's name. What is not here, norms above all, every rank has whole.
_CUTS = {
    "embed_tokens": Cut("vocabulary"),
    "lm_head": Cut("vocabulary"),
    "q_proj": Cut("queries"),
    "k_proj": Cut("keys"),
    "v_proj": Cut("keys"),
    "o_proj": Cut("queries", closes=True),
    "gate_proj": Cut("inner"),
    "up_proj": Cut("inner"),
    "down_proj": Cut("inner", closes=True),
    "wte": Cut("vocabulary"),
    "wpe": Cut("once"),
    "attn.c_attn": Cut("queries, keys, values", outputs=1),
    "attn.c_proj": Cut("queries", outputs=1, closes=True),
    "mlp.c_fc": Cut("inner", outputs=1),
    "mlp.c_proj": Cut("inner", outputs=1, closes=True),
}
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight")


def check_division(config: ModelConfig, ranks: int, layout: str = "megatron") -> None:
    """Refuse a number of tensor ranks that a model cannot be divided among.

    Parameters
    ----------
    config : ModelConfig
    ranks : int
        P.
    layout : {"megatron", "gather"}

    Raises
    ------
    ConfigError
        Naming what does not divide, and the numbers of ranks that would do.
    """
    problem = _problem(config, ranks, layout)
    if problem:
        most = config.num_heads
        fitting = [str(p) for p in range(1, most + 1) if not _problem(config, p, layout)]
        raise ConfigError(
            f"The model cannot be divided among {ranks} tensor-parallel ranks: {problem}.",
            f"Take one of these numbers of ranks: {', '.join(fitting)}.",
        )


def _problem(config: ModelConfig, ranks: int, layout: str) -> str | None:
    """Say what does not divide among ranks."""
    heads, kv_heads = config.num_heads, config.num_kv_heads
    if heads % ranks:
        return f"its {heads} query heads do not divide"
    if kv_heads % ranks and ranks % kv_heads:
        return (
            f"its {kv_heads} KV heads neither divide among the ranks nor the ranks among the heads"
        )
    if config.intermediate_size % ranks:
        return f"the {config.intermediate_size} inner numbers of its MLP do not divide"
    if layout == "gather" and config.hidden_size % ranks:
        return f"its hidden size of {config.hidden_size} does not divide"
    if config.vocab_size < ranks:
        return f"it has {config.vocab_size} tokens"
    return None


def rank_config(config: ModelConfig, partition: Partition) -> ModelConfig:
    """Describe what a rank holds: its heads, its part of the MLP, its layers.

    Parameters
    ----------
    config : ModelConfig
        Of the whole model.
    partition : Partition

    Returns
    -------
    ModelConfig
        With H/P query heads, G/P KV heads or one, F/P, and the windows and scales of the rank's
        layers. E, V and all else are the whole model's.
    """
    layers = slice(partition.layers.start, partition.layers.stop)
    return dataclasses.replace(
        config,
        num_layers=len(partition.layers),
        num_heads=len(partition.share(config.num_heads)),
        num_kv_heads=len(partition.share_or_copy(config.num_kv_heads)),
        intermediate_size=len(partition.share(config.intermediate_size)),
        windows=config.windows[layers],
        attention_scales=config.attention_scales[layers],
    )


def windows_of(
    shapes: Mapping[str, Shape], config: ModelConfig, partition: Partition, layout: str
) -> dict[str, tuple[Window, ...]]:
    """List what a rank holds of each tensor of its stage.

    Parameters
    ----------
    shapes : mapping of str to shape
        Of all stored tensors of the model.
    config : ModelConfig
        Of the whole model.
    partition : Partition
    layout : {"megatron", "gather"}

    Returns
    -------
    dict of str to tuple of Window
        To be stacked along the axis of outputs. Empty where another rank holds it all.
    """
    held = set(partition.layers)
    return {
        name: _windows(name, shape, config, partition, layout)
        for name, shape in shapes.items()
        if held.intersection(layers_of(name, config))
    }


def stacked_shape(windows: tuple[Window, ...]) -> Shape:
    """Return the shape of windows of one tensor that lie side by side, along the last axis.

    Parameters
    ----------
    windows : tuple of Window
        At least one.

    Returns
    -------
    tuple of int
    """
    shapes = [tuple(map(len, window)) for window in windows]
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


def layers_of(name: str, config: ModelConfig) -> tuple[int, ...]:
    """Return the layers beside which a tensor is needed.

    Parameters
    ----------
    name : str
    config : ModelConfig
        Of the whole model.

    Returns
    -------
    tuple of int
        Its own; of others the first or the last. Of a tied embedding both: the first stage looks up
        its rows, the last multiplies by them.
    """
    if found := _LAYER.search(name):
        return (int(found[1]),)
    last = config.num_layers - 1
    if name.endswith(_EMBEDDINGS) and config.tie_word_embeddings and last:
        return 0, last
    return (0,) if name.endswith((*_EMBEDDINGS, "wpe.weight")) else (last,)


def _windows(
    name: str, shape: Shape, config: ModelConfig, partition: Partition, layout: str
) -> tuple[Window, ...]:
    whole = tuple(range(length) for length in shape)
    module, kind = name.rsplit(".", 1)
    cut = next((cut for end, cut in _CUTS.items() if module.endswith(end)), None)
    if cut is None or partition.tensor.size == 1:
        return (whole,)
    axis = 0 if kind == "bias" else cut.outputs
    unit = cut.unit
    if cut.closes and layout == "gather":
        unit = "width"
    elif cut.closes and kind == "bias":
        unit = "once"
    elif cut.closes:
        axis = 1 - axis
    if unit == "once":
        return (whole,) if partition.tensor.rank == 0 else ()
    return tuple(
        (*whole[:axis], each, *whole[axis + 1 :]) for each in _ranges(unit, config, partition)
    )


def _ranges(unit: str, config: ModelConfig, partition: Partition) -> list[range]:
    """Return a rank's indices along an axis that counts a unit's numbers."""
    head = config.head_dim
    queries = _scaled(partition.share(config.num_heads), head)
    keys = _scaled(partition.share_or_copy(config.num_kv_heads), head)
    if unit == "queries, keys, values":
        first_key = config.num_heads * head
        first_value = first_key + config.num_kv_heads * head
        return [queries, moved(keys, first_key), moved(keys, first_value)]
    return [
        {
            "queries": queries,
            "keys": keys,
            "inner": partition.share(config.intermediate_size),
            "width": partition.share(config.hidden_size),
            "vocabulary": partition.share(config.vocab_size),
        }[unit]
    ]


def _scaled(indices: range, factor: int) -> range:
    return range(indices.start * factor, indices.stop * factor)


def moved(indices: range, distance: int) -> range:
    """Return a range that lies further on.

    Parameters
    ----------
    indices : range
    distance : int

    Returns
    -------
    range
    """
    return range(indices.start + distance, indices.stop + distance)
