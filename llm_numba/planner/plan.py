r"""One sum: does a model fit on some GPUs, and how fast would it be there.

A pipeline of R stages works on M micro-batches. The first stage's step of the last micro-batch
begins when M - 1 others are through, and R - 1 more stages follow, so a round that fills the
pipeline and drains it takes

.. math:: (M + R - 1)\,(t + s)

where t is the slowest stage's step and s a message to the next stage. The part (R - 1)/(M + R - 1)
of it each stage waits: the bubble. Where rounds are *interleaved*, the next token of one
micro-batch is begun while others are still on their way: a round takes max(M, R) steps, and from
M = R on nobody waits.

t depends on M, because a micro-batch has B / M sequences. M is chosen so that a round is shortest,
which is not where the bubble is smallest: while reading weights is what takes the time, half as
many sequences take as long.

References
----------
Huang et al., "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism", 2019.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from llm_numba.engine.memory import MemoryOptions
from llm_numba.errors import ParallelError
from llm_numba.models import ModelConfig
from llm_numba.planner.collectives import Exchange, LinkTable, send
from llm_numba.planner.gpus import GPU, Link, find_link
from llm_numba.planner.links import packaged_links
from llm_numba.planner.memory import RankMemory, plan_stages
from llm_numba.planner.split import Division, cut
from llm_numba.planner.steps import Load, StageTime, stage_time
from llm_numba.planner.table import KernelTable


@dataclass(frozen=True)
class Question:
    """What is to be planned.

    Attributes
    ----------
    config : ModelConfig
    dtype : dtype
        Of 16 bits.
    gpu : GPU
    tp, pp : int
        P and R.
    batch : int
        Sequences at a time.
    context : int
        Tokens of each, prompt and answer: memory for so many is kept, and the time of a step is
        that of the last one.
    prompt : int or None
        Tokens of a prompt, for the time to the first token; by default 512, or all of the context.
    micro_batches : int or None
        M; by default what makes a round shortest.
    max_num_batched_tokens : int
        Of a step that computes a prompt.
    gpu_memory_gb : float or None
        In GiB, what an engine may take of a card; by default nine tenths of it.
    inside, outside : str or None
        Names of links, in place of the GPU's usual ones.
    """

    config: ModelConfig
    dtype: np.dtype
    gpu: GPU
    tp: int = 1
    pp: int = 1
    batch: int = 1
    context: int = 2048
    prompt: int | None = None
    micro_batches: int | None = None
    max_num_batched_tokens: int = 2048
    gpu_memory_gb: float | None = None
    inside: str | None = None
    outside: str | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt whose first token is timed."""
        return min(512, self.context) if self.prompt is None else self.prompt

    @property
    def memory_options(self) -> MemoryOptions:
        """The same in the engine's words."""
        return MemoryOptions(
            max_model_len=self.context,
            max_num_seqs=self.batch,
            max_num_batched_tokens=self.max_num_batched_tokens,
            gpu_memory_gb=self.gpu_memory_gb,
        )


@dataclass(frozen=True)
class Rounds:
    """How the tokens of a batch go through the stages.

    Attributes
    ----------
    interleaved : bool
        Whether a round begins while the one before it drains.
    micro_batches : int
        M.
    stages : tuple of StageTime
        Of a micro-batch's step.
    hop : float
        Seconds of its message to the next stage; 0 for one stage.
    """

    interleaved: bool
    micro_batches: int
    stages: tuple[StageTime, ...]
    hop: float

    @property
    def slowest(self) -> StageTime:
        """The stage that the others wait for."""
        return max(self.stages, key=lambda each: each.seconds)

    @property
    def steps(self) -> int:
        """Of the slowest stage, that a round takes."""
        M, R = self.micro_batches, len(self.stages)
        return max(M, R) if self.interleaved else M + R - 1

    @property
    def seconds(self) -> float:
        """Of a round: what a user waits for a token."""
        return self.steps * (self.slowest.seconds + self.hop)

    @property
    def idle(self) -> float:
        """The part of a round that the slowest stage waits: the bubble."""
        return 1 - self.micro_batches / self.steps


