"""The words in which a check asks for something, and in which it says what is missing."""

from typing import Any

import numpy as np


class Failed(Exception):  # noqa: N818  (no mistake of the grader)
    """A check is not met; the message is for the student.

    Parameters
    ----------
    message : str
    line : int, optional
        Of the student's file.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def fail(message: str, line: int = 0) -> None:
    """Say what is wrong.

    Parameters
    ----------
    message : str
    line : int, optional
        Of the student's file.

    Raises
    ------
    Failed
        Always.
    """
    raise Failed(message, line)


def gamma(n: int, unit: float = 2.0**-24) -> float:
    """Bound the relative error of n roundings, one after another.

    n u / (1 - n u): Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1.

    Parameters
    ----------
    n : int
        Roundings on the longest way from an input to the result.
    unit : float
        The unit roundoff u; that of float32 if not given.
    """
    return n * unit / (1 - n * unit)


def same(given: Any, right: Any, what: str) -> None:
    """Ask for exactly this, of the same type.

    Parameters
    ----------
    given, right : array or plain data
    what : str
        What is compared, and on which case.

    Raises
    ------
    Failed
        With the first place that differs.
    """
    if isinstance(right, np.ndarray):
        close(given, right, 0.0, what)
    elif isinstance(given, np.ndarray) or type(given) is not type(right) or given != right:
        fail(f"{what} is\n    {short(given)}\nand should be\n    {short(right)}")


def close(given: Any, right: Any, bound: Any, what: str) -> None:
    """Ask for numbers within an absolute bound.

    Parameters
    ----------
    given : array
    right : array
        In float64, or integers.
    bound : float or array
        Largest absolute difference of each entry. NaN must meet NaN, and infinity itself.
    what : str
        What is compared, and on which case.

    Raises
    ------
    Failed
        With the first place that differs, and how many do.
    """
    right = np.asarray(right)
    if not isinstance(given, np.ndarray | np.generic | int | float | list | tuple):
        fail(f"{what} is {short(given)}, and should be numbers of shape {list(right.shape)}.")
    try:
        given = np.asarray(given)
        numbers = given.astype(np.float64)
    except (ValueError, TypeError):
        fail(f"{what} is {short(given)}, and should be numbers of shape {list(right.shape)}.")
    if given.shape != right.shape:
        fail(f"{what} has shape {list(given.shape)}, and should have {list(right.shape)}.")
    expected = right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        good = (np.abs(numbers - expected) <= bound) | (numbers == expected)
    good |= np.isnan(numbers) & np.isnan(expected)
    if good.all():
        return
    wrong = np.argwhere(~good)
    place = tuple(int(each) for each in wrong[0])
    where = f", at [{', '.join(map(str, place))}]," if place else ""
    within = float(np.broadcast_to(bound, right.shape)[place])
    tolerance = f" (within {within:.2g})" if within else ""
    value = given[place]
    hint = (
        "\nEither nobody wrote there, or a NaN was computed (0/0, inf - inf)."
        if _unset(value)
        else ""
    )
    fail(
        f"{what}: {_count(len(wrong), right.size)} wrong. The first{where} is {value:.9g} and "
        f"should be {right[place]:.9g}{tolerance}.{hint}"
    )


def _unset(value: Any) -> bool:
    return bool(np.isnan(value)) if np.asarray(value).dtype.kind == "f" else False


def _count(wrong: int, size: int) -> str:
    if wrong == size:
        return "all numbers are" if size > 1 else "the number is"
    return f"{wrong} of {size} numbers {'are' if wrong > 1 else 'is'}"


def short(value: Any) -> str:
    """Return a value as text, cut where it gets long.

    Parameters
    ----------
    value : object
    """
    text = repr(value)
    return text if len(text) <= 400 else text[:400] + " ..."
