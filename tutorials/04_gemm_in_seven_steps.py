"""
A matrix product in seven steps
===============================

Nearly all arithmetic of a language model is in matrix products, and nearly all the art of a fast
one is in not fetching the same number again. Seven kernels, each with one idea more, under the
simulator: what each idea saves, counted.
"""

# %%
# The work, and the least that must move
# --------------------------------------
#
# C = A Wᵀ, with A [M, K] and W [N, K] as checkpoints store it: each output is the dot product of a
# row of A and a row of W.

import inspect
import json

import matplotlib.pyplot as plt
import numpy as np

from llm_numba.bench.record import default_path
from llm_numba.microscope import draw, examine, find_ladder

M, N, K = 128, 128, 32
multiply_adds = M * N * K
least = (M * K + N * K + M * N) * 4
intensity = 2 * multiply_adds / least
print(f"{multiply_adds:,} multiply-adds on {least:,} bytes: {intensity:.0f} FLOPs a byte")

# %%
# By its data sheet an H100 does 20 FLOPs on CUDA cores, or 295 on tensor cores, while one byte
# arrives. Fetch each number once, and this product is a matter of arithmetic. Fetch each number
# each time that it is multiplied, and it is a matter of waiting:

print(f"two numbers fetched for each multiply-add: {2 / 8:.2f} FLOPs a byte")

# %%
# Steps 1 and 2: an output a thread, an output a warp
# ---------------------------------------------------
#
# The package has this operation as a *ladder*: steps that all compute the same, each with its
# kernel. The first is the loop that everybody would write.

ladder = find_ladder("gemm")


def show(name):
    """Print a step's idea and its kernel, as the package has them."""
    step = ladder.step(name)
    print(f"{name}: {step.idea}\n")
    print(inspect.getsource(step.kernels[0].py_func))


show("naive")

# %%
# Neighbouring threads stand in different rows of A, so their loads lie K numbers apart. The second
# step gives an output to a whole warp, whose lanes walk along K side by side:

show("coalesced")

# %%
# All bytes of each sector are used now. But still each number is fetched for each of its uses.
#
# Steps 3 and 4: tiles in shared memory
# -------------------------------------
#
# A block that computes 32 x 32 outputs needs 32 rows of A and 32 rows of W, and uses each number
# 32 times. So it fetches a tile of each into shared memory, once, and multiplies from there. The
# fourth step adds a column that nobody uses, and :doc:`the tutorial on banks
# <03_transpose_and_the_banks>` told why.

show("padded")

# %%
# Steps 5 to 7: tiles in registers
# --------------------------------
#
# Shared memory is near, but every multiply-add of step 4 still loads two numbers from it. If a
# thread computes 8 x 8 outputs, it loads 8 numbers of A and 8 of W, and has 64 multiply-adds for
# 16 loads. Registers are the third memory, and the only one that keeps up with the arithmetic. (A
# tile of 128 x 128 with an output a thread, as one sometimes reads, would need 16,384 threads. A
# block has at most 1,024.)
#
# Step 6 fetches 16 bytes with one instruction, step 7 gives each warp a square of outputs. Their
# kernels are longer; :doc:`the ladder's page </ladders/gemm>` has them line by line. Here we
# count.

names = [
    "naive", "coalesced", "tiled", "padded", "register_tile", "vectorised", "warp_tile",
]  # fmt: skip
seen = examine("gemm", (M, N, K), "float32", names)
assert seen.holds  # each of them computes what the reference does in float64
print(f"{'':15s} {'sectors':>9s} {'of least':>9s} {'passes of shared memory':>25s}")
for view in seen.views:
    total = view.total
    print(
        f"{view.name:15s} {total.global_sectors:9,d} {total.global_sectors * 32 / least:8.1f}x"
        f" {total.shared_wavefronts:25,d}"
    )

# %%
# Two prices, one after the other. Up to step 3 it is global memory that falls. From then on it is
# the passes over shared memory: first those of conflicts, then those of loads that registers make
# needless. (The last step moves some sectors more again. Its blocks have smaller tiles here, and a
# sector shared by two blocks is fetched by both.) What bounds a kernel is whatever is left, and so
# the next idea is never the last one again.

figure, axes = plt.subplots(figsize=(6.4, 3.6))
places = range(len(names))
axes.plot(
    places, [view.total.global_sectors for view in seen.views], "o-", label="sectors, global memory"
)
axes.plot(
    places, [view.total.shared_wavefronts or None for view in seen.views], "s-",
    label="passes, shared memory",
)  # fmt: skip
axes.axhline(least / 32, color="0.6", linestyle="--", label="least sectors")
axes.set_xticks(places, names, rotation=25, ha="right")
axes.set(yscale="log", title=f"One product, M = {M}, N = {N}, K = {K}")
axes.legend()
figure.tight_layout()
figure.set_label(
    "Over seven steps on a logarithmic scale: sectors of global memory fall steeply up to the tiled"
    " step and little after it; passes over shared memory begin there and fall with each step."
)
plt.show()

# %%
# Where the tile's columns conflict, and how the padding mends it, the microscope draws:

draw(examine("gemm", (32, 32, 32), "float32", ["tiled", "padded"]))

# %%
# On a GPU, if there is one
# -------------------------
#
# What do these savings make of the time? If there is a GPU here, the same seven steps run on it.
# If not, here is how fast they are on somebody else's, from the record that the :doc:`ladder's page
# </ladders/gemm>` is made of.

from llm_numba import runtime
from llm_numba.bench.gpu_timing import seconds_on_gpu

if problem := runtime.gpu_problem():
    record = json.loads(default_path("kernels", "NVIDIA H100 80GB HBM3").read_text())
    measured = {result["name"]: result["median"] for result in record["results"]}
    speeds = {name: measured[f"gemm/float32/{name}"] for name in names}
    print(f"Not timed: {problem}. On an H100, a product of 4096 x 4096 x 4096:")
else:
    size = 2048
    operands = ladder.operands((size, size, size), np.dtype("float32"), 0)
    exact = operands["x"] @ operands["weight"].T
    x, weight = (runtime.to_device(operands[each], "cuda") for each in ("x", "weight"))
    speeds = {}
    for name in names:
        out = runtime.zeros((size, size), np.float32, "cuda")
        launches = ladder.step(name).plan(x=x, weight=weight, out=out)
        speeds[name] = 2 * size**3 / seconds_on_gpu(runtime.launch_all, launches) / 1e12
        assert np.allclose(runtime.to_host(out), exact, atol=1e-2)
    print(f"On this GPU, a product of {size} x {size} x {size}:")
for name, speed in speeds.items():
    print(f"{name:15s} {speed:6.2f} TFLOP/s")

# %%
# Hold it to the counts. The third step saves nearly all sectors, and on the H100 little came of it:
# everybody stood in line at a bank. The fourth saves no sector, and is several times as fast.

# %%
# One thing to try
# ----------------
#
# At step 5 a thread has 8 x 8 outputs. Work out loads from shared memory per multiply-add for 4 x
# 4, 8 x 8 and 16 x 16, and the registers that a thread needs for its outputs and the numbers in
# hand. An SM has 65,536 registers. How many threads of each kind fit, and why is 16 x 16 not
# better?
