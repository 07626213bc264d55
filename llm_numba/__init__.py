"""LLM inference that a person can read, from the prompt to the next token.

>>> from llm_numba import LLM, SamplingParams
>>> llm = LLM()
>>> llm.generate("Once upon a time", SamplingParams(max_tokens=32))

The names below are loaded when they are first used, so ``import llm_numba`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llm_numba.engine import LLM, CompletionChunk, RequestOutput, SamplingParams
    from llm_numba.errors import LLMNumbaError

_HOME = {
    "LLM": "llm_numba.engine",
    "SamplingParams": "llm_numba.engine",
    "RequestOutput": "llm_numba.engine",
    "CompletionChunk": "llm_numba.engine",
    "LLMNumbaError": "llm_numba.errors",
}
__all__ = ["LLM", "CompletionChunk", "LLMNumbaError", "RequestOutput", "SamplingParams"]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that holds it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
