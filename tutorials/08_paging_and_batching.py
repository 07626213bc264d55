"""
Paged keys and values, and batches that never stop
==================================================

A server answers many people at once, and must keep the keys and values of all their texts. We watch
how an engine does that with a few blocks of memory: who holds which block, in each step, until all
have their answer.
"""

# %%
# A room for each, or blocks for all
# ----------------------------------
#
# Keys and values of a text grow by one token a step, and nobody knows where it ends. The simple
# way is to set aside room for the longest text that is allowed. Most texts are short, so most of
# that room stays empty. Say 20 texts of random lengths, and a limit of 64 tokens:

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation

from llm_numba import LLM, SamplingParams
from llm_numba.kvcache.block_table import count_blocks

BLOCK, LIMIT = 4, 64
lengths = np.random.default_rng(0).geometric(1 / 12, size=20).clip(max=LIMIT)
rooms = len(lengths) * LIMIT
paged = sum(count_blocks(int(length), BLOCK) for length in lengths) * BLOCK
print(f"{lengths.sum()} tokens")
print(f"a room for each:  {rooms} slots, {1 - lengths.sum() / rooms:.0%} of them empty")
print(f"blocks of {BLOCK}:      {paged} slots, {1 - lengths.sum() / paged:.0%} of them empty")

# %%
# With **paging** (Kwon et al., 2023) the memory is cut into small blocks. A text takes a block
# when it needs one, wherever that lies, and writes its number into its *block table*. At most one
# block of each text is not full. The attention kernel looks each position up in the table.
#
# An engine at work
# -----------------
#
# Here is the bundled model with 24 blocks of 4 tokens: 96 tokens in all, for everybody. Six people
# come at once. We look over the engine's shoulder, before each step, at the tables of all
# sequences that it computes.

llm = LLM("storyteller", device="cpu", block_size=BLOCK, num_blocks=24, max_model_len=LIMIT,
          max_num_batched_tokens=16, enable_prefix_caching=False)  # fmt: skip
submit, tables, steps = llm.engine.runner.submit, {}, []


def look_and_submit(step):
    """Note who computes how many tokens, and who holds which blocks; then let the step run."""
    works = {work.sequence.request.request_id: work for work in step.works}
    tables.update({number: work.sequence.table for number, work in works.items()})
    computed = {number: len(work.token_ids) for number, work in works.items()}
    held = {number: (list(table.blocks), table.num_tokens) for number, table in tables.items()}
    steps.append((computed, held))
    return submit(step)


llm.engine.runner.submit = look_and_submit
prompts = [
    "Once upon a time there was a little dog who", "Emma had a red ball.", "One day",
    "Tom and Mia went to the park. They saw a big tree and a small bird", "Mia", "The sun",
]  # fmt: skip
answers = [14, 30, 8, 12, 34, 26]
params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in answers]
llm.generate(prompts, params)
for number, (computed, _) in enumerate(steps[:6]):
    print(f"step {number}: " + ", ".join(f"{who}: {n} tokens" for who, n in computed.items()))
print(f"... {len(steps)} steps in all; pre-empted: {llm.stats().num_preemptions}")

# %%
# Three things happened that a simpler server does not do:
#
# - **Prompts came in pieces.** A step computes at most 16 tokens here. A long prompt is cut, and
#   those who already write get their token in the same step (*chunked prefill*).
# - **Nobody waited for a batch to end.** When a text was done, its blocks went to the others at
#   once, and who waited could join in the next step (*continuous batching*).
# - **Memory ran out, and nothing failed.** When a text needs a block and none is free, the youngest
#   gives all of its own back and is read again later. It goes on with the same words.
#
# With a room of 64 slots for each text, these 96 slots hold one text at a time, and each word of
# each answer is a step of its own:

print(f"one text after the other: {sum(answers)} steps")
print(f"six that share blocks:    {len(steps)} steps")

# %%
# The picture has a row for each block of the cache and a column for each step.

COLOURS = plt.colormaps["tab10"].colors
map_of_blocks = np.ones((24, len(steps), 3))
for column, (_, held) in enumerate(steps):
    for who, (blocks, _) in held.items():
        for block in blocks:
            map_of_blocks[block, column] = COLOURS[int(who)]
figure, axes = plt.subplots(figsize=(6.4, 3.6))
axes.imshow(map_of_blocks, aspect="auto", interpolation="nearest")
axes.set(xlabel="step", ylabel="block", title="Who holds which block")
for who in range(len(prompts)):
    axes.plot([], [], "s", color=COLOURS[who], label=f"text {who}")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
figure.set_label(
    "A row for each of 24 blocks, a column for each step, in the colour of the text that holds it."
    " Blocks fill up, change hands when a text ends, and one text disappears and comes back later."
)
figure.tight_layout()
plt.show()

# %%
# And the same as a film: each square is a block, each dark mark in it a slot that holds a token.

figure, axes = plt.subplots(figsize=(5, 3.6))


def draw_step(number):
    """Draw the cache as it is before a step."""
    axes.clear()
    axes.set(xlim=(-0.1, 8), ylim=(3, -0.35), xticks=[], yticks=[], title=f"step {number}")
    for block in range(24):
        axes.add_patch(plt.Rectangle((block % 8, block // 8), 0.9, 0.9, fill=False, ec="0.8"))
    for who, (blocks, num_tokens) in steps[number][1].items():
        for place, block in enumerate(blocks):
            x, y = block % 8, block // 8
            axes.add_patch(plt.Rectangle((x, y), 0.9, 0.9, color=COLOURS[int(who)], alpha=0.45))
            for slot in range(min(BLOCK, num_tokens - place * BLOCK)):
                axes.plot(x + 0.2 + slot % 2 * 0.5, y + 0.25 + slot // 2 * 0.4, "s", color="0.2")


plt.rcParams["animation.html"] = "jshtml"  # how a notebook shows a film
film = FuncAnimation(figure, draw_step, frames=len(steps), interval=400)
figure.set_label(
    "A film of 24 blocks of four slots, step by step: texts take blocks as they grow, leave them"
    " when they are done, and others take them over."
)
plt.show()
film

# %%
# One thing to try
# ----------------
#
# Give all six texts the same beginning, 16 tokens long, and leave ``enable_prefix_caching`` on.
# Which blocks appear in several tables at once? Then ask for ``n=3`` answers of one prompt
# (``temperature=1``), and look for the step in which the three part.
