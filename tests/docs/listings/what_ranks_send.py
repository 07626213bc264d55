from llm_numba.models import load_config, resolve_model

P, number = 8, 2  # ranks, bytes of a number


def sent_by_a_rank(config):
    """Messages and bytes of one token, with rings; those of the embedding and the head aside."""
    L, E, F = config.num_layers, config.hidden_size, config.intermediate_size
    heads = config.num_heads * config.head_dim
    share = (P - 1) / P * L * number
    megatron = 2 * L, share * 2 * (E + E)
    gather = 4 * L, share * (heads + E + F + E)
    return megatron, gather


print(f"{P} ranks, one token     megatron              gather")
for name in ("llama-2-13b", "llama-3-8b", "llama-3-70b"):
    config = load_config(resolve_model(f"random:{name}"))
    columns = [f"{n:4} messages {size / 1024:6.0f} KiB" for n, size in sent_by_a_rank(config)]
    print(f"{name:12}", *columns)
