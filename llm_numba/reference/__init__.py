"""Every operation that the models need, in NumPy: what it means, before how it is made fast.

Operands are float32, and so is what is computed from them; tests pass float64 and get float64
throughout, a ground truth that is better than the thing it judges. Shapes are given in axis
letters:

=====  ==========================  =====  ==============================
B      sequences in a batch        H      query heads
N      tokens in a batch           G      KV heads
S      queries of one sequence     D      components of a head
T      keys of one sequence        E, F   hidden and MLP width
V      vocabulary                  W      blocks in a block table
=====  ==========================  =====  ==============================
"""

from llm_numba.reference.activation import gelu, gelu_tanh, silu, silu_mul
from llm_numba.reference.arithmetic import add, multiply
from llm_numba.reference.attention import (
    causal_attention,
    paged_attention,
    paged_decode_attention,
    rope_and_decode_attention,
)
from llm_numba.reference.basics import histogram, saxpy
from llm_numba.reference.convert import convert
from llm_numba.reference.embedding import embedding, embedding_with_positions
from llm_numba.reference.kv import copy_blocks, gather_kv, write_kv
from llm_numba.reference.layernorm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from llm_numba.reference.linear import linear
from llm_numba.reference.random_weights import fill_random
from llm_numba.reference.rank_sums import combine_parts
from llm_numba.reference.reduce import row_max, row_sum
from llm_numba.reference.rope import (
    RopeScaling,
    rope,
    rope_and_write_kv,
    rope_attention_factor,
    rope_frequencies,
    rope_tables,
)
from llm_numba.reference.sampling import (
    apply_penalties,
    argmax,
    philox_uniform,
    sample,
    sample_tokens,
    sampling_probabilities,
    top_logprobs,
)
from llm_numba.reference.softmax import log_softmax, softmax
from llm_numba.reference.tokens import fill_in_tokens
from llm_numba.reference.transpose import transpose
from llm_numba.reference.vocabulary import argmax_of_parts, argmax_part, embedding_part

__all__ = [
    "RopeScaling",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "apply_penalties",
    "argmax",
    "argmax_of_parts",
    "argmax_part",
    "causal_attention",
    "combine_parts",
    "convert",
    "copy_blocks",
    "embedding",
    "embedding_part",
    "embedding_with_positions",
    "fill_in_tokens",
    "fill_random",
    "gather_kv",
    "gelu",
    "gelu_tanh",
    "histogram",
    "layer_norm",
    "linear",
    "log_softmax",
    "multiply",
    "paged_attention",
    "paged_decode_attention",
    "philox_uniform",
    "rms_norm",
    "rope",
    "rope_and_decode_attention",
    "rope_and_write_kv",
    "rope_attention_factor",
    "rope_frequencies",
    "rope_tables",
    "row_max",
    "row_sum",
    "sample",
    "sample_tokens",
    "sampling_probabilities",
    "saxpy",
    "silu",
    "silu_mul",
    "softmax",
    "top_logprobs",
    "transpose",
    "write_kv",
]
