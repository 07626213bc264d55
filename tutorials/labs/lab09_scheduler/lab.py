"""Lab 9: its steps and checks. An engine without a model plays steps of the student's scheduler."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from grader import Lab, fail, same

lab = Lab(
    title="Scheduler",
    goal="Fill the engine's steps: token budget, chunked prefill, admission, pre-emption.",
    imports=("collections", "dataclasses"),
)


@dataclass
class Life:
    """What the engine knows of a request. The scheduler is never told `answer`."""

    number: int
    prompt: int
    answer: int
    arrival: int = 0
    drawn: int = 0  # tokens of the answer so far
    computed: int = 0  # tokens in the cache
    running: bool = False

    @property
    def missing(self):
        """Tokens that are known and not computed."""
        return self.prompt + self.drawn - self.computed

    @property
    def ended(self):
        """Whether the last token of the answer has been drawn."""
        return self.drawn == self.answer


@dataclass
class Engine:
    """Plays the scheduler's steps, and holds it to its promises."""

    student: Any
    lives: list
    max_num_seqs: int
    budget: int
    num_blocks: int
    block_size: int = 4
    steps: int = 0
    history: list = field(default_factory=list)  # of each step what schedule() returned

    def __post_init__(self):
        limits = (self.max_num_seqs, self.budget, self.num_blocks, self.block_size)
        self.scheduler = self.student.new("Scheduler", *limits)
        self.coming = deque(self.lives)

    def play(self, most_steps):
        """Run until all requests have ended; return in how many steps."""
        while not all(life.ended for life in self.lives):
            if self.steps == most_steps:
                left = [life.number for life in self.lives if not life.ended]
                fail(
                    f"After {most_steps} steps requests {left[:8]} have not ended."
                    " Either somebody starves, or the steps are not as full as they could be."
                )
            while self.coming and self.coming[0].arrival <= self.steps:
                life = self.coming.popleft()
                self.scheduler.call("add", life.number, life.prompt)
            self.step()
        return self.steps

    def step(self):
        """Do what the scheduler says, and look whether it may say so."""
        decoding = [life for life in self.lives if life.running and life.missing == 1]
        work, stopped = self.scheduler.call("schedule")
        self.history.append((work, stopped))
        self.steps += 1
        here = f"Step {self.steps}, {work}"
        numbers = [number for number, _ in work]
        if len(set(numbers)) < len(numbers):
            fail(f"{here}, computes a sequence twice.")
        if (tokens := sum(count for _, count in work)) > self.budget:
            fail(f"{here}, computes {tokens} tokens. The budget is {self.budget}.")
        self.stop(stopped, here)
        for life in decoding:
            if life.running and life.number not in numbers:
                fail(f"{here}, leaves out request {life.number}, which decodes.")
        for number, count in work:
            self.compute(self.lives[number], count, here)
        self.check_blocks(stopped, here)
        ended = [number for number in numbers if self.lives[number].ended]
        for number in ended:
            self.lives[number].running, self.lives[number].computed = False, 0
        self.scheduler.call("complete", ended)

    def stop(self, stopped, here):
        """Take note of those that were pre-empted: the youngest must go first."""
        self.held_by_oldest = 0
        for number in sorted(stopped, reverse=True):
            life = self.lives[number]
            younger = [each.number for each in self.lives if each.running and each.number > number]
            if younger:
                fail(
                    f"{here}, pre-empts request {number}, and younger ones still run: {younger}."
                    " The youngest is pre-empted first; otherwise old requests starve."
                )
            needed = self.blocks(life.computed + min(life.missing, self.budget))
            self.held_by_oldest = needed
            life.running, life.computed = False, 0

    def compute(self, life, count, here):
        """Compute tokens of a request, and draw its next one when none is missing."""
        if not life.running:
            self.admit(life, here)
        if not 1 <= count <= life.missing:
            fail(
                f"{here}, computes {count} tokens of request {life.number}, which misses"
                f" {life.missing}."
            )
        life.computed += count
        if life.missing == 0:
            life.drawn += 1

    def admit(self, life, here):
        """Let a request run that was waiting: the oldest, if there is a place."""
        waiting = [
            each.number
            for each in self.lives
            if each.arrival < self.steps and not each.running and not each.ended
        ]
        if life.number not in waiting:
            fail(f"{here}, computes request {life.number}, which is not there.")
        if life.number > waiting[0]:
            fail(
                f"{here}, admits request {life.number} while the older request {waiting[0]} waits:"
                " it is overtaken."
            )
        life.running = True
        if (count := sum(each.running for each in self.lives)) > self.max_num_seqs:
            fail(f"{here}, lets {count} sequences run. The limit is {self.max_num_seqs}.")

    def blocks(self, tokens):
        """Return how many blocks so many tokens take."""
        return math.ceil(tokens / self.block_size)

    def check_blocks(self, stopped, here):
        """Count the blocks in use: not too many, and nobody stopped in vain."""
        used = sum(self.blocks(life.computed) for life in self.lives)
        if used > self.num_blocks:
            fail(f"{here}, needs {used} blocks of the cache. There are {self.num_blocks}.")
        if stopped and used + self.held_by_oldest <= self.num_blocks:
            fail(
                f"{here}, pre-empts requests {sorted(stopped)}. Request {min(stopped)} could have"
                " stayed: there were enough blocks."
            )


def crowd(rng, count, prompts, answers, spread=0):
    """Make requests of random lengths, that come within `spread` steps."""
    arrivals = sorted(rng.integers(0, spread + 1, count).tolist())
    return [
        Life(number, int(rng.integers(*prompts)), int(rng.integers(*answers)), arrivals[number])
        for number in range(count)
    ]


