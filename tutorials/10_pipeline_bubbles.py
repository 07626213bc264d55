"""
Pipelines, and their bubbles
============================

The other way to share a model: the first ranks take the first layers, the next ranks the next. Data
passes from stage to stage, and a stage that has nothing to do waits. We draw that waiting, shrink
it, and then measure it on a real model.
"""

# %%
# One piece at a time
# -------------------
#
# A prompt goes through R stages. In one piece, one stage works and R - 1 wait. Cut into M pieces,
# the second piece can be in stage 0 while the first is in stage 1 (GPipe, Huang et al., 2019).
# Here is that rule as a program: a stage begins a piece when it is free and when the stage before
# has done it.

import json

import matplotlib.pyplot as plt

from llm_numba.bench.record import default_path
from llm_numba.engine.timeline import Stretch, bubble_of, ideal_bubble


def schedule(num_stages, num_pieces, overhead=0.0):
    """Return when each stage computes each piece of a prompt; one prompt takes a stage 1 second."""
    free = [0.0] * num_stages
    stretches = []
    for piece in range(num_pieces):
        arrived = 0.0
        for stage in range(num_stages):
            begin = max(arrived, free[stage])
            arrived = free[stage] = begin + 1 / num_pieces + overhead
            stretches.append(Stretch(stage, piece, 1, begin, arrived))
    return stretches


R = 4
for pieces in (1, 2, 4, 8, 16):
    bubble = bubble_of(schedule(R, pieces), R)
    assert abs(bubble - ideal_bubble(pieces, R)) < 1e-9
    print(f"{R} stages, {pieces:2d} pieces: {bubble:.0%} of the time is bubble")

# %%
# The formula is (R - 1) / (M + R - 1): each stage works M turns, and the last begins R - 1 turns
# after the first. More pieces, smaller bubble. But pieces are not free: a product of fewer rows
# uses the weights that it reads less often, and each piece must be sent. Give every piece a small
# price, and there is a best number:

for pieces in (1, 4, 16, 64):
    end = max(each.end for each in schedule(R, pieces, overhead=0.02))
    print(f"{pieces:2d} pieces at a price of 0.02 s each: done after {end:.2f} s")

# %%
# Decoding is another matter
# --------------------------
#
# A word cannot be cut, and the next one needs it. With one request, one stage works at a time,
# whatever one does. With at least R requests, each stage can hold another one: while request 0 is
# in stage 1, request 1 is in stage 0, and round and round. No fill, no drain:


def decode(num_stages, num_requests, num_tokens):
    """Return when each stage computes which token; requests take turns in rounds."""
    free, ready = [0.0] * num_stages, [0.0] * num_requests
    stretches = []
    for token in range(num_tokens):
        for request in range(num_requests):
            arrived = ready[request]
            for stage in range(num_stages):
                begin = max(arrived, free[stage])
                arrived = free[stage] = begin + 1
                stretches.append(Stretch(stage, token * num_requests + request, 1, begin, arrived))
            ready[request] = arrived
    return stretches


for requests in (1, 2, 4):
    print(f"{requests} requests: {bubble_of(decode(R, requests, 50), R):.0%} bubble")

# %%
# The picture has a row for each stage and the colour of a piece or request.


def draw(axes, stretches, title, num_colours):
    """Draw stages over time."""
    for each in stretches:
        colour = plt.colormaps["tab20"](each.step % num_colours)
        span = (each.begin, each.end - each.begin)
        axes.broken_barh([span], (each.stage - 0.4, 0.8), color=colour, ec="white", lw=0.5)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_yticks(range(R))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


figure, places = plt.subplots(4, 1, figsize=(6.4, 7))
draw(places[0], schedule(R, 1), "a prompt in one piece", 1)
draw(places[1], schedule(R, 8), "a prompt in eight pieces", 8)
draw(places[2], decode(R, 1, 3), "one request decodes three tokens", 1)
draw(places[3], decode(R, 4, 4), "four requests decode four tokens each, in rounds", 4)
places[-1].set_xlabel("time")
figure.tight_layout()
figure.set_label(
    "Four charts with a row for each of four stages. One piece makes a staircase, eight pieces a"
    " full parallelogram, one decoding request a staircase again and again; four requests fill all"
    " stages from their first round on."
)
plt.show()

# %%
# Measured
# --------
#
# ``llm-numba bench pipeline`` runs the bundled model on stages that are real processes, and takes
# the times on their clocks. This is what it recorded, beside the formula:

for path in sorted(default_path("pipeline").parent.glob("pipeline_*.json")):
    record = json.loads(path.read_text())
    print(f"{record['environment']['device']['name']}, {record['settings']['stages']} stages")
    for result in record["results"]:
        print(f"  {result['what']:40s} {result['median']:5.1f} %, "
              f"ideally {result['shape']['ideal']:5.1f} %")  # fmt: skip

# %%
# The more pieces, the farther from the formula: pieces are not equally long (a later piece attends
# to more keys), stages are not equally heavy, and a message takes time.
#
# One thing to try
# ----------------
#
# Make one stage half as fast as the others in ``schedule``. What becomes of the bubble with many
# pieces, and what is its limit? Then move layers: how should 32 layers be dealt to four stages if
# the last one also has the head, which costs as much as three layers?