@dataclass(frozen=True)
class Plan:
    """What :func:`make_plan` found.

    Attributes
    ----------
    question : Question
    split : Division
    memories : list of RankMemory
        Of each stage's fullest rank.
    table : KernelTable
        Scaled to the GPU.
    tensor_link, pipeline_link : Link
        Between tensor ranks, and between stages.
    drained, interleaved : Rounds
        Decoding, by the two ways to make rounds. They are the same for one stage.
    prompt : Rounds
        A prompt's pieces, which follow one another through the stages.
    """

    question: Question
    split: Division
    memories: list[RankMemory]
    table: KernelTable
    tensor_link: Link
    pipeline_link: Link
    drained: Rounds
    interleaved: Rounds
    prompt: Rounds

    @property
    def fullest(self) -> RankMemory:
        """Memory of the stage that takes most."""
        return max(self.memories, key=lambda each: each.taken)

    @property
    def weight_floor_seconds(self) -> float:
        """Of reading all stages' weights once at the speed of a copy: no token is faster than that.

        The embedding is not counted: a row of it is read.
        """
        config, num_bytes = self.question.config, 0
        for _, rank in self.split.outermost:
            part = rank.partition
            embedding = len(part.share(config.vocab_size)) * config.hidden_size
            is_head = part.is_last and config.tie_word_embeddings
            unread = embedding if part.is_first and not is_head else 0
            num_bytes += (rank.num_parameters - unread) * self.question.dtype.itemsize
        return num_bytes / self.table.copy_bytes_per_second

    def tokens_per_second(self, rounds: Rounds) -> float:
        """Return the rate of all sequences together.

        Parameters
        ----------
        rounds : Rounds
            One of the plan's two.
        """
        return self.question.batch / rounds.seconds

    @property
    def assumptions(self) -> list[str]:
        """What of it was not measured."""
        found = []
        if self.table.scaled_from:
            found.append(
                f"Kernels were measured on {self.table.scaled_from} and scaled by data sheet to "
                f"{self.question.gpu.title} ({self.question.gpu.source})."
            )
        used = [(self.tensor_link, self.question.tp), (self.pipeline_link, self.question.pp)]
        links = {link.name: link for link, ranks in used if ranks > 1 and not link.measured}
        found += [_assumed(link) for link in links.values()]
        return found


def _assumed(link: Link) -> str:
    speed = f"{link.bytes_per_second / 1e9:.3g} GB/s"
    latency = f"{link.latency * 1e6:.2g} us a message"
    if link.fitted:
        return (
            f"{link.name} was measured with two ranks ({link.source}): {speed}, {latency}. For "
            "more ranks these are put into formulas."
        )
    return f"{link.name} was not measured: {speed} ({link.source}), {latency} (a round figure)."


class _Clock:
    """Times steps of a split."""

    def __init__(
        self,
        question: Question,
        split: Division,
        table: KernelTable,
        links: Mapping[str, LinkTable],
    ) -> None:
        self.tensor_link, self.pipeline_link = links_of(question, links)
        self._hops = links.get(self.pipeline_link.name)
        self._question, self._table = question, table
        # The last has most rows of the vocabulary: the others wait for it.
        self._ranks = [last for _, last in split.outermost]
        measured = links.get(self.tensor_link.name)
        self._exchange = Exchange(question.tp, self.tensor_link, measured)

    def rounds(self, load: Load, micro_batches: int, interleaved: bool) -> Rounds:
        question = self._question
        times: dict[tuple, StageTime] = {}
        stages = []
        for rank in self._ranks:
            part = rank.partition
            alike = (rank.config.windows, part.is_first, part.is_last)
            if alike not in times:
                times[alike] = stage_time(rank, load, self._table, self._exchange)
            stages.append(times[alike])
        message = load.rows * question.config.hidden_size * question.dtype.itemsize
        # Each tensor rank sends to its counterpart, all at a time, each over a link of its own.
        measured = self._hops.hop(message) if self._hops else None
        hop = send(message, self.pipeline_link) if measured is None else measured
        hop *= question.pp > 1
        return Rounds(interleaved, micro_batches, tuple(stages), hop)

    def shortest(self, interleaved: bool) -> Rounds:
        question = self._question
        batch, context = question.batch, question.context
        if question.micro_batches is not None:
            tried = {math.ceil(batch / question.micro_batches): question.micro_batches}
        else:
            # Of several M whose micro-batches are of one size, the least has the fewest steps.
            # More than twice as many as stages shorten no round.
            numbers = range(min(batch, 2 * question.pp), 0, -1)
            tried = {math.ceil(batch / M): M for M in numbers}
        choices = (self.rounds(Load(size, 1, context), M, interleaved) for size, M in tried.items())
        return min(choices, key=lambda each: each.seconds)


