"""Who gets what of a model: stages that are balanced, and what a rank's share amounts to."""

import math
from collections import Counter

from llm_numba.models.config import ModelConfig
from llm_numba.models.split import Shape, check_division, layers_of, stacked_shape, windows_of
from llm_numba.models.tensors import tensor_shapes
from llm_numba.parallel import Communicator, Partition, Seat, balanced_stages


def split_model(
    config: ModelConfig, tensor: Communicator | Seat, stage: int = 0, num_stages: int = 1
) -> Partition:
    """Divide a model among ranks: evenly inside of layers, by bytes among stages.

    Parameters
    ----------
    config : ModelConfig
        Of the whole model.
    tensor : Communicator or Seat
        The ranks that share this rank's stage.
    stage, num_stages : int
        This rank's stage, from 0, and R.

    Returns
    -------
    Partition
        What this rank gets.

    Raises
    ------
    ConfigError
        If heads or the inner numbers of the MLP do not divide.
    ParallelError
        If there are more stages than layers.
    """
    check_division(config, tensor.size)
    layers = balanced_stages(layer_weights(config), num_stages)[stage]
    return Partition(tensor, layers, config.num_layers)


def layer_weights(config: ModelConfig) -> list[int]:
    """Count the numbers of each layer, embedding and LM head with the layers beside them.

    A tied embedding counts at both ends.

    Parameters
    ----------
    config : ModelConfig

    Returns
    -------
    list of int
        Of L. In bytes it is the same times the size of a number.
    """
    counts: Counter[int] = Counter()
    for name, shape in tensor_shapes(config).items():
        for layer in layers_of(name, config):
            counts[layer] += math.prod(shape)
    return [counts[layer] for layer in range(config.num_layers)]


def rank_shapes(
    config: ModelConfig, partition: Partition, layout: str = "megatron"
) -> dict[str, Shape]:
    """List the tensors that a rank holds, as :func:`tensor_shapes` lists those of a model.

    Parameters
    ----------
    config : ModelConfig
        Of the whole model.
    partition : Partition
    layout : {"megatron", "gather"}

    Returns
    -------
    dict of str to shape
        As they are stored, cut to what the rank holds.
    """
    windows = windows_of(tensor_shapes(config), config, partition, layout)
    return {name: stacked_shape(parts) for name, parts in windows.items() if parts}
