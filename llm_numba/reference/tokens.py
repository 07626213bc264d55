"""Where a step's tokens come from.

The host prepares a step before it has read what the step before sampled. It leaves a gap for each
such token, and says in which row the token will be.
"""

import numpy as np


def fill_in_tokens(token_ids: np.ndarray, sources: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """Put sampled tokens where the host left gaps.

    Parameters
    ----------
    token_ids : int32 [N]
        A negative one is a gap.
    sources : int32 [N]
        Of a gap the row of `sampled`; of all others anything.
    sampled : int64 [B]

    Returns
    -------
    int32 [N]
    """
    filled = token_ids.copy()
    gaps = token_ids < 0
    filled[gaps] = sampled[sources[gaps]]
    return filled
