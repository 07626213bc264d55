"""The time of one stage's step, operation by operation.

A step of M rows is what the engine launches: the four products of each layer, RoPE with the KV
write, and attention, which a sequence alone has in one kernel with these; on the first stage the
embedding, on the last the LM head and the choice of a token. Of up to 8 rows a norm is part of the
product behind it; where norms are kernels of their own, as GPT-2's always are, they are left out.
With P > 1 each layer has two all-reduces besides, the embedding one, and the choice an all-gather
of each rank's best. What the host does is hidden behind the GPU, and is not counted.
"""

from dataclasses import dataclass

from llm_numba.kernels.paged_decode_plans import is_short
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
        Products of the layers; attention with what it needs done before; all other kernels, the LM
        head among them; messages between tensor ranks.
    """

    products: float
    attention: float
    other: float
    exchanges: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.products + self.attention + self.other + self.exchanges


def stage_time(rank: Rank, load: Load, table: KernelTable, exchange: Exchange) -> StageTime:
    """Add up the operations of a rank's step.

    Parameters
    ----------
    rank : Rank
    load : Load
    table : KernelTable
        Of its GPU.
    exchange : Exchange
        With the other tensor ranks.

    Returns
    -------
    StageTime
    """
    config, rows = rank.config, load.rows
    law = table.product(rows)
    products = sum(law.seconds(weights) for weights in layer_weights(config))
    message = rows * config.hidden_size * _ITEM
    layers = config.num_layers
    attention = sum(_attention(config, load, table, window) for window in config.windows)
    other, exchanges = 0.0, 2 * layers * exchange.all_reduce(message)
    if rank.partition.is_first:
        other += table.short["fill_in_tokens"].seconds(4 * rows)
        other += table.short["embedding"].seconds(2 * message)
        exchanges += exchange.all_reduce(message)
    if rank.partition.is_last:
        # Of each sequence the last token is scored.
        scored = load.sequences
        head = table.product(scored)
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
    """Return the seconds of one layer's attention, and of RoPE and the KV write before it."""
    D, H, G, T = config.head_dim, config.num_heads, config.num_kv_heads, load.context
    # Read and written again; keys and values besides, into the cache.
    turned = 2 * load.rows * (H + 2 * G) * D * _ITEM
    turning = table.short["rope_and_write_kv"].seconds(turned)
    if load.new_tokens > 1:
        # Scores and the sum of values: a multiplication and an addition for each.
        flops = 4 * H * D * load.sequences * _pairs(load, window)
        return turning + table.prompt_attention.seconds(flops)
    seen = T if window is None else min(T, window)
    num_bytes = load.sequences * seen * 2 * G * D * _ITEM
    if not is_short(T, load.sequences * T * G * D * _ITEM):
        return turning + table.decode_attention.seconds(num_bytes)
    if load.sequences > 1 or config.qk_norm or config.architecture == "GPT2LMHeadModel":
        return turning + table.joined_attention.seconds(num_bytes)
    return table.turning_attention.seconds(num_bytes)


def _pairs(load: Load, window: int | None) -> int:
    """Count the positions that a prompt's queries see, all together."""
    S, T = load.new_tokens, load.context
    first = T - S + 1
    if window is None or window >= T:
        return S * (first + T) // 2
    return sum(min(window, seen) for seen in range(first, T + 1))