def full_steps(engine):
    """How many steps can have the budget used up, and how many all places taken."""
    tokens = sum(life.prompt + life.answer - 1 for life in engine.lives)
    turns = sum(life.answer for life in engine.lives)
    return math.ceil(tokens / engine.budget), math.ceil(turns / engine.max_num_seqs)


budget = lab.step("The budget")


@budget.check("serves those that decode, then prompts by age", points=1)
def _(student, rng):
    for tokens, missing, right in (
        (8, [1, 1, 1], [1, 1, 1]),
        (8, [5, 1, 1], [5, 1, 1]),
        (8, [20, 1, 1], [6, 1, 1]),
        (8, [3, 20, 1], [3, 4, 1]),
        (8, [1, 20, 20], [1, 7, 0]),
        (3, [9, 1, 1], [1, 1, 1]),
        (2, [9, 1, 1][1:], [1, 1]),
        (8, [], []),
    ):
        what = f"split_budget({tokens}, {missing})"
        same(list(student.call("split_budget", tokens, missing)), right, what)


@budget.check("spends the budget, and no more", points=1)
def _(student, rng):
    for _ in range(40):
        missing = rng.choice([1, 1, 1, 2, 5, 17], int(rng.integers(1, 9))).tolist()
        tokens = len(missing) + int(rng.integers(0, 12))
        shares = list(student.call("split_budget", tokens, missing))
        what = f"split_budget({tokens}, {missing}) is {shares}"
        if len(shares) != len(missing):
            fail(f"{what}: a share for each sequence is needed.")
        if any(not 0 <= share <= count for share, count in zip(shares, missing, strict=True)):
            fail(f"{what}: a share is at most what the sequence misses, and at least 0.")
        if sum(shares) > tokens:
            fail(f"{what}: {sum(shares)} tokens are more than the budget.")
        if sum(shares) < min(tokens, sum(missing)):
            fail(f"{what}: tokens of the budget are left though there is work for them.")


admission = lab.step("Admission")


@admission.check("reads long prompts in pieces, beside others", points=2)
def _(student, rng):
    lives = [Life(0, 3, 4), Life(1, 18, 2), Life(2, 2, 2), Life(3, 2, 1)]
    engine = Engine(student, lives, max_num_seqs=3, budget=8, num_blocks=99)
    engine.play(most_steps=12)
    right = [
        ([(0, 3), (1, 5)], []),
        ([(0, 1), (1, 7)], []),
        ([(0, 1), (1, 6), (2, 1)], []),
        ([(0, 1), (1, 1), (2, 1)], []),
        ([(2, 1), (3, 2)], []),
    ]
    for step, (given, wanted) in enumerate(zip(engine.history, right, strict=False), 1):
        same(given, wanted, f"what schedule() returns for step {step}")
    same(engine.steps, len(right), "the number of steps")


@admission.check("leaves those that run a block to grow", points=1)
def _(student, rng):
    # Blocks of four: request 0 takes two, request 1 would take three. Of six blocks one is
    # request 0's to grow into, so there is room for it; of five there is not.
    for num_blocks, first in ((6, [(0, 5), (1, 12)]), (5, [(0, 5)])):
        lives = [Life(0, 5, 3), Life(1, 12, 1), Life(2, 1, 1)]
        engine = Engine(student, lives, max_num_seqs=3, budget=17, num_blocks=num_blocks)
        engine.play(most_steps=8)
        same(engine.history[0][0], first, f"the work of step 1 with {num_blocks} blocks")


@admission.check("overtakes nobody, whoever comes when", points=2)
def _(student, rng):
    lives = crowd(rng, 30, (1, 30), (1, 12), spread=40)
    lives[5].prompt = 150
    engine = Engine(student, lives, max_num_seqs=5, budget=12, num_blocks=400)
    engine.play(most_steps=400)


@admission.check("keeps places and budget busy", points=2)
def _(student, rng):
    # Many short answers and a few long ones, as in a chat.
    lives = crowd(rng, 40, (2, 12), (2, 8))
    for life in lives[::8]:
        life.answer = 40
    engine = Engine(student, lives, max_num_seqs=8, budget=24, num_blocks=400)
    # As long as somebody waits, each step has all places taken or the budget used up. Behind that
    # nothing can come but the rest of the longest answer.
    engine.play(most_steps=sum(full_steps(engine)) + 40)


preemption = lab.step("Pre-emption")


@preemption.check("lets the youngest make room for the others", points=2)
def _(student, rng):
    lives = [Life(0, 7, 9), Life(1, 6, 12), Life(2, 3, 4)]
    engine = Engine(student, lives, max_num_seqs=3, budget=16, num_blocks=6)
    engine.play(most_steps=40)
    if not any(stopped for _, stopped in engine.history):
        fail("Nobody was pre-empted, though the cache is too small for all.")


@preemption.check("ends all requests in a cache that is too small", points=2)
def _(student, rng):
    for num_blocks in (12, 17):
        lives = crowd(rng, 24, (1, 24), (1, 20), spread=30)
        engine = Engine(student, lives, max_num_seqs=6, budget=12, num_blocks=num_blocks)
        engine.play(most_steps=1000)


@preemption.check("pre-empts rarely enough", points=1)
def _(student, rng):
    lives = crowd(rng, 30, (4, 20), (4, 20))
    engine = Engine(student, lives, max_num_seqs=8, budget=24, num_blocks=30)
    # Recomputing costs steps, but less than it would to run half as many sequences.
    engine.play(most_steps=2 * sum(full_steps(engine)))
