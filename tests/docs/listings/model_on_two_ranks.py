import numpy as np

from llm_numba.kvcache import PagedKVCache
from llm_numba.models import (
    ForwardBatch,
    Tokenizer,
    load_model,
    open_model,
    resolve_model,
    split_model,
)
from llm_numba.parallel import run_ranks

directory = resolve_model("storyteller")
files, tokenizer = open_model(directory), Tokenizer(directory)
ids = np.array(tokenizer.encode("Emma had a red ball. One day, Emma lost the red"), np.int32)
places = np.arange(len(ids), dtype=np.int32)
one_block = [np.array(each, np.int32) for each in ([[0]], [0, len(ids)], [len(ids)])]


def next_token(tensor):
    partition = split_model(files.config, tensor)
    model = load_model(files, np.dtype("float32"), 64, partition=partition)
    config = model.config  # of what is here
    heads = (config.num_kv_heads, config.head_dim)
    cache = PagedKVCache(config.num_layers, 1, 64, *heads, np.float32)
    hidden = model.forward(ForwardBatch(ids, places, places, *one_block), cache)
    token = model.argmax(hidden[-1:])[0]
    layer, kv_heads = model.layers[0], config.num_kv_heads
    shapes = f"qkv {layer.qkv.shape}, out {layer.out.shape}, head {model.lm_head.shape}"
    return f"{shapes}, {kv_heads} KV heads, next {tokenizer.text_of(int(token))!r}"


for ranks in (1, 2):
    for rank, line in enumerate(run_ranks(ranks, next_token)):
        print(f"rank {rank} of {ranks}: {line}")
