"""
One layer on several ranks
==========================

A model that does not fit on one GPU can be cut. *Tensor parallelism* cuts every weight matrix, so
that all GPUs work on the same token at the same time. We cut an MLP by hand, count what its parts
must say to each other, and then let ``mpirun`` start a whole model that way.
"""

# %%
# Two ways to cut a product
# -------------------------
#
# A linear layer is y = x Wᵀ. Give each of P ranks some **rows** of W: each computes some of the
# outputs, and x is needed whole. Field and papers call this *column-parallel*, for they write W
# transposed. Or give each rank some **columns** of W: it needs only its part of x, and gets a part
# of every sum, to be added up. That is *row-parallel*.
#
# Ranks are programs of their own, started by MPI. For a look, threads of this process will do:
# ``run_ranks`` runs a function on each of P ranks, and gives each a communicator.

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from llm_numba import LLM, ops, runtime
from llm_numba.models import load_config, resolve_model
from llm_numba.parallel import run_ranks

N, E, F, P = 3, 8, 12, 2
rng = np.random.default_rng(0)
x = rng.normal(size=(N, E))
gate, up, down = (rng.normal(size=shape) for shape in ((F, E), (F, E), (E, F)))
whole = (ops.silu(x @ gate.T) * (x @ up.T)) @ down.T


def gather_after_each(ranks):
    """Cut both products by rows, and put the parts together after each."""
    inner_part = slice(ranks.rank * F // P, (ranks.rank + 1) * F // P)
    outer_part = slice(ranks.rank * E // P, (ranks.rank + 1) * E // P)
    mine = ops.silu(x @ gate[inner_part].T) * (x @ up[inner_part].T)
    inner = np.concatenate(ranks.all_gather(mine[None]), axis=1)
    return np.concatenate(ranks.all_gather((inner @ down[outer_part].T)[None]), axis=1)


def rows_then_columns(ranks):
    """Cut the first products by rows and the last by columns: one sum at the end."""
    part = slice(ranks.rank * F // P, (ranks.rank + 1) * F // P)
    inner = ops.silu(x @ gate[part].T) * (x @ up[part].T)
    return ranks.all_reduce(inner @ down[:, part].T)


for layout in (gather_after_each, rows_then_columns):
    first, second = run_ranks(P, layout)
    assert np.allclose(first, whole)
    assert np.array_equal(first, second)
    print(f"{layout.__name__:18s} is the whole MLP, to {np.abs(first - whole).max():.0e}")

# %%
# The second layout is Megatron's (Shoeybi et al., 2019). It fits because SiLU works on each number
# alone: the part of ``inner`` that a rank has is the part that its columns of ``down`` want. So
# nothing is said between the products. The same holds for attention, with heads in place of
# numbers: each rank has some heads, and the output product is cut by columns.
#
# What it costs to talk
# ---------------------
#
# Each block (attention, or the MLP) then ends with one *all-reduce* of N x E numbers, the residual
# stream. The other layout gathers after every product: q, k and v, what attention adds, the inner
# numbers of the MLP, and what it adds. Count what each rank must receive, for one token of an 8B
# model in 16 bits. (An all-reduce costs a rank at least 2 (P - 1) / P of its array, a gather
# (P - 1) / P.)

config = load_config(resolve_model("random:llama-3-8b"))
residual = config.hidden_size
heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
gathered = heads + residual + config.intermediate_size + residual
kib = {"one sum a block": [], "gather after each product": []}
ranks = (2, 4, 8)
for P in ranks:
    share = (P - 1) / P
    kib["one sum a block"].append(2 * (2 * residual) * share * 2 / 1024 * config.num_layers)
    kib["gather after each product"].append(gathered * share * 2 / 1024 * config.num_layers)
    print(f"P = {P}: " + ", ".join(f"{name} {values[-1]:.0f} KiB" for name, values in kib.items()))

# %%
# It is not only bytes. For one token these arrays are small, and each exchange takes its time
# however small it is (:doc:`measured </parallel/communicators>`): the sums are two a layer, the
# gathers four.

figure, axes = plt.subplots(figsize=(6.4, 3))
places = np.arange(len(ranks))
for shift, (name, values) in zip((-0.2, 0.2), kib.items(), strict=True):
    axes.bar(places + shift, values, 0.4, label=name)
axes.set_xticks(places, [f"P = {P}" for P in ranks])
axes.set(ylabel="KiB a token and rank", title="What a rank receives, Llama 3 8B")
axes.legend()
figure.set_label(
    "Bars for 2, 4 and 8 ranks: with a gather after each product a rank receives nearly twice as"
    " much as with one sum a block."
)
plt.show()

# %%
# A whole model, started by mpirun
# --------------------------------
#
# The engine does this for every layer, embedding and head included. Rank 0 schedules and samples;
# the others follow. Each takes a GPU for itself, where there are two. The same words come out,
# whatever the cut:

PROMPT = "Emma had a red ball. One day, Emma lost the red"
mpirun = Path(sys.executable).with_name("mpirun")
device = "auto" if len(runtime.visible_gpus()) > 1 else "cpu"
generate = [sys.executable, "-m", "llm_numba", "generate", PROMPT, "--temperature", "0",
            "--max-tokens", "12", "--device", device, "--dtype", "float32"]  # fmt: skip
if mpirun.exists():
    command = [mpirun, "-n", "2", "--oversubscribe", *generate, "--tp", "2"]
    # Open MPI asks twice before it runs as root, which is who one is in a container.
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        command, env=os.environ | root, stdout=subprocess.PIPE, text=True, check=True
    )
    print("two ranks:", done.stdout.strip())
else:
    print("There is no mpirun here: pip install 'llm-numba[mpi]' brings one.")
llm = LLM("storyteller", device="cpu")
params = llm.default_sampling_params(temperature=0, max_tokens=12)
print("one rank: ", llm.generate(PROMPT, params)[0].outputs[0].text.strip())

# %%
# One thing to try
# ----------------
#
# Cut the MLP the wrong way round: the first products by columns, the last by rows. What must be
# exchanged then, and where, and why can SiLU not wait? Count its bytes for the same model.
