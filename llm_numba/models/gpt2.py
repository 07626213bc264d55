r"""GPT-2: learned positions, LayerNorm with bias, a plain MLP.

A layer is two blocks on a residual stream r, each after a LayerNorm::

    r -> norm -> q, k, v -> KV write -> attention -> output product + r
    r -> norm -> product, GELU -> product + r

Its linear layers are stored as [K, N] ("Conv1D"), transposed here once while they load.

References
----------
Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

from dataclasses import dataclass

from llm_numba import ops
from llm_numba.kvcache import PagedKVCache
from llm_numba.models.batch import ForwardBatch
from llm_numba.models.config import ModelConfig
from llm_numba.models.decoder import Decoder
from llm_numba.models.execution import Execution
from llm_numba.models.weights import WeightLoader
from llm_numba.parallel import Partition
from llm_numba.runtime import Array


@dataclass(frozen=True)
class Affine:
    """A weight with its bias: of a linear layer, [N, K] and [N]; of a LayerNorm, [E] and [E].

    Where ranks share a model, one alone has the bias of a product that they add up.
    """

    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class GPT2Layer:
    """One layer's weights."""

    norm_1: Affine
    qkv: Affine
    out: Affine
    norm_2: Affine
    up: Affine
    down: Affine


class GPT2Model(Decoder):
    """A decoder of the GPT-2 family.

    Parameters
    ----------
    config : ModelConfig
    load : WeightLoader
    prefix : str
        What tensor names begin with: "transformer." or, in the original files, nothing.
    execution : Execution
    partition : Partition
    """

    def __init__(
        self,
        config: ModelConfig,
        load: WeightLoader,
        prefix: str,
        execution: Execution,
        partition: Partition,
    ) -> None:
        def affine(name: str, transpose: bool = False) -> Affine:
            weight = load(f"{prefix}{name}.weight", transpose=transpose)
            return Affine(weight, load(f"{prefix}{name}.bias"))

        tied = config.tie_word_embeddings
        first, last = partition.is_first, partition.is_last
        self.wte = load(f"{prefix}wte.weight") if first or (last and tied) else None
        self.wpe = load(f"{prefix}wpe.weight") if first else None
        self.layers = [
            GPT2Layer(
                norm_1=affine(f"h.{i}.ln_1"),
                qkv=affine(f"h.{i}.attn.c_attn", transpose=True),
                out=affine(f"h.{i}.attn.c_proj", transpose=True),
                norm_2=affine(f"h.{i}.ln_2"),
                up=affine(f"h.{i}.mlp.c_fc", transpose=True),
                down=affine(f"h.{i}.mlp.c_proj", transpose=True),
            )
            for i in partition.layers
        ]
        self.final_norm = affine("ln_f") if last else None
        lm_head = self.wte if tied and last else load("lm_head.weight") if last else None
        super().__init__(config, lm_head, execution, partition)

    @property
    def anchor(self) -> Array:
        """Return a weight; see :meth:`Decoder.anchor`."""
        return self.layers[0].qkv.weight

    def forward(
        self, batch: ForwardBatch, kv_cache: PagedKVCache, hidden: Array | None = None
    ) -> Array:
        """Run the layers; see :meth:`Decoder.forward`."""
        run, activation, r = self.composites, self.config.activation, hidden
        if r is None:
            r = run.embed(batch.token_ids, self.wte, batch.positions, self.wpe)
        for i, layer in enumerate(self.layers):
            qkv = run.qkv(self._norm(r, layer.norm_1), layer.qkv.weight, layer.qkv.bias)
            # Positions came with the embedding: nothing turns here.
            mixed = run.attention(i, qkv, batch, kv_cache)
            r, _ = run.close(mixed, layer.out.weight, layer.out.bias, r)
            x = self._norm(r, layer.norm_2)
            x = run.product(x, layer.up.weight, layer.up.bias, activation=activation)
            r, _ = run.close(x, layer.down.weight, layer.down.bias, r)
        return r

    def _norm(self, r: Array, norm: Affine) -> Array:
        return ops.layer_norm(r, norm.weight, norm.bias, self.config.norm_eps)

    def scores(self, hidden: Array) -> Array:
        """Score the next token; see :meth:`Decoder.scores`."""
        x = self._norm(hidden, self.final_norm)
        return self.composites.product(x, self.lm_head, out_dtype=self.logits_dtype)


def gpt2_tensors(config: ModelConfig, prefix: str) -> dict[str, tuple[int, ...]]:
    """List the tensors that a checkpoint of this family holds.

    Parameters
    ----------
    config : ModelConfig
    prefix : str
        See :class:`GPT2Model`.

    Returns
    -------
    dict of str to shape
    """
    E, F = config.hidden_size, config.intermediate_size
    tensors: dict[str, tuple[int, ...]] = {
        f"{prefix}wte.weight": (config.vocab_size, E),
        f"{prefix}wpe.weight": (config.max_position_embeddings, E),
        f"{prefix}ln_f.weight": (E,),
        f"{prefix}ln_f.bias": (E,),
    }
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (config.vocab_size, E)
    products = {
        "attn.c_attn": (E, 3 * E),
        "attn.c_proj": (E, E),
        "mlp.c_fc": (E, F),
        "mlp.c_proj": (F, E),
    }
    for i in range(config.num_layers):
        for name in ("ln_1", "ln_2"):
            tensors[f"{prefix}h.{i}.{name}.weight"] = (E,)
            tensors[f"{prefix}h.{i}.{name}.bias"] = (E,)
        for name, (inputs, outputs) in products.items():
            tensors[f"{prefix}h.{i}.{name}.weight"] = (inputs, outputs)
            tensors[f"{prefix}h.{i}.{name}.bias"] = (outputs,)
    return tensors


def gpt2_ignores(name: str) -> bool:
    """Whether a tensor may be in a checkpoint without being needed.

    Old exports hold the causal mask of each layer; some hold a tied LM head a second time.
    """
    return name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias"))
