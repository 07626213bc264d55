"""``generation_config.json``: where a model's answers end, and how its makers sample it."""

from dataclasses import dataclass, field
from pathlib import Path

from llm_numba.models.config import ModelConfig
from llm_numba.models.families import token_id_list
from llm_numba.models.fields import Fields, read_json

_SAMPLING_FIELDS = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
}


@dataclass(frozen=True)
class GenerationConfig:
    """Defaults for generation.

    Attributes
    ----------
    eos_token_ids : frozenset of int
        Any of these ends an answer.
    sampling : dict of str to number
        The fields of :class:`~llm_numba.SamplingParams` that the file sets.
    """

    eos_token_ids: frozenset[int]
    sampling: dict[str, float | int] = field(default_factory=dict)


def load_generation_config(directory: Path, config: ModelConfig) -> GenerationConfig:
    """Read a checkpoint's generation defaults, or derive them from ``config.json``.

    Parameters
    ----------
    directory : Path
    config : ModelConfig

    Returns
    -------
    GenerationConfig

    Raises
    ------
    ConfigError
        If the file is there and malformed.
    """
    path = directory / "generation_config.json"
    if not path.exists():
        return GenerationConfig(frozenset(config.eos_token_ids))
    fields = Fields(read_json(path), str(path))
    eos = token_id_list(fields, "eos_token_id") or config.eos_token_ids
    sampling = {key: fields.get(key, kind) for key, kind in _SAMPLING_FIELDS.items()}
    sampling = {key: value for key, value in sampling.items() if value is not None}
    if fields.get("do_sample", bool) is False:
        sampling["temperature"] = 0.0
    return GenerationConfig(frozenset(eos), sampling)
