"""How a model runs: which operations go together, and whether a token's bits depend on others."""

from dataclasses import dataclass
from typing import Literal

from llm_numba.errors import EngineError

LAYOUTS = ("megatron", "gather")


@dataclass(frozen=True)
class Execution:
    """Switches that change how fast a model is, and nothing of what it means.

    What a fused operation keeps in registers, its parts write to memory and read again, rounded to
    the weights' format in between: results differ by such roundings. Fusions are on unless one
    wants to see what they buy.

    Attributes
    ----------
    batch_invariant : bool
        A token's logits have the same bits alone and in any batch, with its prompt whole, cut into
        chunks or computed anew. Products then take 8 rows at a time, and attention walks along a
        context in one order: slower, for prompts above all.
    fuse_qkv : bool
        Queries, keys and values from one product; else from three.
    fuse_gate_up : bool
        The MLP's gate and up from one product whose epilogue is SiLU(gate) * up; else two
        products, SiLU, a multiplication. Of an MLP without a gate: the activation as epilogue.
    fuse_norms : bool
        RMSNorm as a product's prologue, the addition to the residual stream as its epilogue; else
        kernels of their own. LayerNorm is one always.
    fuse_rope_kv : bool
        Norms of heads, RoPE and the KV write at once; else one after the other. Takes `fuse_qkv`.
    fuse_rope_attention : bool
        RoPE and the KV write in the attention of a sequence that decodes alone, where it is short
        and its heads have no norms; else before it. Takes `fuse_rope_kv`.
    fuse_sampling : bool
        From logits to tokens in the graph of the step; else behind it.
    overlap_launches : bool
        In decoding steps kernels start, and load weights, while the ones before them end; else
        each waits for the end of the one before. Not a bit changes. Off by default.
    close_with_norm : bool
        Of several ranks that share each layer, in the layout ``megatron``: the sum that ends a
        block, the addition to the residual stream and the next block's RMSNorm as one step, of one
        kernel where the ranks' path has it (``peer``). Else rank 0's product adds the residual, and
        the next product normalises, as `fuse_norms` says. LayerNorm is a kernel of its own always.
        Off by default.
    overlap_sums : bool
        Of several ranks that share each layer, on a GPU, in the layout ``megatron``: of a prompt of
        2048 tokens or more, the product that ends a block is made in chunks of rows, each of which
        is added up over ranks while the next is multiplied. Off by default.
    tensor_layout : {"megatron", "gather"}
        Of several ranks that share each layer, how its products are cut: by columns and then by
        rows, with one all-reduce a block; or all by columns, with an all-gather before and after
        the product that ends a block. See :mod:`llm_numba.models.tensor_parallel`.

    Raises
    ------
    EngineError
        If RoPE and the KV write are to be fused and the product before them is not, or attention
        with them and they are apart; or there is no such layout.
    """

    batch_invariant: bool = False
    fuse_qkv: bool = True
    fuse_gate_up: bool = True
    fuse_norms: bool = True
    fuse_rope_kv: bool = True
    fuse_rope_attention: bool = True
    fuse_sampling: bool = True
    overlap_launches: bool = False
    close_with_norm: bool = False
    overlap_sums: bool = False
    tensor_layout: Literal["megatron", "gather"] = "megatron"

    def __post_init__(self) -> None:
        """Refuse what no operation can do."""
        if self.fuse_rope_kv and not self.fuse_qkv:
            raise EngineError(
                "fuse_rope_kv=True takes queries, keys and values from one array, and "
                "fuse_qkv=False makes three.",
                "Switch fuse_rope_kv off, too, or fuse_qkv on.",
            )
        if self.fuse_rope_attention and not self.fuse_rope_kv:
            raise EngineError(
                "fuse_rope_attention=True turns and keeps in one launch, and fuse_rope_kv=False "
                "takes several.",
                "Switch fuse_rope_attention off, too, or fuse_rope_kv on.",
            )
        if self.tensor_layout not in LAYOUTS:
            raise EngineError(
                f"tensor_layout={self.tensor_layout!r} is no layout of tensor parallelism.",
                f"There are: {', '.join(LAYOUTS)}.",
            )
