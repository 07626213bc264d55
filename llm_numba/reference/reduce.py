r"""Reductions of rows: the sum and the largest entry of each.

.. math:: s_m = \sum_n x_{mn} \qquad\qquad t_m = \max_n x_{mn}

One operation an entry, so memory is the ceiling.
"""

import numpy as np


def row_sum(x: np.ndarray) -> np.ndarray:
    """Add up each row.

    Parameters
    ----------
    x : float or int [M, N]

    Returns
    -------
    as x [M]
        0 for rows without entries. Integers wrap.
    """
    return x.sum(axis=-1, dtype=x.dtype)


def row_max(x: np.ndarray) -> np.ndarray:
    """Find the largest entry of each row.

    Parameters
    ----------
    x : float or int [M, N]

    Returns
    -------
    as x [M]
        NaN if any entry is NaN; the least number of the dtype for rows without entries.
    """
    floating = np.issubdtype(x.dtype, np.floating)
    return x.max(axis=-1, initial=-np.inf if floating else np.iinfo(x.dtype).min)
