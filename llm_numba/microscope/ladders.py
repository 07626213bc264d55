"""Finding what can be put under the microscope: every ladder of :mod:`llm_numba.kernels`."""

from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.ladder import Ladder, all_ladders


def find_ladder(name: str) -> Ladder:
    """Return the ladder of a name.

    Parameters
    ----------
    name : str
        ``"transpose"``.

    Raises
    ------
    LLMNumbaError
        If there is none.
    """
    ladders = all_ladders()
    if name not in ladders:
        raise LLMNumbaError(
            f"There is no kernel {name!r}.",
            f"Choose one of {', '.join(ladders)}, or a kernel of your own: path/to/file.py:kernel.",
        )
    return ladders[name]
