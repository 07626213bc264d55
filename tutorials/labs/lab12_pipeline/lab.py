"""Lab 12: its steps and checks. Time is not measured: it follows from what the ranks told."""

from collections import defaultdict
from fractions import Fraction

import numpy as np
from grader import Lab, close, fail, gamma, same

TERMINAL = 62  # columns for the slots
COMMUNICATION = ("send", "receive", "start_send", "start_receive")

lab = Lab(
    title="Pipeline schedule",
    goal="Keep all stages of a pipeline busy, and let nobody wait for somebody who waits.",
    needs="a laptop; MPI for the second tier",
    ranks=True,
)


def logical_time(events):
    """Return, for each rank, the slot in which it computed what: {slot: label}.

    A tick takes one slot, a message none. Whoever waits goes on when the other one has come.
    """
    clock = [0] * len(events)
    place = [0] * len(events)
    rows = [{} for _ in events]
    begun = defaultdict(list)  # (what, rank, other): when each was begun
    awaited = defaultdict(int)
    partner = {"received": "start_send", "sent": "start_receive"}

    def play(rank):
        """Replay one event of a rank; False if it waits for another rank's."""
        what, *details = events[rank][place[rank]]
        if what == "tick":
            rows[rank][clock[rank]] = details[0]
            clock[rank] += 1
        elif what in partner:
            other = details[0]
            times = begun[partner[what], other, rank]
            number = awaited[what, rank, other]
            if number == len(times):
                return False
            awaited[what, rank, other] += 1
            clock[rank] = max(clock[rank], times[number])
        else:
            begun[what, rank, details[0]].append(clock[rank])
        place[rank] += 1
        return True

    moved = True
    while moved:
        moved = False
        for rank, told in enumerate(events):
            while place[rank] < len(told) and play(rank):
                moved = True
    return rows


