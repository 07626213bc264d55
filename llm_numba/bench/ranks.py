"""``mpirun -n 4 llm-numba bench ranks --tp 4``: a model on several ranks, by the tokens that come.

All ranks run this together; rank 0 holds the clock. Three things are timed:

``decode``
    From one step's last token to the next step's, by the host's clock, after steps that do not
    count.
``prefill``
    From a long prompt to its first token, alone.
``load``
    Many requests at a time, from the first to the last token of all: tokens a second.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.engine import LLM, SamplingParams
from llm_numba.models import Execution
from llm_numba.parallel import Mesh

_VOCABULARY = 200  # prompts take tokens below


@dataclass(frozen=True)
class RankSettings:
    """What to run.

    Attributes
    ----------
    model, device, dtype
        As of :class:`~llm_numba.LLM`.
    tp, pp : int
    comm : str
        The path that is asked for.
    enforce_eager : bool
        As of :class:`~llm_numba.LLM`.
    switches : tuple of str
        Of :class:`~llm_numba.models.Execution`, those to be on that are off by default.
    batches : tuple of int
        Sequences that decode together.
    context : int
        Tokens of each before the first step that is timed.
    steps, warmup : int
        Counted and uncounted steps.
    prompt : int
        Length of the prompt that is alone; 0 leaves it out.
    repeats : int
        Of the prompt.
    requests : int
        Of the load; 0 leaves it out.
    request_prompt, new_tokens : int
        Tokens of each request, before and after.
    """

    model: str
    device: str = "cuda"
    dtype: str | None = None
    tp: int = 1
    pp: int = 1
    comm: str = "auto"
    enforce_eager: bool = False
    switches: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1,)
    context: int = 512
    steps: int = 200
    warmup: int = 50
    prompt: int = 8191  # with its answer, all positions of the 8B and 70B shapes
    repeats: int = 5
    requests: int = 32
    request_prompt: int = 128
    new_tokens: int = 64

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    def options(self) -> dict[str, Any]:
        """Return what the model is loaded with."""
        decoded = self.context + self.warmup + self.steps + 1
        longest = max(self.prompt + 1, decoded, self.request_prompt + self.new_tokens)
        return {
            "device": self.device,
            "dtype": self.dtype,
            "enforce_eager": self.enforce_eager,
            "execution": Execution(**dict.fromkeys(self.switches, True)),
            "max_model_len": longest,
            "max_num_seqs": max(*self.batches, self.requests, 1),
            "max_num_batched_tokens": max(self.prompt, 2048),
            # A prompt that was seen before would be found again.
            "enable_prefix_caching": False,
        }


def measure(mesh: Mesh, settings: RankSettings) -> Iterator[Result]:
    """Run the benchmark on all ranks together.

    Parameters
    ----------
    mesh : Mesh
    settings : RankSettings

    Yields
    ------
    Result
        On rank 0, as soon as it is measured; nothing elsewhere.
    """
    with LLM(settings.model, mesh=mesh, **settings.options()) as llm:
        if not llm.leads:
            llm.follow()
            return
        carried = mesh.tensor.name if mesh.tp > 1 else mesh.pipeline.name
        split = f"tp={settings.tp}/pp={settings.pp}/{carried}"
        shape = {"tp": settings.tp, "pp": settings.pp, "path": carried}
        for batch in settings.batches:
            seconds = _step_seconds(llm, settings, batch)
            pieces = llm.engine.runner.num_pieces
            yield Result(
                f"decode/{split}/batch={batch}",
                f"a step of {batch}, {settings.context} tokens before",
                summarize([1e3 * each for each in seconds], "ms", warmup=settings.warmup),
                shape | {"batch": batch, "context": settings.context, "pieces": pieces,
                         "tokens_per_second": batch / float(np.mean(seconds))},
            )  # fmt: skip
        if settings.prompt:
            seconds = [_prompt_seconds(llm, settings, seed) for seed in range(settings.repeats + 1)]
            yield Result(
                f"prefill/{split}/tokens={settings.prompt}",
                f"a prompt of {settings.prompt} tokens",
                summarize([1e3 * each for each in seconds[1:]], "ms", warmup=1),
                shape | {"tokens": settings.prompt},
            )
        if settings.requests:
            rates = [_load_rate(llm, settings, seed) for seed in range(3)]
            yield Result(
                f"load/{split}/requests={settings.requests}",
                f"{settings.requests} requests at a time",
                summarize(rates[1:], "tokens/s", warmup=1),
                shape | {"requests": settings.requests, "new_tokens": settings.new_tokens},
            )


def _prompt(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, _VOCABULARY, length).tolist()


def _params(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def _step_seconds(llm: LLM, settings: RankSettings, batch: int) -> list[float]:
    """Return the time of each counted step."""
    prompts = [_prompt(settings.context, seed) for seed in range(batch)]
    count = settings.warmup + settings.steps + 1
    ends: list[float] = []
    for number, _ in enumerate(llm.stream(prompts, _params(count)), start=1):
        if number % batch == 0:
            ends.append(time.perf_counter())
    return np.diff(ends)[-settings.steps :].tolist()


def _prompt_seconds(llm: LLM, settings: RankSettings, seed: int) -> float:
    prompt = _prompt(settings.prompt, seed)
    begin = time.perf_counter()
    llm.generate([prompt], _params(1))
    return time.perf_counter() - begin


def _load_rate(llm: LLM, settings: RankSettings, seed: int) -> float:
    seeds = range(1000 * seed, 1000 * seed + settings.requests)
    prompts = [_prompt(settings.request_prompt, each) for each in seeds]
    begin = time.perf_counter()
    llm.generate(prompts, _params(settings.new_tokens))
    return settings.requests * settings.new_tokens / (time.perf_counter() - begin)
