"""What penalties need to know of a sequence: which tokens it has seen, and how often."""

from collections.abc import Iterable, Sequence

import numpy as np


class TokenCounts:
    """The tokens of a prompt and of its answer, each once, with the number of times in the answer.

    Parameters
    ----------
    prompt_token_ids : iterable of int
        These count 0 until they are generated.
    """

    def __init__(self, prompt_token_ids: Iterable[int]) -> None:
        tokens = list(dict.fromkeys(prompt_token_ids))
        self._places = {token: place for place, token in enumerate(tokens)}
        # Two rows, tokens and counts; the end is room to grow.
        self._table = np.zeros((2, 2 * len(tokens) + 1), np.int32)
        self._table[0, : len(tokens)] = tokens

    def add(self, token_id: int) -> None:
        """Count a token of the answer.

        Parameters
        ----------
        token_id : int
        """
        place = self._places.setdefault(token_id, len(self._places))
        if place == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        self._table[0, place] = token_id
        self._table[1, place] += 1

    @property
    def table(self) -> np.ndarray:
        """Tokens and their counts, int32 [2, S]."""
        return self._table[:, : len(self._places)]


NOTHING = TokenCounts(())


def join(rows: Sequence[TokenCounts]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put the tokens of a batch one after the other.

    Parameters
    ----------
    rows : sequence of B TokenCounts

    Returns
    -------
    tokens, counts : int32 [S]
    starts : int32 [B + 1]
        Of each row, and the end of the last.
    """
    tables = [row.table for row in rows]
    starts = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([table.shape[1] for table in tables], out=starts[1:])
    tokens, counts = np.concatenate(tables, axis=1)
    return tokens, counts, starts
