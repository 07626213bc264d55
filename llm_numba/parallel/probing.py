"""Whether MPI takes pointers to GPUs' memory: tried by ranks that may crash.

No question to MPI answers that. Builds say no that can, and yes that cannot, and one that cannot
ends its program by a segmentation fault. So a launcher starts two more ranks, with the settings of
this program but without what its own launcher has told it, and they exchange arrays of both GPUs.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from llm_numba import variables
from llm_numba.errors import ParallelError
from llm_numba.parallel.launch import launch_command

# What a launcher has told this program, which is not for those that it starts in turn.
OF_A_LAUNCHER = ("OMPI_COMM_", "OMPI_UNIVERSE_", "PMIX_", "PMI_", "PRTE_", "SLURM_")
# Without these Open MPI starts nothing for root.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# Open MPI 4 looks for ssh before it starts anything, though ranks of one machine need none.
WITHOUT_SSH = {"OMPI_MCA_plm": "^rsh"}
_UCX = {
    "OMPI_MCA_pml": "ucx",
    "OMPI_MCA_osc": "ucx",
    "OMPI_MCA_opal_common_ucx_tls": "any",
    "OMPI_MCA_opal_common_ucx_devices": "any",
}
_LIMIT_S = 60.0
_RIGHT = "the messages were right"


@functools.cache
def messages_problem(limit_s: float = _LIMIT_S, **settings: str) -> str:
    """Let two ranks of their own exchange arrays of GPUs.

    Parameters
    ----------
    limit_s : float
        Seconds that this may take.
    **settings : str
        Variables that they get besides this program's own.

    Returns
    -------
    str
        Why MPI does not carry arrays of GPUs here; empty if it does.
    """
    try:
        launch = launch_command(2)
    except ParallelError as error:
        return f"it cannot be tried: {error.cause}"
    try:
        child = subprocess.run(
            [*launch, sys.executable, "-m", __name__],
            env=clean_environment() | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"two ranks that tried it did not end: {error}"
    if _RIGHT in child.stdout:
        return ""
    return (
        "MPI does not take arrays of GPUs: two ranks that tried it ended with exit code"
        f" {child.returncode}. llm-numba doctor --mpi tells what to set"
    )


def clean_environment() -> dict[str, str]:
    """Return the environment for ranks that this program starts, whoever has started itself."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    passed_on = variables.passed_on(*OF_A_LAUNCHER) | (AS_ROOT if is_root else {})
    return passed_on if has_ssh() else WITHOUT_SSH | passed_on


def has_ssh() -> bool:
    """Return whether a launcher finds what starts programs on other machines."""
    return any(map(shutil.which, ("ssh", "rsh")))


def ucx_settings() -> dict[str, str]:
    """Return with what Open MPI may take arrays of GPUs where it does not by itself.

    It sends them through UCX, which must not leave out what its wheel came with.
    """
    spec = importlib.util.find_spec("libucx")
    if spec is None or not spec.submodule_search_locations:
        return dict(_UCX)
    folder = str(Path(next(iter(spec.submodule_search_locations))) / "lib")
    paths = [folder, variables.read("LD_LIBRARY_PATH") or ""]
    return _UCX | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}


def exchange_arrays() -> bool:
    """Exchange arrays of GPUs with the other rank, of a short and of a long message's length.

    Returns
    -------
    bool
        Whether both arrived as they were, on both ranks.
    """
    import cupy
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    cupy.cuda.Device(rank % cupy.cuda.runtime.getDeviceCount()).use()
    right = size == 2
    for count in (1, 33, 1 << 22):
        mine = cupy.arange(count, dtype=cupy.float32) + rank
        theirs = cupy.empty_like(mine)
        cupy.cuda.get_current_stream().synchronize()
        comm.Sendrecv(mine, (rank + 1) % size, recvbuf=theirs, source=(rank - 1) % size)
        right &= bool((theirs - mine == (rank - 1) % size - rank).all())
    return comm.allreduce(right, MPI.LAND)


if __name__ == "__main__" and exchange_arrays():
    print(_RIGHT, flush=True)
