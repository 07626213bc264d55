"""Splits that articles and courses talk about, ready to be planned."""

from dataclasses import dataclass
from typing import Any

from llm_numba.planner.gpus import look_up


@dataclass(frozen=True)
class Preset:
    """A question by name.

    Attributes
    ----------
    what : str
        In a few words.
    asked : dict
        Model, GPU, and fields of :class:`~llm_numba.planner.Question`.
    """

    what: str
    asked: dict[str, Any]


_SEVENTY = {"model": "llama-3-70b", "gpu": "h100", "batch": 32, "context": 4096}
_THIRTEEN = {"model": "llama-2-13b", "gpu": "rtx-4090", "tp": 4, "context": 64, "prompt": 32}

PRESETS = {
    "70b-tp8-pp2": Preset("70B on 16 GPUs, two hosts", _SEVENTY | {"tp": 8, "pp": 2}),
    "70b-tp8-pp4": Preset("70B on 32 GPUs, four hosts", _SEVENTY | {"tp": 8, "pp": 4}),
    "13b-one-by-one": Preset(
        "13B on four 24 GB cards, requests of 32 and 32 tokens, one after the other",
        _THIRTEEN | {"batch": 1},
    ),
    "13b-batch": Preset(
        "13B on four 24 GB cards, 256 requests of 32 and 32 tokens at a time",
        _THIRTEEN | {"batch": 256},
    ),
    # What a machine with larger cards can be held to.
    "13b-capped": Preset(
        "the same on four H100, of each of which 22 GiB are taken at most",
        _THIRTEEN | {"batch": 256, "gpu": "h100", "gpu_memory_gb": 22.0},
    ),
}


def find_preset(name: str) -> Preset:
    """Return a preset by its name, see :func:`~llm_numba.planner.gpus.look_up`."""
    return look_up(PRESETS, name, "preset")