def make_plan(
    question: Question, table: KernelTable, links: Mapping[str, LinkTable] | None = None
) -> Plan:
    """Plan memory and time.

    Parameters
    ----------
    question : Question
    table : KernelTable
        As measured; it is scaled to the question's GPU here.
    links : mapping of str to LinkTable, optional
        Measured times in place of formulas, by the link's name; by default those that come with
        the package, see :func:`~llm_numba.planner.links.packaged_links`.

    Returns
    -------
    Plan

    Raises
    ------
    ConfigError, ParallelError
        If something does not divide.
    EngineError
        If it does not fit.
    """
    _check(question)
    split = cut(question.config, question.tp, question.pp)
    memories = plan_stages(
        split, question.dtype, question.memory_options, question.gpu.memory_bytes
    )
    scaled = table.scaled(question.gpu)
    clock = _Clock(question, split, scaled, packaged_links() if links is None else links)
    tokens = question.prompt_tokens
    pieces = math.ceil(tokens / question.max_num_batched_tokens)
    return Plan(
        question,
        split,
        memories,
        scaled,
        clock.tensor_link,
        clock.pipeline_link,
        drained=clock.shortest(interleaved=False),
        interleaved=clock.shortest(interleaved=True),
        # A piece is taken to see all of the prompt, as the last one does.
        prompt=clock.rounds(Load(1, math.ceil(tokens / pieces), tokens), pieces, interleaved=False),
    )


def links_of(question: Question, links: Mapping[str, LinkTable]) -> tuple[Link, Link]:
    """Return the links between tensor ranks and between stages.

    Ranks of a host follow one another, tensor ranks side by side. A group that does not fit into a
    host goes over the slower link as a whole.

    Parameters
    ----------
    question : Question
    links : mapping of str to LinkTable
        What was measured, by the link's name.

    Returns
    -------
    tensor, pipeline : Link
    """
    gpu = question.gpu
    inside = find_link(question.inside or gpu.inside)
    outside = find_link(question.outside or gpu.outside)
    tensor = inside if question.tp <= gpu.gpus_per_host else outside
    pipeline = inside if question.tp * question.pp <= gpu.gpus_per_host else outside
    if (times := links.get(tensor.name)) is not None:
        if times.covers(question.tp):
            tensor = replace(tensor, source=times.source, measured=True)
        else:
            tensor = times.fit(tensor)
    if (times := links.get(pipeline.name)) is not None and times.hop(0) is not None:
        pipeline = replace(pipeline, source=times.source, measured=True)
    return tensor, pipeline


def _check(question: Question) -> None:
    for name in ("batch", "context", "prompt_tokens", "max_num_batched_tokens"):
        if (value := getattr(question, name)) < 1:
            raise ParallelError(f"{name}={value} is too small.", "Give 1 or more.")
    M = question.micro_batches
    if M is not None and not 1 <= M <= question.batch:
        raise ParallelError(
            f"{question.batch} sequences cannot be divided into {M} micro-batches.",
            "Take 1 to as many micro-batches as there are sequences.",
        )
    longest = question.config.longest_context
    if question.context > longest:
        raise ParallelError(
            f"context={question.context} is longer than the model's {longest} tokens.",
            f"Take at most {longest}.",
        )
    if question.prompt_tokens > question.context:
        raise ParallelError(
            f"A prompt of {question.prompt_tokens} tokens is longer than context="
            f"{question.context}, which counts prompt and answer.",
            "Raise the context, or shorten the prompt.",
        )
