"""A model cut among GPUs: what each rank holds, in numbers alone.

Who gets what is decided where models are loaded, :mod:`llm_numba.models.split`: tensor ranks share
the inside of each layer, pipeline stages share the layers, balanced by bytes. Here the same is
asked for ranks that do not exist. What is left of a model on one of them is a smaller model of the
same family; so all arithmetic about one GPU serves for many.
"""

import functools
import math
from dataclasses import dataclass, replace

from llm_numba.errors import ParallelError
from llm_numba.models import ModelConfig, rank_config, rank_shapes
from llm_numba.models.shares import layer_weights
from llm_numba.models.split import check_division
from llm_numba.parallel import Partition, Seat, balanced_stages


@dataclass(frozen=True)
class Rank:
    """One GPU's part of a model.

    Attributes
    ----------
    stage : int
    partition : Partition
        Its tensor ranks are seats: they exchange nothing.
    config : ModelConfig
        Of the part: heads, KV heads, inner numbers and layers are the rank's own. The vocabulary is
        whole where the LM head is, because each tensor rank gets all logits to draw from; elsewhere
        it is 0.
    num_parameters : int
    """

    stage: int
    partition: Partition
    config: ModelConfig
    num_parameters: int

    @property
    def num_vocab_rows(self) -> int:
        """Rows of the LM head, or of the embedding, that it holds where it holds any."""
        return len(self.partition.share(self.config.vocab_size))


@dataclass(frozen=True)
class Division:
    """A model cut into P x R parts.

    Attributes
    ----------
    config : ModelConfig
        Of the whole.
    tp, pp : int
        P tensor ranks, R stages.
    stages : tuple of range
        Layers of each.
    """

    config: ModelConfig
    tp: int
    pp: int
    stages: tuple[range, ...]

    @property
    def num_gpus(self) -> int:
        """P times R."""
        return self.tp * self.pp

    def rank(self, stage: int, tensor_rank: int) -> Rank:
        """Return what one GPU holds.

        Parameters
        ----------
        stage, tensor_rank : int
        """
        partition = Partition(
            Seat(tensor_rank, self.tp), self.stages[stage], self.config.num_layers
        )
        config = rank_config(self.config, partition)
        if not partition.is_last:
            config = replace(config, vocab_size=0)
        return Rank(stage, partition, config, _held(self.config, _alike(partition)))

    @functools.cached_property
    def outermost(self) -> tuple[tuple[Rank, Rank], ...]:
        """The first and the last tensor rank of each stage.

        The first alone has biases that are added once. Where the vocabulary does not divide, the
        last has a row more. All others hold as much as one of the two, or less.
        """
        return tuple(
            (self.rank(stage, 0), self.rank(stage, self.tp - 1)) for stage in range(self.pp)
        )


@functools.lru_cache(maxsize=128)
def cut(config: ModelConfig, tp: int = 1, pp: int = 1) -> Division:
    """Cut a model.

    Parameters
    ----------
    config : ModelConfig
    tp, pp : int

    Returns
    -------
    Division

    Raises
    ------
    ConfigError
        If heads or inner numbers do not divide.
    ParallelError
        If there are more stages than layers, or a number is below 1.
    """
    for name, value in (("tp", tp), ("pp", pp)):
        if value < 1:
            raise ParallelError(f"{name}={value} is no number of ranks.", "Take 1 or more.")
    check_division(config, tp)
    return Division(config, tp, pp, tuple(balanced_stages(layer_weights(config), pp)))


@functools.lru_cache(maxsize=1024)
def _held(config: ModelConfig, partition: Partition) -> int:
    """Count the parameters of a rank."""
    return sum(map(math.prod, rank_shapes(config, partition).values()))


def _alike(partition: Partition) -> Partition:
    """Return one partition for all stages in the middle that have as many layers."""
    if partition.is_first or partition.is_last:
        return partition
    count = len(partition.layers)
    return Partition(partition.tensor, range(1, 1 + count), partition.num_layers)
