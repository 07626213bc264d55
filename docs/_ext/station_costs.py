"""What each operation of a step must move and compute, by the shapes of a model alone.

A profile counts the same from the operands of a step that runs (`llm_numba.bench.profile_traffic`).
Here nothing runs, so a model may be larger than any machine at hand; a test holds the two together.
Bytes are the fewest: each weight once, each key and value in sight once, each row of activations
once, in and out. Token ids, positions and block tables, a few integers a token, are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from llm_numba.bench.profile_traffic import StepShape, Traffic
from llm_numba.models import ModelConfig

_LOGIT = _ANGLE = 4  # bytes: both are float32, whatever weights and rows are


class Cost(NamedTuple):
    """Bytes by kind, and floating-point operations."""

    traffic: Traffic
    flops: int


@dataclass(frozen=True)
class Asked:
    """A model and a step of it.

    Attributes
    ----------
    config : ModelConfig
        Of Llama's family, no layer with a window.
    shape : StepShape
    item : int
        Bytes of a number of weights, of rows, and of the cache.
    """

    config: ModelConfig
    shape: StepShape
    item: int = 2

    @property
    def tokens(self) -> int:
        """N, the rows of the step."""
        return self.shape.num_tokens

    def product(
        self, outputs: int, columns: int, *, normed: bool = False, gated: bool = False,
        residual: bool = False, rows: int | None = None, out_item: int | None = None,
    ) -> Cost:  # fmt: skip
        """Return the cost of a product by W [outputs, columns], with what is fused into it."""
        rows = self.tokens if rows is None else rows
        written = outputs // 2 if gated else outputs
        read = columns + (written if residual else 0)
        traffic = Traffic(
            weights=self.item * (outputs * columns + (columns if normed else 0)),
            activations=rows * (self.item * read + (out_item or self.item) * written),
        )
        return Cost(traffic, 2 * rows * outputs * columns)


def _embedding(asked: Asked) -> Cost:
    row = asked.item * asked.config.hidden_size
    return Cost(Traffic(weights=asked.tokens * row, activations=asked.tokens * row), 0)


def _norm(asked: Asked) -> Cost:
    """Square, add, and two multiplications a number."""
    E = asked.config.hidden_size
    rows = 2 * asked.tokens * E * asked.item
    return Cost(Traffic(weights=E * asked.item, activations=rows), 4 * asked.tokens * E)


def _qkv(asked: Asked) -> Cost:
    config = asked.config
    heads = config.num_heads + 2 * config.num_kv_heads
    return asked.product(heads * config.head_dim, config.hidden_size, normed=True)


def _turn_and_write(asked: Asked) -> Cost:
    """Read q, k and v; write q, and k and v to the cache; three operations a turned number."""
    config, N, D = asked.config, asked.tokens, asked.config.head_dim
    H, G = config.num_heads, config.num_kv_heads
    traffic = Traffic(
        weights=min(N, asked.shape.context) * D * _ANGLE,
        kv=N * 2 * G * D * asked.item,
        activations=N * (2 * H + 2 * G) * D * asked.item,
    )
    return Cost(traffic, 3 * N * (H + G) * D)


def _attention(asked: Asked) -> Cost:
    """Scores and the sum of values: a multiplication and an addition for each number."""
    config, H, D = asked.config, asked.config.num_heads, asked.config.head_dim
    kv = asked.shape.seen(None) * 2 * config.num_kv_heads * D * asked.item
    rows = 2 * asked.tokens * H * D * asked.item
    return Cost(Traffic(kv=kv, activations=rows), 4 * H * D * asked.shape.pairs(None))


def _out(asked: Asked) -> Cost:
    config = asked.config
    return asked.product(config.hidden_size, config.num_heads * config.head_dim, residual=True)


def _gate_up(asked: Asked) -> Cost:
    config = asked.config
    return asked.product(
        2 * config.intermediate_size, config.hidden_size, normed=True, gated=True
    )  # fmt: skip


def _down(asked: Asked) -> Cost:
    config = asked.config
    return asked.product(config.hidden_size, config.intermediate_size, residual=True)


def _lm_head(asked: Asked) -> Cost:
    """Only the last token of each sequence is scored."""
    config = asked.config
    return asked.product(
        config.vocab_size, config.hidden_size, normed=True, rows=asked.shape.batch,
        out_item=_LOGIT,
    )  # fmt: skip


def _argmax(asked: Asked) -> Cost:
    logits = asked.shape.batch * asked.config.vocab_size
    return Cost(Traffic(activations=logits * _LOGIT), logits)


def _layers(config: ModelConfig) -> int:
    return config.num_layers


def _once(config: ModelConfig) -> int:
    return 1


# By the labels of a profile; the norm alone is in no profile of ours, for it is fused.
OPERATIONS: dict[str, tuple[Callable[[ModelConfig], int], Callable[[Asked], Cost]]] = {
    "embedding embed_tokens": (_once, _embedding),
    "rms_norm": (lambda config: 2 * config.num_layers + 1, _norm),
    "linear qkv": (_layers, _qkv),
    "rope_and_write_kv": (_layers, _turn_and_write),
    "paged_attention": (_layers, _attention),
    "linear out": (_layers, _out),
    "linear gate_up": (_layers, _gate_up),
    "linear down": (_layers, _down),
    "linear lm_head": (_once, _lm_head),
    "argmax": (_once, _argmax),
}


def cost_of_step(label: str, asked: Asked) -> Cost:
    """Return the cost of an operation in all layers of a step.

    Parameters
    ----------
    label : str
        Of :data:`OPERATIONS`.
    asked : Asked
    """
    times, cost = OPERATIONS[label]
    count, (traffic, flops) = times(asked.config), cost(asked)
    all_layers = Traffic(*(count * each for each in vars(traffic).values()))
    return Cost(all_layers, count * flops)
