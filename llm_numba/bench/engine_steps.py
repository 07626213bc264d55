"""Timing an engine's steps as its users get them: scheduling, launches, GPU and sampling together.

Sequences that decode with a long context would first have to compute it. Nothing in a step's time
depends on what keys and values are, so here the prompts are made known to the prefix cache without
being computed: the blocks hold whatever they held. That leaves a few tokens of each prompt to the
engine, and a context of 32,768 tokens is there at once.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from llm_numba.bench.timing import Statistic, summarize
from llm_numba.engine import LLM, SamplingParams
from llm_numba.engine.request import Request
from llm_numba.errors import CacheError
from llm_numba.kvcache import PagedKVCache

Clock = Callable[[], float]

_FEWEST_STEPS = 20
_GLIMPSE = 2  # steps that are enough to have a graph captured
_AHEAD = 1  # steps that an engine may be ahead of what it hands out

# Why something is left out.
SHORT_CONTEXT = "the model's context is shorter"


@dataclass(frozen=True)
class DecodePlan:
    """How long a decode measurement is, so that its mean context is the one asked for.

    Attributes
    ----------
    prompt_tokens : int
        Of each sequence.
    warmup, steps : int
        Uncounted and counted steps, at most.
    """

    prompt_tokens: int
    warmup: int
    steps: int

    @property
    def context(self) -> int:
        """Tokens of a sequence in the middle of the counted steps."""
        return self.prompt_tokens + 1 + self.warmup + self.steps // 2

    @property
    def final_tokens(self) -> int:
        """Length of a sequence behind the last step."""
        return self.prompt_tokens + 1 + self.warmup + self.steps + _AHEAD

    @classmethod
    def around(
        cls, context: int, warmup: int, steps: int, longest: int | None = None
    ) -> "DecodePlan":
        """Lay the counted steps around a context.

        Parameters
        ----------
        context : int
            Tokens of a sequence in the middle of the counted steps, at least 4. One so near the
            longest that not even 20 steps have room behind it gives way.
        warmup, steps : int
            As many as are wanted; a short context, or one near the longest, has room for fewer.
        longest : int, optional
            The longest sequence that the engine takes. A context beyond it stays as it is.
        """
        if longest is not None:
            if context <= longest:
                nearest = longest - 1 - _AHEAD - min(steps, _FEWEST_STEPS) // 2
                context = min(context, max(nearest, longest // 2))
            steps = min(steps, 2 * (longest - context - 1 - _AHEAD))
        steps = max(1, min(steps, context))
        warmup = max(0, min(warmup, context - steps // 2 - 2))
        return cls(context - steps // 2 - warmup - 1, warmup, steps)


@dataclass(frozen=True)
class DecodeTimes:
    """What :meth:`EngineTimer.decode` measured.

    Attributes
    ----------
    seconds : list of float
        One a counted step.
    warmup : int
        Steps before them.
    """

    seconds: list[float]
    warmup: int

    @property
    def milliseconds(self) -> Statistic:
        """What a record keeps of them."""
        return summarize([1e3 * each for each in self.seconds], "ms", warmup=self.warmup)


class EngineTimer:
    """Runs requests of random tokens and times steps by the host's clock.

    A prompt is never used twice, so no cache of earlier prompts can help.

    Parameters
    ----------
    llm : LLM
    seed : int
        Of the prompts.
    clock : callable
        In seconds.
    """

    def __init__(self, llm: LLM, seed: int = 0, clock: Clock = time.perf_counter) -> None:
        self.llm = llm
        self._engine = llm.engine
        self._rng = np.random.default_rng(seed)
        self._clock = clock

    @property
    def kv_cache(self) -> PagedKVCache:
        """The engine's."""
        return self._engine.runner.kv_cache

    def obstacle(self, batch: int, plan: DecodePlan) -> str | None:
        """Say why a measurement is not possible; None if it is.

        Parameters
        ----------
        batch : int
        plan : DecodePlan
        """
        if plan.final_tokens > self.llm.max_model_len:
            return SHORT_CONTEXT
        blocks = batch * self.kv_cache.blocks_for(plan.final_tokens)
        if blocks > self.kv_cache.allocator.num_blocks:
            return "it does not fit into the KV cache"
        return None

    def decode(self, batch: int, plan: DecodePlan, budget_seconds: float = 60.0) -> "DecodeTimes":
        """Time steps in which each sequence gets one token.

        Parameters
        ----------
        batch : int
            Sequences that decode together.
        plan : DecodePlan
        budget_seconds : float
            The counted steps end after so long, and the warm-up after half of it; but 20 of each
            are made at least, if the plan has as many.

        Returns
        -------
        DecodeTimes

        Raises
        ------
        CacheError
            If they do not fit into the cache together, or one is longer than the model's context.
        """
        if obstacle := self.obstacle(batch, plan):
            raise CacheError(
                f"A batch of {batch} sequences, {plan.final_tokens} tokens each, cannot be timed: "
                f"{obstacle}.",
                "Lower batch or context, or give the cache more blocks.",
            )
        for tokens in widths(plan, self.kv_cache.block_size):
            with self._decoding(batch, tokens, _GLIMPSE) as requests:
                self._repeat(requests, _GLIMPSE, budget_seconds)
        with self._decoding(batch, plan.prompt_tokens, plan.warmup + plan.steps) as requests:
            warmup = self._repeat(requests, plan.warmup, budget_seconds / 2)
            return DecodeTimes(
                self._repeat(requests, plan.steps, budget_seconds), warmup=len(warmup)
            )

    @contextmanager
    def _decoding(self, batch: int, prompt_tokens: int, steps: int) -> Iterator[list[Request]]:
        """Bring sequences as far as their first token, with room for so many more."""
        prompts = [self.prompt(prompt_tokens) for _ in range(batch)]
        make_known(self.kv_cache, prompts)
        with self.running(prompts, [exactly(1 + steps + _AHEAD)] * batch) as requests:
            while any(not request.metrics.num_generated_tokens for request in requests):
                for request in requests:
                    if request.error is not None:  # it will never have a token
                        raise request.error
                self.step(requests)
            yield requests

    def _repeat(self, requests: list[Request], most: int, budget_seconds: float) -> list[float]:
        seconds: list[float] = []
        begin = self._clock()
        while len(seconds) < most and (
            len(seconds) < _FEWEST_STEPS or sum(seconds) < budget_seconds
        ):
            self.step(requests)
            end = self._clock()
            seconds.append(end - begin)
            begin = end
        return seconds

    def first_token(self, prompt_tokens: int) -> float:
        """Time from a prompt to its first token.

        Parameters
        ----------
        prompt_tokens : int

        Returns
        -------
        float
            Seconds.
        """
        prompt = self.prompt(prompt_tokens)
        begin = self._clock()
        self.llm.generate([prompt], exactly(1))
        return self._clock() - begin

    def decode_rate(self, batch: int, prompt_tokens: int, new_tokens: int) -> float:
        """Return tokens per second of a stream, from the sequences' first tokens to the last.

        Parameters
        ----------
        batch : int
            Sequences that decode together.
        prompt_tokens, new_tokens : int
            Length of each prompt and of each continuation; the first new token comes out of the
            prefill and does not count.
        """
        prompts = [self.prompt(prompt_tokens) for _ in range(batch)]
        begun, begin, counted = set(), 0.0, 0
        for chunk in self.llm.stream(prompts, exactly(new_tokens)):
            if len(begun) == batch:
                counted += len(chunk.token_ids)
                continue
            begun.add(chunk.request_id)
            begin = self._clock()
        return counted / (self._clock() - begin)

    @contextmanager
    def running(
        self, prompts: list[list[int]], params: list[SamplingParams]
    ) -> Iterator[list[Request]]:
        """Queue requests; whatever is left of them in the end is ended.

        Parameters
        ----------
        prompts : list of list of int
        params : list of SamplingParams

        Yields
        ------
        list of Request
        """
        requests = [
            self._engine.new_request(None, prompt, each)
            for prompt, each in zip(prompts, params, strict=True)
        ]
        try:
            for request in requests:
                self._engine.add(request)
            yield requests
        finally:
            for request in requests:
                if request.sequences and not request.finished:
                    self._engine.abort(request)

    def prompt(self, num_tokens: int) -> list[int]:
        """Return random tokens.

        Parameters
        ----------
        num_tokens : int
        """
        return self._rng.integers(self.llm.config.vocab_size, size=num_tokens).tolist()

    def step(self, requests: list[Request]) -> None:
        """Let the engine make a step, and take what it hands out, as its users do.

        What nobody takes piles up, and Python's garbage collector looks through all of it again and
        again, while nothing is launched.

        Parameters
        ----------
        requests : list of Request
        """
        self._engine.step()
        for request in requests:
            request.chunks.clear()


