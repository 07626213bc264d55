"""The engine: requests in, tokens out."""

from llm_numba.engine.llm import LLM
from llm_numba.engine.outputs import (
    CompletionChunk,
    CompletionOutput,
    Logprob,
    RequestMetrics,
    RequestOutput,
)
from llm_numba.engine.sampling_params import SamplingParams
from llm_numba.engine.stats import EngineStats

__all__ = [
    "LLM",
    "CompletionChunk",
    "CompletionOutput",
    "EngineStats",
    "Logprob",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
]
