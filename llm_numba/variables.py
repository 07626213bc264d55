"""Environment variables: a table of all that llm_numba reads, and the only place that reads them.

What is not in the table cannot be read, so the table is complete. The page of environment variables
is made from it.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """A variable that llm_numba reads.

    Attributes
    ----------
    name : str
        With ``*`` at its end: all whose names begin so.
    meaning : str
        What it says, a sentence or two.
    default : str
        What holds without it; "" if just nothing.
    """

    name: str
    meaning: str
    default: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether nobody but llm_numba reads it."""
        return self.name.startswith("LLM_NUMBA_")

    def covers(self, name: str) -> bool:
        """Tell whether a variable of this name is meant."""
        if self.name.endswith("*"):
            return name.startswith(self.name.removesuffix("*"))
        return name == self.name


VARIABLES = (
    Variable(
        "LLM_NUMBA_SIM",
        "`1`: kernels run in the simulator, also on NumPy arrays. Nothing or `0`: they do not.",
        "`0`",
    ),
    Variable(
        "LLM_NUMBA_SIM_CAPABILITY",
        "`9.0`: in the simulator operations choose the kernels that a GPU of this compute "
        "capability has for itself.",
    ),
    Variable(
        "LLM_NUMBA_CACHE",
        "The directory of compiled kernels. `off`, `0` or nothing: none are kept.",
        "`$XDG_CACHE_HOME/llm_numba/cubins`",
    ),
    Variable(
        "LLM_NUMBA_STALL_S",
        "For how many seconds a rank may wait for another before it says whom it waits for.",
        "`60`",
    ),
    Variable(
        "XDG_CACHE_HOME",
        "Where a user's caches lie: compiled kernels, and the tables that `llm-numba tune` writes.",
        "`~/.cache`",
    ),
    Variable(
        "CUDA_VISIBLE_DEVICES",
        "Which GPUs there are, for CUDA itself and for the GPUs that records name. "
        "Nothing: none, and `auto` means the CPU.",
        "all",
    ),
    Variable(
        "NUMBA_*",
        "Numba's settings. Kernels that were compiled under others are compiled anew.",
    ),
    Variable(
        "OMPI_COMM_WORLD_*",
        "By them Open MPI's `mpirun` tells a rank its number, and how many there are.",
    ),
    Variable("PMI_*", "The same, by the `mpiexec` of MPICH or of Intel MPI."),
    Variable("SLURM_STEP_*", "The same, by Slurm's `srun`: how many tasks the step has."),
    Variable("SLURM_PROCID", "The same: the number of the task."),
    Variable(
        "OMPI_ALLOW_RUN_AS_ROOT*",
        "Whether Open MPI starts for root. `llm-numba doctor --mpi` says if it has to be set.",
    ),
    Variable(
        "OMPI_MCA_plm",
        "How Open MPI starts ranks. The same command says if it must be told not to look for ssh.",
    ),
    Variable(
        "LD_LIBRARY_PATH",
        "Kept, and lengthened, for the ranks that `llm-numba doctor --mpi` starts.",
    ),
)


def read(name: str) -> str | None:
    """Return a variable's text, or None if it is not set.

    Parameters
    ----------
    name : str
        Of the table.

    Returns
    -------
    str or None

    Raises
    ------
    KeyError
        If the table lacks it: a mistake in the program.
    """
    _require(name)
    return os.environ.get(name)


def beginning_with(prefix: str) -> dict[str, str]:
    """Return all variables whose names begin so, by name.

    Parameters
    ----------
    prefix : str
        With ``*`` behind it, of the table.

    Returns
    -------
    dict of str to str

    Raises
    ------
    KeyError
        If the table lacks it: a mistake in the program.
    """
    _require(prefix)
    return {name: text for name, text in os.environ.items() if name.startswith(prefix)}


def passed_on(*without: str) -> dict[str, str]:
    """Return the whole environment, for a program that this one starts.

    Parameters
    ----------
    *without : str
        How names begin that are left out.

    Returns
    -------
    dict of str to str
    """
    return {name: text for name, text in os.environ.items() if not name.startswith(without)}


def _require(name: str) -> None:
    if not any(variable.covers(name) for variable in VARIABLES):
        raise KeyError(f"{name} is not in the table of variables")
