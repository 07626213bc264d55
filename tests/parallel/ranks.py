"""Run a program as several ranks, whatever becomes of it, and see that nobody is left."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
# By this the processes of a run are known, wherever they have gone.
_MARK = "LLM_NUMBA_TEST_RUN"
# A file in the run's own TMPDIR, which a program touches where its fault is about to come.
_FAULT = "fault"
# A start of four ranks takes two seconds, and ten on a machine that does other things.
_PATIENCE_S = 90


@dataclass(frozen=True)
class Ended:
    """How a run went: its exit code, what it wrote, and the processes that outlived it.

    `since_fault` is in seconds, of a program that says when its fault came.
    """

    code: int
    out: str
    err: str
    seconds: float
    since_fault: float | None
    orphans: list[int]


def search_path() -> str:
    """Where mpirun is looked for: first beside this Python, whose environment may not be active."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def environment(folder: Path | str, **more: str) -> dict[str, str]:
    """The environment of a run with files of its own, of which nothing stays behind."""
    launcher = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "LLM_NUMBA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return kept | {
        "PATH": search_path(),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OPENBLAS_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TMPDIR": str(folder),
        # Containers are often run as root, which Open MPI asks about twice.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # And often have no ssh, without which Open MPI 4 starts nothing.
        **({} if shutil.which("ssh") else {"OMPI_MCA_plm": "^rsh"}),
        # Looking for networks takes a second, and one machine needs none.
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,sm",
        "OMPI_MCA_btl_sm_backing_directory": str(folder),
        # Else Numba's colours end what a rank writes to mpirun's terminal with a reset.
        "NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING": "1",
        **more,
    }


def mpirun(
    ranks: int,
    *command: object,
    options: Sequence[str] = (),
    stdin: str | None = None,
    **more: str,
) -> Ended:
    """Run a Python program, or a module with ``-m``, under mpirun; `more` are variables.

    Rank 0 reads `stdin`. Open MPI does not always tell it where that ends.
    """
    launcher = shutil.which("mpirun", path=search_path())
    # Paths of sockets must be short; those of pytest are not.
    folder = tempfile.mkdtemp(prefix="llm")
    mark = uuid.uuid4().hex
    begin = time.monotonic()
    start = [launcher, "-n", str(ranks), "--oversubscribe", *options]
    child = subprocess.Popen(
        [*start, sys.executable, *map(str, command)],
        env=environment(folder, **more) | {_MARK: mark},
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        out, err = child.communicate(stdin, timeout=_PATIENCE_S)
        seconds = time.monotonic() - begin
        fault = Path(folder) / _FAULT
        since_fault = time.time() - fault.stat().st_mtime if fault.exists() else None
        return Ended(child.returncode, out, err, seconds, since_fault, _left(mark))
    finally:
        child.kill()
        for process in _left(mark):
            os.kill(process, 9)
        shutil.rmtree(folder, ignore_errors=True)


def _left(mark: str, patience_s: float = 3.0) -> list[int]:
    """The processes of a run that are still there; what was just killed takes a moment to go."""
    end = time.monotonic() + patience_s
    while (left := _marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _marked(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # What has ended and waits for its parent has no environment any more.
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
