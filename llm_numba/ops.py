"""One name per operation: what models speak.

Behind each name stand twins. :mod:`llm_numba.reference` says in NumPy what the operation means;
:mod:`llm_numba.kernels` does the same on a GPU, or in the simulator. A call goes by where its first
argument lies: to the reference for arrays of NumPy, to the kernels for those of a device. So a
model names no array library, and one model file runs everywhere.

The kernels are imported when the first array of a device comes along: a program that stays on the
CPU never waits for Numba.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

from llm_numba import reference
from llm_numba.reference import (
    RopeScaling,
    philox_uniform,
    rope_attention_factor,
    rope_frequencies,
    rope_tables,
    sample,
    sampling_probabilities,
)
from llm_numba.runtime import kind_of

__all__ = [
    "Call",
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
    "sample",
    "sample_tokens",
    "sampling_probabilities",
    "silu",
    "silu_mul",
    "softmax",
    "top_logprobs",
    "transpose",
    "watch",
    "write_kv",
]


class Call(NamedTuple):
    """One operation, ready to run.

    Attributes
    ----------
    name : str
        As of this module, ``"linear"``.
    twin : callable
        The function that runs, of the reference or of the kernels.
    args : tuple
    kwargs : dict
    """

    name: str
    twin: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """Run it, and return its result."""
        return self.twin(*self.args, **self.kwargs)


_watcher: ContextVar[Callable[[Call], Any] | None] = ContextVar("watcher", default=None)


@contextlib.contextmanager
def watch(callback: Callable[[Call], Any]) -> Iterator[None]:
    """Hand each operation to a function, which runs it and returns its result.

    So a profile learns what a model does, and in what order. Holds for this thread (and
    asynchronous task) alone.

    Parameters
    ----------
    callback : callable
        Takes a :class:`Call`.
    """
    token = _watcher.set(callback)
    try:
        yield
    finally:
        _watcher.reset(token)


def _twins(on_host: Callable[..., Any], module: str) -> Callable[..., Any]:
    """Join a function of the reference and its twin of that name in a module of the kernels.

    ``operation.on_device()`` is the latter, for those who want to look at it; a GPU gets it as
    ``operation.on_gpu()``, which remembers what it did before.
    """
    name = on_host.__name__

    @functools.cache
    def on_device() -> Callable[..., Any]:
        return getattr(importlib.import_module(f"llm_numba.kernels.{module}"), name)

    @functools.cache
    def on_gpu() -> Callable[..., Any]:
        from llm_numba.runtime.replays import Replays

        return Replays(on_device())

    @functools.wraps(on_host)
    def operation(first: Any, /, *args: Any, **kwargs: Any) -> Any:
        kind = kind_of(first)
        if callback := _watcher.get():
            twin = on_device() if kind in ("cuda", "sim") else on_host
            return callback(Call(name, twin, (first, *args), kwargs))
        twin = on_gpu() if kind == "cuda" else on_device() if kind == "sim" else on_host
        return twin(first, *args, **kwargs)

    operation.on_device, operation.on_gpu = on_device, on_gpu
    return operation


# From a token id to the residual stream.
fill_in_tokens = _twins(reference.fill_in_tokens, "tokens")
embedding = _twins(reference.embedding, "embedding")
embedding_with_positions = _twins(reference.embedding_with_positions, "embedding")

# Weights: from the format of the file to that of the device; and where there is no file.
convert = _twins(reference.convert, "convert")
fill_random = _twins(reference.fill_random, "random_weights")

# Products, with what stands before and behind them.
linear = _twins(reference.linear, "linear")
gelu = _twins(reference.gelu, "elementwise")
gelu_tanh = _twins(reference.gelu_tanh, "elementwise")
silu = _twins(reference.silu, "elementwise")
silu_mul = _twins(reference.silu_mul, "elementwise")
transpose = _twins(reference.transpose, "transpose")
add = _twins(reference.add, "arithmetic")
multiply = _twins(reference.multiply, "arithmetic")

# Norms.
rms_norm = _twins(reference.rms_norm, "layernorm")
layer_norm = _twins(reference.layer_norm, "layernorm")
add_rms_norm = _twins(reference.add_rms_norm, "layernorm")
add_layer_norm = _twins(reference.add_layer_norm, "layernorm")

# Positions, the cache, attention.
rope = _twins(reference.rope, "rope")
rope_and_write_kv = _twins(reference.rope_and_write_kv, "rope")
write_kv = _twins(reference.write_kv, "kv")
gather_kv = _twins(reference.gather_kv, "kv")
copy_blocks = _twins(reference.copy_blocks, "kv")
causal_attention = _twins(reference.causal_attention, "attention")
paged_attention = _twins(reference.paged_attention, "attention")
paged_decode_attention = _twins(reference.paged_decode_attention, "paged_decode")
rope_and_decode_attention = _twins(reference.rope_and_decode_attention, "rope_attention")

# From logits to a token.
argmax = _twins(reference.argmax, "sampling")
apply_penalties = _twins(reference.apply_penalties, "sampling_penalties")
sample_tokens = _twins(reference.sample_tokens, "sampling")
top_logprobs = _twins(reference.top_logprobs, "sampling_logprobs")
softmax = _twins(reference.softmax, "softmax")
log_softmax = _twins(reference.log_softmax, "sampling_logprobs")

# Both ends of a model whose vocabulary is spread over ranks.
embedding_part = _twins(reference.embedding_part, "vocabulary")
argmax_part = _twins(reference.argmax_part, "vocabulary")
argmax_of_parts = _twins(reference.argmax_of_parts, "vocabulary")

# What ranks have, added up.
combine_parts = _twins(reference.combine_parts, "rank_sums")
