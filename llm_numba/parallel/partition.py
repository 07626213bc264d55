"""Which part of a model a rank holds.

Two cuts, one across the other. *Stages* divide the layers: each has some that follow one another.
*Tensor ranks* divide the weights inside of each layer: rank p of P has the p-th part of the heads,
of the MLP's inner numbers and of the vocabulary::

                 tensor rank 0    tensor rank 1
    stage 0    | layers 0 .. 3 :  layers 0 .. 3  |    + embedding
    stage 1    | layers 4 .. 7 :  layers 4 .. 7  |    + final norm, LM head
                 half of each     the other half
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_numba.errors import ParallelError
from llm_numba.parallel.alone import Alone
from llm_numba.parallel.communicator import Communicator


@dataclass(frozen=True)
class Seat:
    """The place of a tensor rank, for those who ask what is there and send nothing.

    Attributes
    ----------
    rank : int
    size : int
        P.
    """

    rank: int
    size: int


@dataclass(frozen=True)
class Partition:
    """The part of a model that a rank holds.

    Attributes
    ----------
    tensor : Communicator or Seat
        The P ranks that hold parts of the same layers. A model that runs needs them to
        communicate.
    layers : range
        Of the stage.
    num_layers : int
        Of the whole model.
    """

    tensor: Communicator | Seat
    layers: range
    num_layers: int

    @classmethod
    def whole(cls, config: Any) -> "Partition":
        """Hold everything.

        Parameters
        ----------
        config : ModelConfig
            Of the whole model.

        Returns
        -------
        Partition
        """
        return cls(Alone(), range(config.num_layers), config.num_layers)

    @property
    def is_first(self) -> bool:
        """Whether the stage begins with the embedding."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """Whether the stage ends with the LM head."""
        return self.layers.stop == self.num_layers

    def share(self, count: int) -> range:
        """Return which of so many things are this tensor rank's.

        Parameters
        ----------
        count : int

        Returns
        -------
        range
            As long as that of any other rank, or longer or shorter by one.
        """
        return self.shares(count)[self.tensor.rank]

    def shares(self, count: int) -> list[range]:
        """Return which of so many things are each tensor rank's.

        Parameters
        ----------
        count : int

        Returns
        -------
        list of range
            Rank 0's first; together they are everything, once.
        """
        ranks = self.tensor.size
        return [range(count * p // ranks, count * (p + 1) // ranks) for p in range(ranks)]

    def share_or_copy(self, count: int) -> range:
        """Return a share, or, of fewer things than ranks, the one that this rank has a copy of.

        Parameters
        ----------
        count : int
            A multiple of P, or a divisor of it.

        Returns
        -------
        range
            Never empty.
        """
        first = count * self.tensor.rank // self.tensor.size
        return range(first, first + max(1, count // self.tensor.size))


def balanced_stages(weights: Sequence[int], num_stages: int) -> list[range]:
    """Divide layers among stages so that the heaviest stage is as light as can be.

    Parameters
    ----------
    weights : sequence of int
        What each layer weighs, say in bytes; the first with the embedding, the last with the LM
        head.
    num_stages : int
        R.

    Returns
    -------
    list of range
        Each of at least one layer, the first stage's first. Where several divisions have the same
        heaviest stage, one whose stages before it are balanced likewise.

    Raises
    ------
    ParallelError
        If there are more stages than layers, or none.

    Notes
    -----
    The classical linear partition problem, by dynamic programming: the best division of the first
    n layers into r stages is made of the best division of some m < n layers into r - 1.
    """
    count = len(weights)
    if not 1 <= num_stages <= count:
        raise ParallelError(
            f"{count} layers cannot be divided among {num_stages} pipeline stages.",
            f"Each stage needs a layer: take 1 to {count} stages.",
        )
    before = [0]
    for weight in weights:
        before.append(before[-1] + weight)
    # By number of layers: the heaviest stage, the sum of squares, and where each stage ends.
    best: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, ())}
    for stage in range(1, num_stages + 1):
        longer = {}
        for end in range(stage, count - (num_stages - stage) + 1):
            divisions = []
            for begin in range(stage - 1, end):
                if begin in best:
                    heaviest, squares, ends = best[begin]
                    weight = before[end] - before[begin]
                    worst = max(heaviest, weight)
                    divisions.append((worst, squares + weight**2, (*ends, end)))
            longer[end] = min(divisions)
        best = longer
    ends = best[count][2]
    return [range(begin, end) for begin, end in zip((0, *ends[:-1]), ends, strict=True)]
