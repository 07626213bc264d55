import numpy as np

from llm_numba.kvcache import PagedKVCache
from llm_numba.models import ForwardBatch, Tokenizer, load_model, open_model, resolve_model

directory = resolve_model("storyteller")
tokenizer = Tokenizer(directory)
model = load_model(open_model(directory), np.dtype("float32"), num_positions=64)
config = model.config
cache = PagedKVCache(config.num_layers, 8, 4, config.num_kv_heads, config.head_dim, np.float32)

# Step 1: two prompts, N = 5 + 3 tokens, no padding.
prompts = [tokenizer.encode("Emma lost the red"), tokenizer.encode("Jack had")]
tables = [cache.new_table() for _ in prompts]
slots = [slot for table, ids in zip(tables, prompts, strict=True)
         for slot in table.append_slots(len(ids))]  # fmt: skip
batch = ForwardBatch(
    token_ids=np.concatenate(prompts),
    positions=np.array([0, 1, 2, 3, 4, 0, 1, 2]),
    slot_mapping=np.array(slots),
    block_tables=np.array([tables[0].blocks, [*tables[1].blocks, 0]]),
    query_starts=np.array([0, 5, 8]),
    context_lens=np.array([5, 3]),
)
print("token_ids   ", batch.token_ids)
print("positions   ", batch.positions)
print("slot_mapping", batch.slot_mapping)
print("block_tables", batch.block_tables.tolist())
hidden = model.forward(batch, cache)  # [N, E]
next_ids = model.logits(hidden[batch.query_starts[1:] - 1]).argmax(axis=1)
print("next tokens ", [tokenizer.decode([i]) for i in next_ids])

# Step 2: both decode one token; N = B = 2.
slots = [table.append_slots(1)[0] for table in tables]
batch = ForwardBatch(
    token_ids=next_ids,
    positions=np.array([5, 3]),
    slot_mapping=np.array(slots),
    block_tables=np.array([tables[0].blocks, [*tables[1].blocks, 0]]),
    query_starts=np.array([0, 1, 2]),
    context_lens=np.array([6, 4]),
)
next_ids = model.logits(model.forward(batch, cache)).argmax(axis=1)
print("and then    ", [tokenizer.decode([i]) for i in next_ids])
