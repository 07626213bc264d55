"""The inputs of a step that nobody asked for: what a profile runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from llm_numba import ops
from llm_numba.bench.profile_traffic import StepShape
from llm_numba.engine.decode_graphs import bucket_of
from llm_numba.engine.decode_rows import Bucket
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder, ForwardBatch
from llm_numba.runtime import is_device_array, upload


@contextmanager
def prepared_step(
    model: Decoder, kv_cache: PagedKVCache, shape: StepShape
) -> Iterator[Callable[[], object]]:
    """Make a step as the engine makes it, with blocks of the cache for its sequences.

    What the blocks hold is left as it is: no kernel's time depends on it.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
        With enough free blocks; they are given back.
    shape : StepShape

    Yields
    ------
    callable
        Computes the step, and chooses the likeliest token for each sequence.
    """
    B, S, T = shape.batch, shape.new_tokens, shape.context
    tables = [kv_cache.new_table() for _ in range(B)]
    try:
        slots = [table.append_slots(T)[T - S :] for table in tables]
        # A graph's block table is as wide as its bucket.
        largest = Bucket(B, kv_cache.allocator.num_blocks)
        blocks = np.zeros((B, bucket_of(B, len(tables[0].blocks), largest).width))
        blocks[:, : len(tables[0].blocks)] = [table.blocks for table in tables]
        numbers = (
            np.arange(B * S) % model.config.vocab_size,
            np.tile(np.arange(T - S, T), B),
            np.concatenate(slots),
            blocks,
            np.arange(B + 1) * S,
            np.full(B, T),
            np.arange(1, B + 1) * S - 1,
        )
        arrays = [np.ascontiguousarray(each, np.int32) for each in numbers]
        token_ids, *others, last = upload(arrays, like=model.lm_head)
        (sampled,) = upload([np.zeros(B, np.int64)], like=model.lm_head)
        arrived = None
        if is_device_array(model.lm_head):
            counters = np.zeros(B * model.config.num_heads, np.int32)
            (arrived,) = upload([counters], like=model.lm_head)

        def step() -> None:
            ids = ops.fill_in_tokens(token_ids, last, sampled) if S == 1 else token_ids
            hidden = model.forward(ForwardBatch(ids, *others, arrived), kv_cache)
            if S > 1:
                hidden = ops.embedding(last, hidden)
            ops.argmax(model.logits(hidden))

        yield step
    finally:
        for table in tables:
            table.free()
