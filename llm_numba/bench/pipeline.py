"""``mpirun -n 2 llm-numba bench pipeline``: how much of their time stages stand idle.

All ranks run this together. A prompt goes through the stages in M pieces; then sequences decode,
one alone and several in rounds. Each stage writes down when it computed which step. What is
reported is the part of all stages' time in which none was computed, from the first beginning to
the last end, beside what equal pieces on equal stages would leave idle.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.engine import LLM, SamplingParams
from llm_numba.engine.timeline import Stretch, bubble_of, ideal_bubble
from llm_numba.parallel import Mesh


@dataclass(frozen=True)
class PipelineSettings:
    """What to run.

    Attributes
    ----------
    stages : int
        R.
    model : str
    device : {"cpu", "cuda"}
    prompt_tokens : int
    pieces : tuple of int
        M.
    sequences : tuple of int
        That decode together.
    new_tokens : int
        Of each.
    repeats, warmup : int
        Counted and uncounted runs of each.
    """

    stages: int
    model: str = "storyteller"
    device: str = "cpu"
    prompt_tokens: int = 448
    pieces: tuple[int, ...] = (1, 2, 4, 8)
    sequences: tuple[int, ...] = (1, 8)
    new_tokens: int = 12
    repeats: int = 9
    warmup: int = 2

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """A result, and the timeline of its quickest run.

    Attributes
    ----------
    result : Result
        Bubbles in percent.
    timeline : list of Stretch
    """

    result: Result
    timeline: list[Stretch]

    def to_json(self) -> list[list[float]]:
        """Return the timeline: stage, step, tokens, and begin and end in ms since the first."""
        first = min(each.begin for each in self.timeline)
        step = min(each.step for each in self.timeline)
        return [
            [
                each.stage,
                each.step - step,
                each.num_tokens,
                round(1e3 * (each.begin - first), 3),
                round(1e3 * (each.end - first), 3),
            ]
            for each in self.timeline
        ]


def measure(mesh: Mesh, settings: PipelineSettings) -> Iterator[Measured]:
    """Run all cases; every rank must take all results, and those of rank 0 count.

    Parameters
    ----------
    mesh : Mesh
        Of one tensor rank a stage.
    settings : PipelineSettings

    Yields
    ------
    Measured
    """
    R = settings.stages
    prompt = [1 + i % 200 for i in range(settings.prompt_tokens)]
    for pieces in settings.pieces:
        a_piece = -(-settings.prompt_tokens // pieces)
        yield _case(
            mesh,
            settings,
            f"prefill/pieces={pieces}",
            f"{settings.prompt_tokens} tokens in {pieces} pieces",
            [prompt],
            num_tokens=1,
            num_steps=pieces,
            ideal=ideal_bubble(pieces, R),
            max_num_batched_tokens=R * a_piece,
        )
    for count in settings.sequences:
        # A round is as many steps as there are groups; the prompts are a step of their own.
        groups = min(count, R)
        yield _case(
            mesh,
            settings,
            f"decode/sequences={count}",
            f"{count} sequences in {groups} groups",
            [[number + 1] for number in range(count)],
            num_tokens=settings.new_tokens,
            num_steps=1 + groups * (settings.new_tokens - 1),
            # Of the first round to the last. One group alone is in one stage at a time.
            ideal=(R - groups) / R
            if groups < R
            else ideal_bubble(R * (settings.new_tokens - 1), R),
        )


def _case(
    mesh: Mesh,
    settings: PipelineSettings,
    name: str,
    what: str,
    prompts: list[list[int]],
    num_tokens: int,
    num_steps: int,
    ideal: float,
    **options: Any,
) -> Measured:
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    with LLM(
        settings.model, device=settings.device, mesh=mesh, enable_prefix_caching=False, **options
    ) as llm:
        llm.stage.timeline = []
        if llm.leads:
            for _ in range(settings.warmup + settings.repeats):
                llm.generate(prompts, params)
        else:
            llm.follow()
    stages = mesh.world.exchange([noted.stretch() for noted in llm.stage.timeline])
    decodes = num_tokens > 1
    runs = []
    for begin in range(settings.warmup * num_steps, len(stages[0]), num_steps):
        steps = slice(begin + decodes, begin + num_steps)
        runs.append([stretch for stage in stages for stretch in stage[steps]])
    bubbles = [100 * bubble_of(run, settings.stages) for run in runs]
    shape = {"stages": settings.stages, "ideal": round(100 * ideal, 2)}
    statistic = summarize(bubbles, "%", warmup=settings.warmup)
    return Measured(Result(name, what, statistic, shape), min(runs, key=_span))


def _span(stretches: list[Stretch]) -> float:
    return max(each.end for each in stretches) - min(each.begin for each in stretches)
