"""How operations and ranks are called in messages."""

from collections.abc import Sequence

from llm_numba.runtime import Array, storage_dtype


def named(operation: str, x: Array, *more: object) -> str:
    """Name an operation: ``all_reduce of 4x32 float32``.

    Parameters
    ----------
    operation : str
    x : array
    more : object
        What else must be the same on all ranks.
    """
    shape = "x".join(map(str, x.shape)) or "1"
    return " ".join(map(str, (operation, "of", shape, storage_dtype(x), *more)))


def ranks(numbers: Sequence[int]) -> str:
    """Write numbers of ranks: ``Rank 3``, ``Ranks 1, 2``.

    Parameters
    ----------
    numbers : sequence of int
    """
    return f"{'Rank' if len(numbers) == 1 else 'Ranks'} {', '.join(map(str, numbers))}"
