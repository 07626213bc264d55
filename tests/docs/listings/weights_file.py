import json

import numpy as np

from llm_numba.models import resolve_model

path = resolve_model("storyteller") / "model.safetensors"
with path.open("rb") as file:
    header_size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(header_size))
    name = "model.layers.0.self_attn.k_proj.weight"
    print(name, header[name]["dtype"], header[name]["shape"])

    # The data begins after the header; bfloat16 is the upper half of a float32.
    begin, end = header[name]["data_offsets"]
    file.seek(8 + header_size + begin)
    stored = np.frombuffer(file.read(end - begin), np.uint16)

weight = (stored.astype(np.uint32) << 16).view(np.float32).reshape(header[name]["shape"])
print(f"{end - begin:,} bytes -> {weight.size:,} numbers; the first: {weight[0, 0]:.6f}")
