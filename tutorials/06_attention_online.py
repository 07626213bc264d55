"""
Attention, from the formula to the online softmax
=================================================

The formula of attention has a matrix in the middle that nobody wants: a score for each pair of
tokens. We compute it, see what it costs, and then make it vanish with a softmax that needs no
second look at its row.
"""

# %%
# The formula
# -----------
#
# Each query asks all keys up to its own place how well they fit, and takes an average of their
# values, weighted by the answers:
#
# .. math:: O = \mathrm{softmax}\!\left( \frac{Q K^\top}{\sqrt D} \right) V
#
# With S queries, T keys and D numbers in each, this is two products and a softmax between them.

import math

import matplotlib.pyplot as plt
import numpy as np
from numba import cuda, float32

from llm_numba.simulator import simulate

T, D = 96, 32
rng = np.random.default_rng(0)
q, k, v = rng.normal(size=(3, T, D)).astype(np.float32)


def attention(q, k, v):
    """Causal attention in float64, as the formula says it."""
    q, k, v = (array.astype(np.float64) for array in (q, k, v))
    scores = q @ k.T / math.sqrt(D)
    scores[np.triu_indices(len(q), 1)] = -np.inf  # a query sees no later key
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)) @ v


exact = attention(q, k, v)

# %%
# The scores are T x T numbers. They are written by the first product, read and written by the
# softmax, read by the second product, and then thrown away. Nothing else in a transformer grows
# with the square of the context.

for context in (1024, 8192, 131072):
    scores, wanted = context**2 * 2, 3 * context * 128 * 2
    print(f"context {context:6d}: a head's scores {scores / 2**20:8.0f} MiB, its q, k, v "
          f"{wanted / 2**20:5.1f} MiB")  # fmt: skip

# %%
# Softmax before the row has ended
# --------------------------------
#
# Softmax subtracts the row's maximum, so it seems to need the whole row before it can begin. It
# does not. Keep the maximum *so far* and a sum relative to it. When a larger score comes,
# everything that was added up so far is too large by a known factor. Multiply, and go on:
#
# .. math::
#
#    m' = \max(m, s), \qquad \ell' = \ell\, e^{m - m'} + e^{s - m'}, \qquad
#    a' = a\, e^{m - m'} + e^{s - m'} v
#
# In the end :math:`a / \ell` is the answer. This is the **online softmax** (Milakov and
# Gimelshein, 2018), and it is all that fused attention needs to know.


def one_query_online(query, keys, values):
    """Attend to keys one by one; also return the maximum and the sum after each."""
    m, total, mixed = -math.inf, 0.0, np.zeros(D)
    history = []
    for key, value in zip(keys, values, strict=True):
        score = float(query @ key) / math.sqrt(D)
        larger = max(m, score)
        shrink, weight = math.exp(m - larger), math.exp(score - larger)
        m, total, mixed = larger, total * shrink + weight, mixed * shrink + weight * value
        history.append((score, m, total))
    return mixed / total, np.array(history)


answer, history = one_query_online(q[-1], k, v)
print("online against the formula:", f"{np.abs(answer - exact[-1]).max():.0e}")

# %%
# One kernel
# ----------
#
# A warp takes one query. It goes along the keys 32 at a time, **a lane a key**: each lane computes
# the whole dot product of its key. (A sketch that one meets often lets each thread multiply one
# number of q with one of k, and calls that the score. A score is a *sum* over D, and no lane may
# leave it to itself.) The warp finds the maximum of its 32 scores by shuffles, rescales, and then
# each lane collects one of the D = 32 numbers of the output, **a lane a number**: it needs the
# weights of all 32 keys, and gets them by shuffles, too.

EVERYBODY = 0xFFFFFFFF
SCALE = np.float32(1 / math.sqrt(D))


