import tempfile
from pathlib import Path

import numpy as np

from llm_numba import LLM
from llm_numba.models import open_model, resolve_model, write_shards

with tempfile.TemporaryDirectory() as place:
    for_two, for_eight = Path(place) / "two", Path(place) / "eight"
    write_shards(open_model(resolve_model("storyteller")), for_two, tensor_parallel=2)
    # Of those shards, not of the model: two stages of four ranks each.
    paths = write_shards(open_model(for_two), for_eight, tensor_parallel=4, num_stages=2)
    for path in paths[::4]:
        print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB")
    whole, shards = LLM("storyteller", device="cpu"), LLM(for_eight, device="cpu")
    print(f"same bits: {np.array_equal(whole.logits([1, 2, 3]), shards.logits([1, 2, 3]))}")
