"""Models: configuration, weights, tokenizer and the two architectures."""

from llm_numba.models.batch import ForwardBatch
from llm_numba.models.checkpoint import Checkpoint, TensorInfo
from llm_numba.models.config import ModelConfig
from llm_numba.models.decoder import Decoder
from llm_numba.models.execution import Execution
from llm_numba.models.families import FAMILIES, load_config, parse_config
from llm_numba.models.generation_config import GenerationConfig, load_generation_config
from llm_numba.models.loading import (
    bundled_models,
    load_model,
    open_checkpoint,
    open_model,
    resolve_model,
)
from llm_numba.models.random import random_shapes
from llm_numba.models.shard_writer import write_shards
from llm_numba.models.shares import rank_shapes, split_model
from llm_numba.models.split import rank_config
from llm_numba.models.tensors import tensor_shapes
from llm_numba.models.tokenizer import IncrementalDetokenizer, Tokenizer

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Decoder",
    "Execution",
    "ForwardBatch",
    "GenerationConfig",
    "IncrementalDetokenizer",
    "ModelConfig",
    "TensorInfo",
    "Tokenizer",
    "bundled_models",
    "load_config",
    "load_generation_config",
    "load_model",
    "open_checkpoint",
    "open_model",
    "parse_config",
    "random_shapes",
    "rank_config",
    "rank_shapes",
    "resolve_model",
    "split_model",
    "tensor_shapes",
    "write_shards",
]