@cuda.jit
def fused_attention(q, k, v, out):
    """A warp a query, keys in tiles of 32; D = 32."""
    query, lane = cuda.blockIdx.x, cuda.threadIdx.x
    m, total, mixed = float32(-math.inf), float32(0), float32(0)
    for first in range(0, query + 1, 32):
        key = first + lane
        score = float32(-math.inf)  # of a key that lies behind the query
        if key <= query:
            score = float32(0)
            for d in range(q.shape[1]):
                score += q[query, d] * k[key, d]
            score *= SCALE
        largest = score
        for distance in (16, 8, 4, 2, 1):
            largest = max(largest, cuda.shfl_xor_sync(EVERYBODY, largest, distance))
        larger = max(m, largest)
        shrink, weight = math.exp(m - larger), math.exp(score - larger)
        m, total, mixed = larger, total * shrink, mixed * shrink
        for other in range(32):
            of_key = cuda.shfl_sync(EVERYBODY, weight, other)
            total += of_key
            if first + other <= query:
                mixed += of_key * v[first + other, lane]
    out[query, lane] = mixed / total


out = np.full_like(q, np.nan)
report = simulate(fused_attention, T, 32, (q, k, v, out))
print("kernel against the formula:", f"{np.abs(out - exact).max():.0e}")

# %%
# No score was ever written to memory: the kernel has none to write.
#
# Which line costs most? Each lane reads another key, so a request of ``k[key, d]`` touches 32
# rows. That is what the :doc:`attention ladder </ladders/attention>` mends next: tiles of keys in
# shared memory, and several queries that share them.

worst = max(report.lines, key=lambda line: line.global_sectors)
print(f"line {worst.line}: {worst.global_sectors} of {report.global_sectors} sectors, "
      f"ideally {worst.ideal_sectors}")  # fmt: skip

# %%
# The picture shows the last query's way along its keys: each score, the maximum so far, and the
# sum relative to it. Where the maximum jumps, the sum falls. That is the factor at work.

figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(6.4, 4))
above.plot(history[:, 0], ".", color="0.6", label="score")
above.step(range(T), history[:, 1], where="post", label="maximum so far, m")
above.legend(loc="lower right")
below.step(range(T), history[:, 2], where="post", color="C1", label="sum so far, relative to m")
below.legend(loc="lower right")
below.set_xlabel("keys seen")
above.set_title("Online softmax: one query along its keys")
figure.set_label(
    "Above, the scores of 96 keys as dots and the maximum so far as stairs that rise a few times."
    " Below, the sum relative to that maximum: it grows, and drops wherever the maximum jumps."
)
plt.show()

# %%
# On a GPU, if there is one
# -------------------------
#
# Beside our kernel runs what the ladder has for float32, with tiles of keys in shared memory and
# many scores in a thread's registers. (Its last step is for tensor cores, and for 16 bits.) The
# formula is the same, and so is the work: twice the context is four times the scores.

from llm_numba import ops, runtime
from llm_numba.bench.gpu_timing import seconds_on_gpu

if problem := runtime.gpu_problem():
    print("Not timed:", problem)
else:
    for context in (1024, 2048, 4096):
        random = rng.normal(size=(3, context, D)).astype(np.float32)
        there = [runtime.to_device(array, "cuda") for array in random]
        found = runtime.zeros((context, D), np.float32, "cuda")
        ours = seconds_on_gpu(runtime.launch, fused_attention, context, 32, (*there, found))
        heads = [array[:, None] for array in there]  # one head
        ladders = seconds_on_gpu(ops.causal_attention, *heads, D**-0.5)
        for each in (found, ops.causal_attention(*heads, D**-0.5)[:, 0]):
            assert np.allclose(runtime.to_host(each), attention(*random), atol=1e-4)
        print(f"context {context}: {1e6 * ours:6.0f} us, the ladder's {1e6 * ladders:6.0f} us")

# %%
# One thing to try
# ----------------
#
# Split the keys: let one warp take the first half and another the second, each with its own m, sum
# and mixture. How are two such triples merged into one? Try it in NumPy with ``one_query_online``
# on both halves. You have then invented *split-KV* decoding, which keeps a whole GPU busy with a
# single query.
