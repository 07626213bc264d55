"""Run a lab's ranks by mpirun, with the communicator of llm_numba: the second tier.

The first tier carries every message itself, so it can count and see who waits. Here MPI carries
them, between processes that are as far apart as those of an engine. One mpirun serves all calls of
a grader: its ranks connect to the grader by a socket, and get the student's file with each order.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from grader.channel import Channel, ClosedError, LateError, encode
from grader.host import Program, describe
from grader.lab import LabError
from grader.ranks import Rank, Transfer

RANKS = 4
# A rank that is waited for in vain is named after so many seconds.
STALL_S = 10.0
# For ranks to start, and for a call, on a machine that does other things as well.
_START_S = 90.0
_CALL_S = 60.0
_END_S = 10.0
_REMEDY = "pip install 'llm-numba[mpi]' brings both; llm-numba doctor --mpi says what is missing."
_LABS = Path(__file__).parents[1]


class WorldTransfer(Transfer):
    """A message under way, carried by MPI."""

    def __init__(self, under_way: Any, array: np.ndarray, arrives: bool) -> None:
        super().__init__(None, 0, array, arrives)
        self._under_way = under_way

    def wait(self) -> np.ndarray:
        """Wait until the array may be read and written again, and return it."""
        self.check_unwritten()
        return self._under_way.wait()


class WorldRank(Rank):
    """A rank of MPI as a student's function sees it.

    Parameters
    ----------
    comm : llm_numba.parallel.Communicator
    allow : tuple of str
        Operations that the lab allows.
    """

    def __init__(self, comm: Any, allow: tuple[str, ...]) -> None:
        super().__init__(None, comm.rank, comm.size, allow)
        self._comm = comm

    def tick(self, label: str = "") -> None:
        """Do nothing: nobody counts slots of time here."""

    def _begin(self, sends: bool, array: np.ndarray, other: int) -> Transfer:
        start = self._comm.start_send if sends else self._comm.start_receive
        return WorldTransfer(start(array, other), array, not sends)

    def _join(self, operation: str, x: np.ndarray, option: Any) -> Any:
        if operation == "barrier":
            return self._comm.barrier()
        options = () if option is None else (option,)
        return getattr(self._comm, operation)(x, *options)


class World:
    """Ranks that mpirun has started, waiting for orders.

    Parameters
    ----------
    ranks : int
    stall_s : float
        For how many seconds a rank may wait for another.

    Raises
    ------
    LabError
        If there is no mpirun or no mpi4py, or the ranks do not come.
    """

    def __init__(self, ranks: int = RANKS, stall_s: float = STALL_S) -> None:
        self.ranks = ranks
        self._channels: list[Channel] = []
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        launcher = shutil.which("mpirun", path=search)
        if launcher is None:
            raise LabError("There is no mpirun on this machine.", _REMEDY)
        # Not in a folder of somebody's own: the path of a socket must be short.
        self._folder = tempfile.TemporaryDirectory(prefix="lab")
        door = Path(self._folder.name) / "door"
        said = Path(self._folder.name) / "said"
        with socket.socket(socket.AF_UNIX) as listener, said.open("wb") as out:
            listener.bind(str(door))
            listener.listen(ranks)
            listener.settimeout(1.0)
            self._child = subprocess.Popen(
                [launcher, "-n", str(ranks), "--oversubscribe", sys.executable, "-I", "-c",
                 f"import sys; sys.path[:] = {[str(_LABS), *map(os.path.abspath, sys.path)]!r}; "
                 f"from grader.mpi import serve; serve({str(door)!r}, {ranks}, {stall_s})"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._folder.name,
                env=_environment(self._folder.name),
                start_new_session=True,
            )  # fmt: skip
            try:
                self._channels = self._meet(listener)
            except LabError as error:
                said_last = said.read_text(errors="replace").strip().splitlines()[-3:]
                self.end(idle=False)
                raise LabError(" ".join([error.cause, *said_last]), error.remedy) from None

    def _meet(self, listener: socket.socket) -> list[Channel]:
        """Wait for every rank to connect and say its number."""
        channels: dict[int, Channel] = {}
        for _ in range(int(_START_S)):
            with contextlib.suppress(TimeoutError):
                while len(channels) < self.ranks:
                    channel = Channel(listener.accept()[0])
                    channels[channel.receive(_START_S)] = channel
                return [channels[rank] for rank in range(self.ranks)]
            if self._child.poll() is not None:
                break
        raise LabError("The ranks of mpirun did not start.", _REMEDY)

    def run(self, count: int, order: dict[str, Any], args: list[tuple[Any, ...]]) -> list[Any]:
        """Call a function of a student's file on the first ranks.

        Parameters
        ----------
        count : int
            P, at most as many as there are.
        order : dict
            The file (``path``, ``source``, ``imports``), the function (``name``), and what it may
            use of the communicator (``allow``).
        args : list of tuple
            What follows the communicator, for each rank.

        Returns
        -------
        list of dict
            What each rank has to say, or the first that failed alone: an event ``"returned"``
            with its value, or ``"raised"``.
        """
        for rank, channel in enumerate(self._channels):
            mine = args[rank] if rank < count else ()
            channel.send(order | {"count": count, "args": mine})
        waiting = dict(enumerate(self._channels[:count]))
        said: dict[int, Any] = {}
        while waiting:
            ready = select.select([each.end for each in waiting.values()], [], [], _CALL_S)[0]
            if not ready:
                raise LateError
            for rank in [rank for rank, channel in waiting.items() if channel.end in ready]:
                said[rank] = waiting.pop(rank).receive(_CALL_S)
                if said[rank]["event"] == "raised":
                    return [said[rank] | {"rank": rank}]
        return [said[rank] for rank in range(count)]

    def end(self, *, idle: bool = True) -> None:
        """End all ranks.

        Parameters
        ----------
        idle : bool
            Whether they wait for orders: then they go by themselves when nobody has any.
        """
        for channel in self._channels:
            channel.end.close()
        if not idle:
            self._child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._folder.cleanup()


def _environment(folder: str) -> dict[str, str]:
    """Return the environment of ranks on one machine, whatever started the grader."""
    launcher = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "LLM_NUMBA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    return kept | {
        "OPENBLAS_NUM_THREADS": "1",
        "TMPDIR": folder,
        # Containers are often run as root, which Open MPI asks about twice.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # Looking for networks takes a second, and one machine needs none.
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,sm",
        "OMPI_MCA_btl_sm_backing_directory": folder,
    }


def serve(door: str, ranks: int, stall_s: float) -> None:
    """Be one rank: connect to the grader, and do what it asks for until it is gone.

    Parameters
    ----------
    door : str
        Path of the grader's socket.
    ranks : int
    stall_s : float
    """
    from llm_numba.parallel.world import start_world

    world = start_world(ranks, stall_s).communicator
    end = socket.socket(socket.AF_UNIX)
    end.connect(door)
    channel = Channel(end)
    channel.send(world.rank)
    while True:
        try:
            order = channel.receive()
            group = world.split(int(world.rank >= order["count"]))
            if world.rank < order["count"]:
                channel.send(_obey(group, order, channel))
        except ClosedError:
            return


def _obey(comm: Any, order: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Call the student's function; return what is to be said of it."""
    program = None
    try:
        program = Program(channel, order["path"], order["source"], order["imports"])
        value = program.named(order["name"])(WorldRank(comm, order["allow"]), *order["args"])
        encode(value)  # what cannot travel is told as any other mistake
        message = {"event": "returned", "value": value}
    except BaseException as failure:
        message = describe(failure, order["path"])
    return message | {"printed": program.printed if program else ""}
