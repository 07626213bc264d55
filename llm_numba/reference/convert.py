r"""From one number format to another.

.. math:: y_i = \mathrm{round}(x_i)

to the nearest number that the format of y has, ties to even; exact where y is the wider format.
"""

import numpy as np


def convert(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write numbers in another format.

    Parameters
    ----------
    x : float [...]
    out : float, shape of x
        In its own format.

    Returns
    -------
    as out
        `out`.
    """
    out[...] = x
    return out
