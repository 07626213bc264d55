"""Shapes for the figures of these pages: those of :mod:`llm_numba.bench.drawing`."""

from llm_numba.bench.drawing import WIDTH, Drawing, bars

__all__ = ["WIDTH", "Drawing", "bars"]
