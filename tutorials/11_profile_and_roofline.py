"""
Where a decode step's time goes
===============================

A step of a language model on a fast GPU takes a millisecond or five. Which of its kernels takes it,
and could that one be faster? We take a recorded profile apart, and hold each operation to the
ceiling above it: the roofline.
"""

# %%
# A recorded step
# ---------------
#
# ``llm-numba profile`` runs a model and notes for each operation when it ran, how many bytes it
# must move at the least, and how much it computes. The repository keeps such records of an H100.
# Each says in itself by which command, on what, and from which commit it was made.

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt

from llm_numba import runtime
from llm_numba.bench.record import default_path
from llm_numba.planner import GPUS

path = default_path("profile", "NVIDIA H100 80GB HBM3", "llama-3.2-1b")
record = json.loads(path.read_text())
command = ["profile", "-m", record["settings"]["model"], "--device", "cuda"]
print("$ llm-numba", *command, "...")
gpu, commit = record["environment"]["gpus"][0], record["environment"]["git"]["commit"]
print(gpu["name"], "at commit", commit[:7])
steps = {step["name"].partition("/context")[0]: step for step in record["results"]}
for name, step in steps.items():
    print(f"{name:16s} {1e3 * step['seconds']:7.3f} ms, {len(step['operations'])} operations")

# %%
# Which operations take it
# ------------------------
#
# A layer is the same sixteen times over, so add up by operation, and by weight for the products.


def summed(step):
    """Add up seconds, bytes and FLOPs of all operations with one name."""
    table = defaultdict(lambda: [0.0, 0, 0])
    for operation in step["operations"]:
        row = table[operation["weight"] or operation["name"]]
        row[0] += sum(end - begin for begin, end in operation["spans"])
        row[1] += sum(operation["traffic"].values())
        row[2] += operation["flops"]
    return dict(table)


def show_longest(step):
    """Print the six operations that take most of a step."""
    rows = sorted(summed(step).items(), key=lambda item: -item[1][0])
    for name, (seconds, num_bytes, flops) in rows[:6]:
        print(f"{name:26s} {1e6 * seconds:6.0f} us  {num_bytes / seconds / 1e12:5.2f} TB/s  "
              f"{flops / num_bytes:4.1f} FLOPs a byte")  # fmt: skip


show_longest(steps["decode/batch=1"])

# %%
# A product with one row of x does two operations for each weight of two bytes: one FLOP a byte. So
# it must be held to the memory, and TB/s is the column to read. The profile's own summary says how
# long the step would take if it did nothing but read weights at the speed of a copy:

parts = steps["decode/batch=1"]["parts"]
floor = parts["weights"] / steps["decode/batch=1"]["seconds"]
print(f"reading the weights once, at the speed of a copy: {floor:.0%} of the step")

# %%
# The roofline
# ------------
#
# With more rows in x the same weights serve more numbers, so FLOPs a byte go up, until not memory
# but arithmetic is the limit (Williams, Waterman and Patterson, 2009). Two lines bound what any
# kernel can do: a slope, the memory's speed times FLOPs a byte, and a flat roof, the arithmetic's
# speed. The slope was measured in the same run. The roofs are the data sheet's, and there are two:
# what CUDA cores can do with float32, and high above it what tensor cores can do with 16 bits.

copy = record["settings"]["bytes_per_second"]
card = GPUS["h100"]

figure, axes = plt.subplots(figsize=(6.4, 4.2))
corners = {"CUDA cores": card.flops / copy, "tensor cores": card.tensor_flops / copy}
for (units, corner), style in zip(corners.items(), ("--", "-"), strict=True):
    line = [(each, copy * min(each, corner) / 1e12) for each in (0.5, corner, 1000)]
    axes.plot(*zip(*line, strict=True), style, color="0.3", zorder=1)
    axes.annotate(units, line[-1], xytext=(0, 3), textcoords="offset points", ha="right")
for (name, step), marker in zip(steps.items(), "osv", strict=True):
    rows = [row for row in summed(step).values() if row[2]]
    per_byte = [flops / num_bytes for _, num_bytes, flops in rows]
    tera = [flops / seconds / 1e12 for seconds, _, flops in rows]
    axes.scatter(per_byte, tera, marker=marker, label=name)
axes.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="TFLOP/s",
         title=f"Llama 3.2 1B on {gpu['name']}")  # fmt: skip
axes.legend()
figure.set_label(
    "A roofline with two flat roofs, both axes logarithmic. The products of a decode step with one"
    " sequence lie at one FLOP a byte, close under the slope; those with 32 sequences at about 31,"
    " around the lower roof; those of a prefill at several hundred, far above the lower roof and"
    " under the upper. Attention lies apart from them, lower."
)
plt.show()

# %%
# Read it from left to right. One sequence: the large products touch the slope, and only fewer
# bytes would make them faster (smaller weights), or more rows. Thirty-two sequences: 32 times the
# work for the same weights. How far these points stay below the slope is what their kernels lose
# to themselves. Some stand above the lower roof already: they are multiplied on tensor cores. A
# prefill: its products come to the upper corner, where memory begins to have no say. CUDA cores
# could not bring them a tenth of the way to that roof.
#
# A point far below its ceiling is where work pays. Attention of one short sequence is such a
# point, but look at the list above before you begin: it also matters how long it takes at all.
#
# On a GPU, if there is one
# -------------------------
#
# The same command takes this GPU's own step apart: a model of the same shape, whose weights are
# random, decodes one sequence. (The first time, its kernels are compiled.)

if problem := runtime.gpu_problem():
    print("Not profiled:", problem)
else:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "profile.json"
        command += ["--max-model-len", "1024", "--num-blocks", "200", "--prefill", "0"]
        run = [sys.executable, "-m", "llm_numba", *command, "--out", out]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        (own,) = json.loads(out.read_text())["results"]
    print(f"{1e3 * own['seconds']:.3f} ms")
    show_longest(own)

# %%
# One thing to try
# ----------------
#
# Take the record of the 8B model (``default_path("profile", "NVIDIA H100 80GB HBM3",
# "llama-3-8b")``). Its matrices are four times as large. Which points move, and which of the 1B
# model's problems has it not got?
