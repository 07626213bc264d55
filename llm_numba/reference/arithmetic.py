"""Two arrays into one, number by number: the residual stream's sum, a gate times what it lets in.

Both are better done where one of the operands is made; as operations of their own they show what
that spares.
"""

import numpy as np


def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Add two arrays.

    Parameters
    ----------
    x, y : float [...]
        Of one shape.

    Returns
    -------
    float [...]
    """
    return x + y


def multiply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Multiply two arrays number by number.

    Parameters
    ----------
    x, y : float [...]
        Of one shape.

    Returns
    -------
    float [...]
    """
    return x * y
