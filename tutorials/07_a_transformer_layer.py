"""
A whole transformer layer
=========================

Eight operations make a layer. We run the first layer of the bundled model on its real weights,
first in NumPy, then kernel by kernel as a GPU would, and see where a GPU's memory spends its time:
for many tokens, and for one.
"""

# %%
# The layer in NumPy
# ------------------
#
# ``ops`` has one name an operation. For NumPy arrays it takes the reference, a few lines of NumPy
# each; for arrays of a device, the kernel. So the layer is written once.

import matplotlib.pyplot as plt
import numpy as np

from llm_numba import LLM, ops, runtime
from llm_numba.microscope.views import observe

llm = LLM("storyteller", device="cpu")
model = llm.engine.runner.model
config, layer = model.config, model.layers[0]
H, G, D = config.num_heads, config.num_kv_heads, config.head_dim
SHAPES = {
    name: getattr(layer, name).shape
    for name in ("input_norm", "qkv", "out", "post_attention_norm", "gate_up", "down")
}
for name, shape in SHAPES.items():
    print(f"{name:20s} {shape}")

# %%
# Two halves, each of the same form: a norm, something that mixes, and an addition to the *residual
# stream*, which the last product of each half does. The first half mixes tokens, the second the
# numbers of one token. (The :doc:`engine </walkthrough/index>` gives the norms to the products,
# too, and writes keys and values to a cache.)


def one_layer(residual, positions, weights, tables, begin=lambda name: None):
    """Run the layer, and call ``begin`` with each operation's name before it runs."""
    begin("norm")
    x = ops.rms_norm(residual, weights["input_norm"], config.norm_eps)
    begin("QKV product")
    heads = ops.linear(x, weights["qkv"]).reshape(len(x), H + 2 * G, D)
    q, k, v = heads[:, :H].copy(), heads[:, H : H + G].copy(), heads[:, H + G :].copy()
    begin("RoPE")
    q, k = ops.rope(q, positions, *tables), ops.rope(k, positions, *tables)
    begin("attention")
    mixed = ops.causal_attention(q, k, v, scale=D**-0.5)
    begin("output product")
    residual = ops.linear(mixed.reshape(len(x), H * D), weights["out"], residual=residual)
    begin("second norm")
    x = ops.rms_norm(residual, weights["post_attention_norm"], config.norm_eps)
    begin("gate and up, SiLU")
    x = ops.linear(x, weights["gate_up"], activation="silu_mul")
    begin("down product")
    return ops.linear(x, weights["down"], residual=residual)


def inputs(count, place):
    """Embed the first tokens of a story; put them and the weights where they shall be computed."""
    ids = np.array(llm.tokenizer.encode("Emma had a red ball. One day, Emma lost the red"))[:count]
    arrays = [
        ops.embedding(ids, model.embed_tokens),
        np.arange(count, dtype=np.int32),
        *(getattr(layer, name) for name in SHAPES),
        model.cos[:64],
        model.sin[:64],
    ]
    residual, positions, *rest = [place(np.asarray(array)) for array in arrays]
    return residual, positions, dict(zip(SHAPES, rest, strict=False)), rest[-2:]


in_numpy = one_layer(*inputs(8, np.array))
print("the residual stream behind layer 0:", in_numpy.shape)

# %%
# The same on a device
# --------------------
#
# Give it arrays of the device, and the same lines launch kernels. Here we hold each launch up, let
# the simulator run it, and add up the arrays that it was given: each must cross a GPU's memory
# once, whatever the caches save.


def bytes_moved(count):
    """Return the bytes that each operation must move for so many tokens, and the result."""
    moved = {}

    def begin(name):
        moved[name] = 0

    def look(launch):
        observe(launch)
        arrays = (value for value in launch.args if isinstance(value, np.ndarray))
        moved[next(reversed(moved))] += sum(array.nbytes for array in arrays)

    with runtime.intercept(look):
        result = one_layer(*inputs(count, lambda array: runtime.to_device(array, "sim")), begin)
    return moved, runtime.to_host(result)


many, on_device = bytes_moved(8)
print("kernels against NumPy:", f"{np.abs(on_device - in_numpy).max():.0e}")

# %%
# Eight tokens, and one
# ---------------------
#
# A prompt brings many tokens at once. An answer brings them one by one, each through all the
# weights.

one, _ = bytes_moved(1)
weights = sum(int(np.prod(shape)) for shape in SHAPES.values()) * 4
print(f"weights of the layer {weights / 1024:7.0f} KiB")
for count, moved in {8: many, 1: one}.items():
    total = sum(moved.values())
    print(f"{count} tokens at once    {total / 1024:7.0f} KiB, {total / count / 1024:6.0f} a token")

# %%
# For one token nearly all that moves are weights, and each is used for one multiplication and then
# thrown away. That is why decoding waits for memory, why an engine runs the tokens of many users
# through the weights together, and why a weight of half as many bits is half of the waiting.

names = list(one)
places = np.arange(len(names))
figure, axes = plt.subplots(figsize=(6.4, 3.4))
axes.barh(places - 0.2, [many[name] / 8 / 1024 for name in names], 0.4, label="8 tokens at once")
axes.barh(places + 0.2, [one[name] / 1024 for name in names], 0.4, label="one token")
axes.set_yticks(places, names)
axes.invert_yaxis()
axes.set(xlabel="KiB moved a token", title="One layer of the bundled model")
axes.legend()
figure.tight_layout()
figure.set_label(
    "Bars for eight operations: the products move nearly all bytes, for a single token much more a"
    " token than for eight at once; norms, RoPE and attention hardly show."
)
plt.show()

# %%
# On a GPU, if there is one
# -------------------------
#
# The same lines with arrays of a GPU. ``seconds_on_gpu`` records the launches as a
# :doc:`graph </runner>` and takes the median of some replays.

from llm_numba.bench.gpu_timing import seconds_on_gpu

if problem := runtime.gpu_problem():
    print("Not timed:", problem)
else:
    for count in (8, 1):
        operands = inputs(count, lambda array: runtime.to_device(array, "cuda"))
        found = runtime.to_host(one_layer(*operands))
        assert np.allclose(found, in_numpy[:count], atol=1e-3)
        print(f"{count} tokens at once: {1e6 * seconds_on_gpu(one_layer, *operands):.0f} us")

# %%
# Eight tokens at once should take hardly longer than one. But this layer's weights are so few that
# a GPU reads them faster than it starts kernels. :doc:`The last tutorial
# <11_profile_and_roofline>` looks at layers that are large enough.

# %%
# One thing to try
# ----------------
#
# Attention hardly shows, because the prompt is short. At which context does reading K and V take
# as long as reading the layer's weights? Work it out from ``SHAPES`` first (a token's K and V are
# 2 G D numbers), then give ``bytes_moved`` a longer text, and see.
