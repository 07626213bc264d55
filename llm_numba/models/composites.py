"""What a layer is made of: groups of operations that are one launch each, or several.

Models say what follows what; here is decided, by an :class:`~llm_numba.models.Execution`, what of
it goes together. On a GPU that counts twice: what lies between two operations crosses memory, and
each launch has a price.
"""

from typing import Any, NamedTuple

from llm_numba import ops
from llm_numba.kvcache import PagedKVCache
from llm_numba.models.batch import ForwardBatch
from llm_numba.models.config import ModelConfig
from llm_numba.models.execution import Execution
from llm_numba.runtime import Array, is_device_array

_ACTIVATIONS = {"gelu": ops.gelu, "gelu_tanh": ops.gelu_tanh, "silu": ops.silu}


class Unnormed(NamedTuple):
    """Rows that the product they go into is to normalise first.

    Attributes
    ----------
    rows : float [N, E]
    weight : float [E]
        Of the RMSNorm.
    """

    rows: Array
    weight: Array


Rows = Array | Unnormed


class Composites:
    """Products with their surroundings, and attention with its own.

    Parameters
    ----------
    config : ModelConfig
        What is here: where ranks share a model, a rank's part of it.
    execution : Execution
    """

    def __init__(self, config: ModelConfig, execution: Execution) -> None:
        self.config = config
        self.execution = execution

    def embed(
        self,
        token_ids: Array,
        weight: Array,
        positions: Array | None = None,
        position_weight: Array | None = None,
    ) -> Array:
        """Begin the residual stream.

        Parameters
        ----------
        token_ids : int [N]
        weight : float [V, E]
        positions : int [N], optional
        position_weight : float [T, E], optional
            Learned positions, of the models that have them.

        Returns
        -------
        float [N, E]
        """
        if position_weight is None:
            return ops.embedding(token_ids, weight)
        return ops.embedding_with_positions(token_ids, positions, weight, position_weight)

    def norm(self, r: Array, weight: Array | None) -> Rows | None:
        """RMS-normalise the residual stream, or leave it to the product that takes it.

        Parameters
        ----------
        r : float [N, E]
        weight : float [E] or None
            None behind the last block, where nobody asks.

        Returns
        -------
        float [N, E], Unnormed or None
        """
        if weight is None:
            return None
        if self.execution.fuse_norms:
            return Unnormed(r, weight)
        return ops.rms_norm(r, weight, self.config.norm_eps)

    def close(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        residual: Array,
        norm: Array | None = None,
    ) -> tuple[Array, Rows | None]:
        """Multiply what a block made, add it to the residual stream, normalise for the next block.

        Parameters
        ----------
        x : float [M, K]
        weight : float [E, K]
        bias : float [E] or None
        residual : float [M, E]
        norm : float [E], optional
            As of :meth:`norm`.

        Returns
        -------
        r : float [M, E]
            The residual stream.
        normed : float [M, E], Unnormed or None
            What :meth:`norm` makes of it.
        """
        r = self.product(x, weight, bias, residual=residual)
        return r, self.norm(r, norm)

    def whole_rows(self, scores: Array) -> Array:
        """Make logits of the whole vocabulary of those that are here.

        Parameters
        ----------
        scores : float [N, V]

        Returns
        -------
        float [N, V]
        """
        return scores

    def best_tokens(self, scores: Array, out: Array | None = None) -> Array:
        """Pick the token with the largest logit, the first of equals.

        Parameters
        ----------
        scores : float [N, V]
        out : int64 [N], optional
            On a device, where the tokens go.

        Returns
        -------
        int64 [N]
            -1 where the largest logit is not a finite number, or any is NaN.
        """
        return ops.argmax(scores) if out is None else ops.argmax(scores, out=out)

    def product(
        self,
        x: Rows,
        weight: Array,
        bias: Array | None = None,
        *,
        activation: str | None = None,
        residual: Array | None = None,
        out_dtype: str | None = None,
        out: Array | None = None,
    ) -> Array:
        """Normalise, multiply, activate, add.

        Parameters
        ----------
        x : float [M, K] or Unnormed
        weight : float [N, K]
        bias : float [N], optional
        activation : {"gelu", "gelu_tanh", "silu"}, optional
        residual : float [M, N], optional
        out_dtype : str, optional
            Of the result.
        out : float [M, N], optional
            On a device, where the result goes.

        Returns
        -------
        float [M, N]
        """
        execution = self.execution
        place = {} if out is None else {"out": out}
        x, options = self._before(x)
        if execution.fuse_gate_up:
            options["activation"] = activation
        if execution.fuse_norms:
            options["residual"] = residual
        y = self._linear(x, weight, bias, out_dtype=out_dtype, **options, **place)
        if activation is not None and not execution.fuse_gate_up:
            y = _ACTIVATIONS[activation](y, **place)
        if residual is not None and not execution.fuse_norms:
            y = ops.add(y, residual, **place)
        return y

    def gated(self, x: Rows, weight: Array, bias: Array | None) -> Array:
        """Normalise, make gate and up, and multiply SiLU of the one by the other.

        Parameters
        ----------
        x : float [M, E] or Unnormed
        weight : float [2F, E]
            The rows of the gate before those of up.
        bias : float [2F] or None

        Returns
        -------
        float [M, F]
        """
        x, options = self._before(x)
        if self.execution.fuse_gate_up:
            return self._linear(x, weight, bias, activation="silu_mul", **options)
        half = len(weight) // 2
        gate, up = self._split(x, weight, bias, (half, half), options)
        return ops.multiply(ops.silu(gate), up)

    def qkv(self, x: Rows, weight: Array, bias: Array | None) -> tuple[Array, ...]:
        """Make queries, keys and values.

        Parameters
        ----------
        x : float [N, E] or Unnormed
        weight : float [(H + 2G) D, E]
        bias : float [(H + 2G) D] or None

        Returns
        -------
        tuple of float [N, (H + 2G) D]
            Or of the three parts, [N, H D], [N, G D] and [N, G D].
        """
        x, options = self._before(x)
        if self.execution.fuse_qkv:
            return (self._linear(x, weight, bias, **options),)
        config = self.config
        kv_rows = config.num_kv_heads * config.head_dim
        sizes = (config.num_heads * config.head_dim, kv_rows, kv_rows)
        return tuple(self._split(x, weight, bias, sizes, options))

    def attention(
        self,
        layer: int,
        qkv: tuple[Array, ...],
        batch: ForwardBatch,
        kv_cache: PagedKVCache,
        tables: tuple[Array, Array] | None = None,
        norms: tuple[Array | None, Array | None] = (None, None),
    ) -> Array:
        """Normalise and turn heads, write keys and values, attend.

        Parameters
        ----------
        layer : int
        qkv : tuple of arrays
            As :meth:`qkv` returns them.
        batch : ForwardBatch
        kv_cache : PagedKVCache
        tables : (float [T, d/2], float [T, d/2]), optional
            RoPE's cosines and sines; None where positions came with the embedding.
        norms : (float [D], float [D]), optional
            Weights of an RMSNorm of each query and each key.

        Returns
        -------
        float [N, H D]
        """
        caches = kv_cache.layers[layer]
        scale, window = self.config.attention_scales[layer], self.config.windows[layer]
        if self._turns_in_attention(qkv, batch, tables, norms):
            (whole,) = qkv
            mixed = ops.rope_and_decode_attention(
                whole,
                batch.positions,
                *tables,
                *caches,
                batch.slot_mapping,
                batch.block_tables,
                batch.context_lens,
                scale,
                window,
                arrived=batch.arrived,
            )
            return mixed.reshape(len(whole), -1)
        write = self._write_whole if len(qkv) == 1 else self._write_parts
        q = write(*qkv, batch, caches, tables, norms)
        mixed = ops.paged_attention(
            q,
            *caches,
            batch.block_tables,
            batch.query_starts,
            batch.context_lens,
            scale,
            window,
            batch_invariant=self.execution.batch_invariant,
            **({} if batch.arrived is None else {"arrived": batch.arrived}),
        )
        return mixed.reshape(len(q), -1)

    def _turns_in_attention(
        self, qkv: tuple[Array, ...], batch: ForwardBatch, tables: Any, norms: Any
    ) -> bool:
        """Tell whether a sequence decodes alone, and attention may do what comes before it."""
        wanted = self.execution.fuse_rope_attention and not self.execution.batch_invariant
        alone = batch.arrived is not None and len(qkv[0]) == len(batch.context_lens) == 1
        return wanted and alone and tables is not None and all(norm is None for norm in norms)

    def _write_whole(
        self, qkv: Array, batch: ForwardBatch, caches: Any, tables: Any, norms: Any
    ) -> Array:
        # The reference does one after the other always.
        apart = is_device_array(qkv) and not self.execution.fuse_rope_kv
        return ops.rope_and_write_kv(
            qkv,
            batch.positions,
            *(tables or (None, None)),
            *caches,
            batch.slot_mapping,
            *norms,
            self.config.norm_eps,
            **{"step": "apart"} if apart else {},
        )

    def _write_parts(
        self,
        q: Array,
        k: Array,
        v: Array,
        batch: ForwardBatch,
        caches: Any,
        tables: Any,
        norms: Any,
    ) -> Array:
        q, k, v = (each.reshape(len(each), -1, self.config.head_dim) for each in (q, k, v))
        turned = []
        for heads, norm in zip((q, k), norms, strict=True):
            if norm is not None:
                heads = ops.rms_norm(heads, norm, self.config.norm_eps)
            if tables is not None:
                heads = ops.rope(heads, batch.positions, *tables)
            turned.append(heads)
        q, k = turned
        ops.write_kv(k, v, *caches, batch.slot_mapping)
        return q

    def _before(self, x: Rows) -> tuple[Array, dict[str, Any]]:
        """Say what the product has to do before it multiplies."""
        if isinstance(x, Unnormed):
            return x.rows, {"norm_weight": x.weight, "eps": self.config.norm_eps}
        return x, {}

    def _split(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        sizes: tuple[int, ...],
        options: dict[str, Any],
    ) -> list[Array]:
        """Multiply by one part of the rows of a weight after the other."""
        parts, start = [], 0
        for size in sizes:
            rows = slice(start, start + size)
            part = None if bias is None else bias[rows]
            parts.append(self._linear(x, weight[rows], part, **options))
            start += size
        return parts

    def _linear(self, x: Array, weight: Array, bias: Array | None, **options: Any) -> Array:
        return ops.linear(
            x, weight, bias, batch_invariant=self.execution.batch_invariant, **options
        )
