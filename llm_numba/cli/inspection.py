"""What the headers of a checkpoint say, without reading a weight."""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llm_numba.errors import LLMNumbaError

if TYPE_CHECKING:
    from llm_numba.models import Checkpoint

# The first role whose mark is in a tensor's name takes it: a norm inside attention is a norm.
_MARKS = {
    "norms": ("norm", "ln_"),
    "embedding": ("embed", "wte", "wpe"),
    "LM head": ("lm_head",),
    "attention": ("attn",),
    "MLP": ("mlp",),
}
_ROLES = ("embedding", "attention", "MLP", "norms", "LM head", "other")


@dataclass(frozen=True)
class Weights:
    """The tensors of one role.

    Attributes
    ----------
    tensors, parameters, bytes : int
        How many tensors, the numbers in them, and their bytes on disk.
    """

    tensors: int = 0
    parameters: int = 0
    bytes: int = 0

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(
            self.tensors + other.tensors,
            self.parameters + other.parameters,
            self.bytes + other.bytes,
        )


@dataclass(frozen=True)
class Inspection:
    """A checkpoint as its headers describe it.

    Attributes
    ----------
    name, directory : str
        What was asked for, and where it is.
    config : dict or None
        The fields of :class:`~llm_numba.models.ModelConfig`; ``None`` if they cannot be read.
    weights : dict of str to Weights
        By role; empty if no header can be read.
    storage : dict of str to int
        Bytes on disk of each number format, by safetensors' names.
    has_tokenizer : bool
        Without one it loads all the same, and takes prompts of token ids only.
    problems : list of LLMNumbaError
        What keeps it from loading here.
    """

    name: str
    directory: str
    config: dict[str, Any] | None
    weights: dict[str, Weights]
    storage: dict[str, int]
    has_tokenizer: bool
    problems: list[LLMNumbaError]

    @property
    def total(self) -> Weights:
        """All weights."""
        return sum(self.weights.values(), Weights())

    @property
    def kv_values_per_token(self) -> int | None:
        """Numbers that the KV cache keeps for a token: 2 L G D."""
        if self.config is None:
            return None
        return 2 * self.config["num_layers"] * self.config["num_kv_heads"] * self.config["head_dim"]

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        values = self.kv_values_per_token
        return {
            "name": self.name,
            "directory": self.directory,
            "config": self.config,
            "weights": {role: asdict(weights) for role, weights in self.weights.items()},
            "total": asdict(self.total),
            "storage_bytes": self.storage,
            "float32_bytes": 4 * self.total.parameters,
            "kv_bytes_per_token": None if values is None else 4 * values,
            "has_tokenizer": self.has_tokenizer,
            "loads": not self.problems,
            "problems": [{"cause": p.cause, "remedy": p.remedy} for p in self.problems],
        }


def inspect(name: str) -> Inspection:
    """Read a checkpoint's configuration, weight headers and tokenizer.

    Parameters
    ----------
    name : str
        A bundled name, a directory, or a hub id.

    Returns
    -------
    Inspection
        With whatever could be read, and every problem that was met.

    Raises
    ------
    ModelNotFoundError
        If there is no such model.
    """
    from llm_numba.models import (
        Tokenizer,
        load_config,
        open_checkpoint,
        open_model,
        resolve_model,
    )

    directory = resolve_model(name)
    problems: list[LLMNumbaError] = []
    config, checkpoint = None, None
    try:
        config = load_config(directory)
    except LLMNumbaError as problem:
        problems.append(problem)
    try:
        checkpoint = open_checkpoint(directory)
    except LLMNumbaError as problem:
        problems.append(problem)
    # Whether the two fit each other can be asked only once each of them is sound.
    has_tokenizer = (directory / "tokenizer.json").exists()
    checks = [] if problems else [open_model]
    for check in [*checks, Tokenizer] if has_tokenizer else checks:
        try:
            check(directory)
        except LLMNumbaError as problem:
            problems.append(problem)
    return Inspection(
        name=name,
        directory=str(directory.resolve()),
        config=None if config is None else asdict(config),
        weights={} if checkpoint is None else _by_role(checkpoint),
        storage={} if checkpoint is None else _by_storage(checkpoint),
        has_tokenizer=has_tokenizer,
        problems=problems,
    )


def _by_role(checkpoint: "Checkpoint") -> dict[str, Weights]:
    found: dict[str, Weights] = defaultdict(Weights)
    for name, info in checkpoint.tensors.items():
        found[_role(name)] += Weights(1, info.num_elements, info.num_bytes)
    return {role: found[role] for role in _ROLES if role in found}


def _role(tensor: str) -> str:
    for role, marks in _MARKS.items():
        if any(mark in tensor for mark in marks):
            return role
    return "other"


def _by_storage(checkpoint: "Checkpoint") -> dict[str, int]:
    found: Counter[str] = Counter()
    for info in checkpoint.tensors.values():
        found[info.storage] += info.num_bytes
    return dict(found)