def drawn(rows):
    """Draw who computed what when, as far as a terminal is wide."""
    slots = max((max(row, default=-1) + 1 for row in rows), default=0)
    width = max((len(label) for row in rows for label in row.values()), default=1)
    shown = min(slots, TERMINAL // (width + 1))
    more = " ..." if shown < slots else ""
    return "\n".join(
        f"stage {stage} | " + " ".join(row.get(t, ".").rjust(width) for t in range(shown)) + more
        for stage, row in enumerate(rows)
    )


def busy(ran, wanted, works):
    """Fail unless the ranks took so many slots, each computing in `works` of them."""
    rows = logical_time(ran.events)
    taken = max(max(row, default=-1) + 1 for row in rows)
    for stage, row in enumerate(rows):
        if len(row) != works:
            fail(f"Stage {stage} calls layer() {len(row)} times; {works} are needed.")
    if taken > wanted:
        fail(
            f"It takes {taken} slots, of which a stage is idle in {taken - works}. {wanted} slots"
            f" are enough.\n{drawn(rows)}"
        )


def messages(ran, wanted, what):
    """Fail unless rank r has sent `wanted[r]` messages."""
    given = [traffic.messages for traffic in ran.traffic]
    if given != wanted:
        fail(f"{what}: ranks 0, 1, ... send {given} messages; the requirement is {wanted}.")


def weights_of(rng, stages, width):
    """Draw a weight for each stage."""
    return [
        (rng.normal(size=(width, width)) / np.sqrt(width)).astype(np.float32) for _ in range(stages)
    ]


schedule = lab.step("The timetable")


@schedule.check("fills, runs and drains", points=1)
def _(student, rng):
    for stages, batches in ((3, 4), (1, 3), (4, 1), (4, 2), (2, int(rng.integers(5, 9)))):
        right = [
            [None] * stage + list(range(batches)) + [None] * (stages - 1 - stage)
            for stage in range(stages)
        ]
        given = [list(row) for row in student.call("timetable", stages, batches)]
        same(given, right, f"timetable({stages}, {batches})")


@schedule.check("counts the bubble", points=1)
def _(student, rng):
    for stages, batches in ((4, 1), (4, 12), (1, 5), (3, 3)):
        table = student.call("timetable", stages, batches)
        right = Fraction(stages - 1, batches + stages - 1)
        given = student.call("bubble", table)
        what = f"bubble(timetable({stages}, {batches})), by the formula {right},"
        close(given, float(right), 1e-12, what)
    same(
        student.call("bubble", [[0, None, 1], [None, 0, None]]), 0.5, "bubble of a table with gaps"
    )


streams = lab.step("Micro-batches")


def through_all(x, weights):
    """Return what the last stage makes of x in float64, and how far float32 may be from it."""
    error = np.zeros(x.shape)
    value = x.astype(np.float64)
    for weight in weights:
        wide = weight.astype(np.float64)
        # tanh is nowhere steeper than 1, and its own rounding a few units of a number below 1.
        error = error @ np.abs(wide) + gamma(len(wide) + 4) * (np.abs(value) @ np.abs(wide) + 1)
        value = np.tanh(value @ wide)
    return value, error


def micro_batches(student, rng, stages, count):
    """Run run_micro_batches on ranks, and compare with one program."""
    weights = weights_of(rng, stages, 6)
    given = [rng.normal(size=(2 + m % 3, 6)).astype(np.float32) for m in range(count)]
    unset = [np.full_like(x, np.nan) for x in given]
    ran = student.ranks(
        stages,
        "run_micro_batches",
        lambda rank: (weights[rank], unset if rank else given),
        allow=COMMUNICATION,
    )
    for rank, outputs in enumerate(ran.values):
        wanted = count if rank == stages - 1 else 0
        if not isinstance(outputs, list) or len(outputs) != wanted:
            fail(f"run_micro_batches must return a list of {wanted} arrays on stage {rank}.")
    for m, output in enumerate(ran.values[-1]):
        right, bound = through_all(given[m], weights)
        close(output, right, bound, f"micro-batch {m} of {count}, after {stages} stages")
    return ran


@streams.check("computes what one program would", points=2)
def _(student, rng):
    for stages, count in ((1, 2), (2, 1), (3, 5)):
        micro_batches(student, rng, stages, count)


@streams.check("leaves no gap between micro-batches", points=2)
def _(student, rng):
    stages, count = 4, 6
    ran = micro_batches(student, rng, stages, count)
    busy(ran, count + stages - 1, count)


@streams.check("sends one message each", points=1)
def _(student, rng):
    ran = micro_batches(student, rng, 3, 4)
    messages(ran, [4, 4, 0], "Four micro-batches on three stages")


rounds_step = lab.step("Decode rounds")


def decode(student, rng, stages, groups, rounds):
    """Run decode_rounds and compare its tokens with those of one program."""
    width = 8
    weights = weights_of(rng, stages, width)
    given = [rng.integers(0, width, 1 + g % 3).astype(np.int32) for g in range(groups)]
    ran = student.ranks(
        stages,
        "decode_rounds",
        lambda rank: (weights[rank], [g * 0 - 1 if rank else g for g in given], rounds),
        allow=COMMUNICATION,
    )
    right = []
    for tokens in given:
        right.append([])
        for _ in range(rounds):
            places = np.arange(1, width + 1, dtype=np.float32)
            x = np.sin((tokens[:, None] + 1).astype(np.float32) * places)
            for weight in weights:
                x = np.tanh(x @ weight)
            tokens = x.argmax(axis=1).astype(np.int32)
            right[-1].append(tokens.tolist())
    first, *others = ran.values
    what = f"decode_rounds on stage 0 of {stages}, {groups} groups, {rounds} rounds"
    told = [[np.asarray(tokens).tolist() for tokens in group] for group in first]
    same(told, right, f"the tokens of {what}")
    for stage, value in enumerate(others, 1):
        same(value, [], f"what decode_rounds returns on stage {stage}")
    return ran


@rounds_step.check("draws the tokens of one program", points=2)
def _(student, rng):
    for stages, groups, rounds in ((2, 1, 3), (2, 2, 2), (3, 2, 2), (3, 4, 3)):
        decode(student, rng, stages, groups, rounds)


@rounds_step.check("keeps as many stages busy as there are groups", points=2)
def _(student, rng):
    stages = groups = 4
    ran = decode(student, rng, stages, groups, 3)
    busy(ran, groups * 3 + stages - 1, groups * 3)


@rounds_step.check("lets nobody wait for somebody who waits", points=2)
def _(student, rng):
    ran = decode(student, rng, 3, 9, 2)
    busy(ran, 9 * 2 + 2, 9 * 2)
    messages(ran, [18, 18, 18], "Two rounds of nine groups on three stages")
