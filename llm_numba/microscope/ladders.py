"""Finding what can be put under the microscope: every ladder of :mod:`llm_numba.kernels`."""

import pkgutil
from importlib import import_module

from llm_numba import kernels
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.ladder import Ladder


def find_ladders() -> dict[str, Ladder]:
    """Return the ladders by name, in the order of their files.

    Any module of the package counts, and any :class:`Ladder` that it holds: nobody keeps a list.
    """
    modules = pkgutil.walk_packages(kernels.__path__, f"{kernels.__name__}.")
    values = [value for each in modules for value in vars(import_module(each.name)).values()]
    return {value.name: value for value in values if isinstance(value, Ladder)}


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
    ladders = find_ladders()
    if name not in ladders:
        raise LLMNumbaError(
            f"There is no kernel {name!r}.",
            f"Choose one of {', '.join(ladders)}, or a kernel of your own: path/to/file.py:kernel.",
        )
    return ladders[name]
