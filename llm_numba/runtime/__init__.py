"""The lowest floor: devices and number formats."""

from llm_numba.runtime.device import resolve_device, resolve_dtype

__all__ = ["resolve_device", "resolve_dtype"]