def widths(plan: DecodePlan, block_size: int) -> list[int]:
    """Return lengths of prompts from which steps come by every width of block tables.

    An engine captures a graph for each power of two of blocks, when it first needs it. None of the
    counted steps should be the one that waits for it.

    Parameters
    ----------
    plan : DecodePlan
    block_size : int

    Returns
    -------
    list of int
    """
    lengths, blocks = [], 1
    while blocks * block_size < plan.final_tokens:
        if blocks * block_size > plan.prompt_tokens:
            lengths.append(max(1, blocks * block_size - _GLIMPSE))
        blocks *= 2
    return [*lengths, plan.final_tokens - 1 - _GLIMPSE - _AHEAD] if lengths else []


def make_known(kv_cache: PagedKVCache, prompts: list[list[int]]) -> None:
    """Let the prefix cache find prompts that nobody computed.

    Parameters
    ----------
    kv_cache : PagedKVCache
        With free blocks for all of them. Without a prefix cache nothing happens, and whoever runs
        the prompts computes them.
    prompts : list of list of int
    """
    tables = [kv_cache.new_table() for _ in prompts]
    try:
        for table, prompt in zip(tables, prompts, strict=True):
            table.append_slots(len(prompt))
            table.register(prompt)
    finally:
        for table in tables:
            table.free()


def exactly(num_tokens: int) -> SamplingParams:
    """Return parameters of a greedy answer that has so many tokens, whatever they are.

    Parameters
    ----------
    num_tokens : int
    """
    return SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
