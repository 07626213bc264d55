"""Models of a known shape with random weights: for speed, memory and plumbing, not for words.

How fast a model runs depends on its shape alone. ``random:llama-3-8b`` has that of Llama 3 8B and
needs no download: its weights are made on the device while it loads. It has no tokenizer, so
prompts are token ids, and so is what it says.

A shape is a directory here with a ``config.json`` and nothing else.
"""

from pathlib import Path

from llm_numba.errors import ModelNotFoundError
from llm_numba.models.checkpoint import STORAGE_OF, Checkpoint, TensorInfo
from llm_numba.models.families import load_config
from llm_numba.models.tensors import tensor_shapes

PREFIX = "random:"
SHAPES_DIR = Path(__file__).parent / "shapes"


def random_shapes() -> list[str]:
    """Return the names of the shapes that random weights can be had for."""
    return sorted(path.parent.name for path in SHAPES_DIR.glob("*/config.json"))


def resolve_shape(name: str) -> Path:
    """Find the directory of a shape.

    Parameters
    ----------
    name : str
        Without the prefix "random:".

    Returns
    -------
    Path

    Raises
    ------
    ModelNotFoundError
        If there is no such shape.
    """
    if name not in random_shapes():
        raise ModelNotFoundError(
            f"There is no shape {name!r} for a model with random weights.",
            f"There are: {', '.join(PREFIX + shape for shape in random_shapes())}.",
        )
    return SHAPES_DIR / name


class RandomCheckpoint(Checkpoint):
    """The tensors that a checkpoint of some shape would have.

    Parameters
    ----------
    directory : Path
        Of a shape.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        config = load_config(directory)
        self.tensors = {
            name: TensorInfo(directory, shape, STORAGE_OF[config.dtype])
            for name, shape in tensor_shapes(config).items()
        }

    def _first_bytes(self, info: TensorInfo) -> bytes:
        return b""  # they are made where they are needed, from a seed
