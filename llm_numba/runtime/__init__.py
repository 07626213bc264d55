"""The lowest floor: devices, number formats, memory."""

from llm_numba.runtime.device import resolve_device, resolve_dtype
from llm_numba.runtime.memory import available_memory

__all__ = ["available_memory", "resolve_device", "resolve_dtype"]
