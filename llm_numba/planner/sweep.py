"""Many plans at once: every split and batch, and which of them nobody should take.

Two rates pull apart. What one user gets is the inverse of a round; what a GPU earns is all users'
tokens over all GPUs. More GPUs for one copy of the model raise the first and lower the second, a
larger batch does the opposite. A split is worth a look if no other is better at both. Beyond one
copy of the model nothing new happens: a second copy on as many GPUs again has the same two rates.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from llm_numba.errors import ConfigError, EngineError
from llm_numba.models.config import ModelConfig
from llm_numba.planner.plan import Question, make_plan
from llm_numba.planner.table import KernelTable

TENSOR_RANKS = (1, 2, 4, 8, 16, 32, 64)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
MOST_GPUS = 1024


@dataclass(frozen=True)
class Point:
    """A plan in a sweep.

    Attributes
    ----------
    tp, pp, batch : int
    per_user : float
        Tokens a second of each sequence, rounds interleaved.
    per_gpu : float
        Tokens a second of all sequences, over the GPUs.
    memory_bytes : int
        That the fullest GPU takes.
    """

    tp: int
    pp: int
    batch: int
    per_user: float
    per_gpu: float
    memory_bytes: int

    @property
    def num_gpus(self) -> int:
        """P times R."""
        return self.tp * self.pp


def sweep(
    question: Question,
    table: KernelTable,
    batches: Iterable[int] = BATCHES,
    most_gpus: int = MOST_GPUS,
) -> Iterator[Point]:
    """Plan every split and batch that fits.

    Parameters
    ----------
    question : Question
        Its tp, pp and batch do not matter.
    table : KernelTable
        As measured.
    batches : iterable of int
    most_gpus : int
        Of one copy of the model.

    Yields
    ------
    Point
    """
    batches = tuple(batches)
    for tp, pp in splits(question.config, most_gpus):
        for batch in batches:
            try:
                plan = make_plan(replace(question, tp=tp, pp=pp, batch=batch), table)
            except ConfigError:
                break  # heads do not divide, whatever the batch
            except EngineError:
                break  # a larger batch does not fit, either
            rounds = plan.interleaved
            rate = plan.tokens_per_second(rounds)
            taken = plan.fullest.taken
            yield Point(tp, pp, batch, rate / batch, rate / plan.split.num_gpus, taken)


def splits(config: ModelConfig, most_gpus: int) -> Iterator[tuple[int, int]]:
    """Yield tp and pp, powers of two, that are no more GPUs than given, nor stages than layers.

    Parameters
    ----------
    config : ModelConfig
    most_gpus : int
    """
    for tp in TENSOR_RANKS:
        pp = 1
        while tp * pp <= most_gpus and pp <= config.num_layers:
            yield tp, pp
            pp *= 2


def assumptions(question: Question, table: KernelTable, points: Iterable[Point]) -> list[str]:
    """Return what the plans at some points assume, each once.

    Parameters
    ----------
    question : Question
    table : KernelTable
    points : iterable of Point
        Of a sweep of the two.

    Returns
    -------
    list of str
    """
    found: dict[str, None] = {}
    for point in points:
        asked = replace(question, tp=point.tp, pp=point.pp, batch=point.batch)
        found |= dict.fromkeys(make_plan(asked, table).assumptions)
    return list(found)


def frontier(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other is better than at both rates.

    Parameters
    ----------
    points : iterable of Point

    Returns
    -------
    list of Point
        The fastest for a user first.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda each: (-each.per_user, -each.per_gpu)):
        if not kept or point.per_gpu > kept[-1].per_gpu:
            kept.append(point)
    return kept
