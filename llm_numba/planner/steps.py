"""The time of one stage's step, operation by operation.

A step of M rows is what the engine launches: the four products of each layer, RoPE with the KV
write, attention; on the first stage the embedding, on the last the LM head and the choice of a
token. A norm is part of the product behind it; GPT-2's, which are kernels of their own, are left
out. With P > 1 each layer has two all-reduces besides, the embedding one, and the choice an
all-gather of each rank's best. What the host does is hidden behind the GPU, and is not counted.
"""

from dataclasses import dataclass

from llm_numba.models import ModelConfig
from llm_numba.planner.collectives import Exchange
from llm_numba.planner.split import Rank
from llm_numba.planner.table import KernelTable

_ITEM = 2  # bytes of a number, in both formats that tables are of
_BEST = 8  # bytes of a rank's best token: a value and an index


@dataclass(frozen=True)
class Load:
    """What a step computes.

    Attributes
    ----------
    sequences : int
        B.
    new_tokens : int
        S of each: 1 when decoding.
    context : int
        T of each at the end of the step, the new ones included.
    """

    sequences: int
    new_tokens: int
    context: int

    @property
    def rows(self) -> int:
        """B times S, the M of its products."""
        return self.sequences * self.new_tokens


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage's step.

    Attributes
    ----------
    products, attention, other, exchanges : float
        Products of the layers; attention; all other kernels, the LM head among them; messages
        between tensor ranks.
    """

    products: float
    attention: float
    other: float
    exchanges: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.products + self.attention + self.other + self.exchanges


def stage_time(
    rank: Rank, load: Load, table: KernelTable, exchange: Exchange, tensor_cores: bool = True
) -> StageTime:
    """Add up the operations of a rank's step.

    Parameters
    ----------
    rank : Rank
    load : Load
    table : KernelTable
        Of its GPU.
    exchange : Exchange
        With the other tensor ranks.
    tensor_cores : bool
        See :meth:`.KernelTable.product`.

    Returns
    -------
    StageTime
    """
    config, rows = rank.config, load.rows
    law = table.product(rows, tensor_cores)
    products = sum(law.seconds(weights) for weights in layer_weights(config))
    heads = config.num_heads + 2 * config.num_kv_heads
    # Read and written again; keys and values besides, into the cache.
    turned = 2 * rows * heads * config.head_dim * _ITEM
    short = table.short["rope_and_write_kv"].seconds(turned)
    message = rows * config.hidden_size * _ITEM
    layers = config.num_layers
    attention = sum(_attention(config, load, table, window) for window in config.windows)
    other, exchanges = layers * short, 2 * layers * exchange.all_reduce(message)
    if rank.partition.is_first:
        other += table.short["fill_in_tokens"].seconds(4 * rows)
        other += table.short["embedding"].seconds(2 * message)
        exchanges += exchange.all_reduce(message)
    if rank.partition.is_last:
        # Of each sequence the last token is scored.
        scored = load.sequences
        head = table.product(scored, tensor_cores)
        other += head.seconds(rank.num_vocab_rows * config.hidden_size)
        other += table.short["argmax"].seconds(4 * scored * rank.num_vocab_rows)
        exchanges += exchange.all_gather(exchange.ranks * scored * _BEST)
    return StageTime(layers * products, attention, other, exchanges)


def layer_weights(config: ModelConfig) -> tuple[int, ...]:
    """Count the weights of a layer's products: of QKV, output, gate with up, and down.

    Parameters
    ----------
    config : ModelConfig
    """
    E, F, D = config.hidden_size, config.intermediate_size, config.head_dim
    H, G = config.num_heads, config.num_kv_heads
    gated = 1 if config.architecture == "GPT2LMHeadModel" else 2
    return (H + 2 * G) * D * E, H * D * E, gated * F * E, F * E


def _attention(config: ModelConfig, load: Load, table: KernelTable, window: int | None) -> float:
    """Return the seconds of one layer's attention."""
    D, S, T = config.head_dim, load.new_tokens, load.context
    if S == 1:
        seen = T if window is None else min(T, window)
        num_bytes = load.sequences * seen * 2 * config.num_kv_heads * D * _ITEM
        return table.decode_attention.seconds(num_bytes)
    first = T - S + 1
    if window is None or window >= T:
        pairs = S * (first + T) // 2
    else:
        pairs = sum(min(window, seen) for seen in range(first, T + 1))
    # Scores and the sum of values: a multiplication and an addition for each.
    return table.prompt_attention.seconds(4 * config.num_heads * D * load.sequences * pairs)
