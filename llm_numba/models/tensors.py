"""Which tensors a model has: names and shapes, for every family."""

from llm_numba.models.config import ModelConfig
from llm_numba.models.gpt2 import gpt2_tensors
from llm_numba.models.llama import llama_tensors


def tensor_shapes(config: ModelConfig, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """List the tensors of a model, by the names that its family's checkpoints give them.

    Parameters
    ----------
    config : ModelConfig
    prefix : str
        What names of GPT-2 begin with, see :class:`llm_numba.models.gpt2.GPT2Model`.

    Returns
    -------
    dict of str to shape
    """
    if config.architecture == "GPT2LMHeadModel":
        return gpt2_tensors(config, prefix)
    return llama_tensors(config)
