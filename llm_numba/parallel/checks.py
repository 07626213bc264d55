"""What every communicator asks of what it is given, before another rank hears of it."""

from typing import Any

from llm_numba.errors import ParallelError
from llm_numba.runtime import kind_of, storage_dtype

# What a communicator can add. All else it moves as bytes.
_NUMBERS = {"float16", "bfloat16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def array(what: str, x: Any) -> None:
    """Refuse what is no contiguous array.

    Parameters
    ----------
    what : str
        The operation.
    x : array

    Raises
    ------
    ParallelError
    """
    if kind_of(x) is None:
        raise ParallelError(
            f"{what} got a {type(x).__name__}, which is no array.",
            "Use tell or exchange for other objects.",
        )
    if not x.flags.c_contiguous:
        raise ParallelError(
            f"{what} got an array of shape {list(x.shape)} with gaps or in another order.",
            "Give it a C-contiguous array.",
        )


def numbers(what: str, x: Any) -> None:
    """Refuse what cannot be added up, too; see :func:`array`.

    Parameters
    ----------
    what : str
    x : array

    Raises
    ------
    ParallelError
    """
    array(what, x)
    if storage_dtype(x) not in _NUMBERS:
        raise ParallelError(
            f"{what} cannot add numbers of the format {storage_dtype(x)}.",
            "Give it integers, float16, bfloat16, float32 or float64.",
        )


def rank(number: int, size: int) -> None:
    """Refuse a rank that there is not.

    Parameters
    ----------
    number : int
    size : int
        Of the group.

    Raises
    ------
    ParallelError
    """
    if not 0 <= number < size:
        raise ParallelError(
            f"There is no rank {number} among {size}.", f"Ranks are numbered from 0 to {size - 1}."
        )
