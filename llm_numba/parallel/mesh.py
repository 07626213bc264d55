"""Which rank does what: a grid of pipeline stages times tensor-parallel ranks.

A model is cut in two directions. Its layers go in R stages, one after another; each layer's
matrices go in P parts, side by side. Rank ``stage * P + part`` holds one of the R P pieces::

                      part 0   part 1
       stage 0        rank 0   rank 1     <- a tensor group: sums up each layer together
       stage 1        rank 2   rank 3

                         ^ a pipeline group: hands the hidden state down

The ranks of a tensor group meet several times a layer, those of a pipeline group once a step. So
the former are neighbours in number: launchers fill one host, and its fast links, before the next.
"""

import contextlib
import functools
import hashlib
import platform
import socket
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType

from llm_numba.errors import ParallelError
from llm_numba.parallel.alone import Alone
from llm_numba.parallel.communicator import Communicator
from llm_numba.parallel.faults import exit_code
from llm_numba.parallel.gpus import Sight, hidden_gpu, share_gpus
from llm_numba.parallel.launch import how_to_start, launched
from llm_numba.parallel.measured import MachineKind, TimesTable, find_table, kind_of_machine
from llm_numba.parallel.paths import (
    PATHS_OF_HOSTS,
    BrokenPathError,
    check_comm,
    choose,
    connect,
    offers_between,
)
from llm_numba.parallel.selection import Offer
from llm_numba.parallel.watch import time_limit
from llm_numba.parallel.world import start_world
from llm_numba.runtime import use_gpu, visible_gpus

# Numbers that ranks compute alike depend on these.
_PACKAGES = ("numpy", "ml_dtypes", "safetensors", "tokenizers", "numba-cuda")


class Mesh:
    """The grid of ranks, seen from one of them.

    Of a program that runs alone, ``Mesh()`` needs no MPI. Used in a ``with`` statement, it ends all
    ranks if an exception leaves the block on one of them, with a message that names the rank.

    Parameters
    ----------
    tp : int
        P, the ranks that share each layer.
    pp : int
        R, the stages.
    world : Communicator, optional
        All ranks: those of :func:`llm_numba.parallel.run_ranks`. By default those that mpirun has
        started.
    comm : str
        By which path arrays travel within stages and between them: "auto", "peer", "nccl", "mpi",
        "mpi-staged", or a record of ``llm-numba bench comm``, FILE.json, from which the fastest is
        taken. "auto" takes a table that comes with the package, if there is one of such a machine.
    limit_s : float, optional
        For how many seconds a rank may wait for another before it gives up; by default
        ``LLM_NUMBA_STALL_S`` of the environment, or 60.
    explain : callable(str), optional
        Called on rank 0 with what was chosen, and why, a line at a time.

    Attributes
    ----------
    tp, pp : int
    world : Communicator
        All ranks.
    tensor : Communicator
        The ranks of this stage.
    pipeline : Communicator
        The ranks with this part of each stage; its rank is the stage.
    stage : int
        From 0.
    num_stages : int
        R.
    ranks_on_host : int
        How many share this host's memory and cores, this one included.

    Raises
    ------
    DependencyError
        If several ranks are asked for and mpi4py is not installed.
    ParallelError
        If there are not P R ranks, if they do not find each other, or run different versions; or
        if there is no such path.
    """

    def __init__(
        self,
        tp: int = 1,
        pp: int = 1,
        *,
        world: Communicator | None = None,
        comm: str = "auto",
        limit_s: float | None = None,
        explain: Callable[[str], object] | None = None,
    ) -> None:
        if tp < 1 or pp < 1:
            raise ParallelError(
                f"A mesh of {tp} x {pp} ranks has none.", "Give tp and pp numbers from 1 on."
            )
        check_comm(comm)
        self.tp = tp
        self.pp = pp
        self._started = None
        launch = launched()
        if world is None and (tp * pp > 1 or (launch and launch.size > 1)):
            self._started = start_world(tp * pp, time_limit() if limit_s is None else limit_s)
            world = self._started.communicator
        self.world = world or Alone()
        if self.world.size != tp * pp:
            count = self.world.size
            ranks = "rank" if tp * pp == 1 else "ranks"
            there = "is" if count == 1 else "are"
            raise ParallelError(
                f"A mesh of tp={tp} x pp={pp} needs {tp * pp} {ranks}, and there {there} {count}.",
                how_to_start(tp * pp),
            )
        if self._started:
            self.agree(_versions())
        hosts = self.world.exchange(socket.gethostname())
        self.ranks_on_host = hosts.count(hosts[self.world.rank])
        self.stage = self.world.rank // tp
        self.num_stages = pp
        self._comm = comm
        self._explain = explain if self.is_leader else None
        self._views: list[Sight] = []
        self._gpus: list[str] = []
        self._groups = self.world.split(self.stage), self.world.split(self.world.rank % tp)
        self.tensor, self.pipeline = self._groups
        if comm in ("auto", *PATHS_OF_HOSTS) or comm.endswith(".json"):
            self.connect("cpu")
        if comm.endswith(".json") and self.world.size > 1:
            self.agree({f"the record {comm}": Path(comm).read_bytes()})

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, which schedules, prints, and is asked."""
        return self.world.rank == 0

    @property
    def gpus(self) -> list[str]:
        """The identifier of each rank's GPU; empty as long as none were taken."""
        return list(self._gpus)

    def take_gpu(self) -> None:
        """Make a GPU of its own each rank's current one; nothing where there are none.

        Comes before anything else that a rank does with GPUs.

        Raises
        ------
        ParallelError
            On all ranks, if a host has more of them than GPUs.
        """
        rank = self.world.rank
        views = self.world.exchange(Sight(socket.gethostname(), visible_gpus()))
        if any(view.gpus for view in views):
            self._views, self._gpus = views, share_gpus(views)
            use_gpu(views[rank].gpus.index(self._gpus[rank]))

    def connect(self, device: str) -> None:
        """Let arrays of a device travel by the path that was chosen for them; all ranks do this.

        Arrays of the CPU do so from the beginning.

        Parameters
        ----------
        device : {"cpu", "cuda", "sim"}

        Raises
        ------
        ParallelError
            If that path does not work here, and the user has asked for it.
        """
        names = "tensor ranks", "stages"
        self.tensor, self.pipeline = (
            self._connected(name, group, device)
            for name, group in zip(names, self._groups, strict=True)
        )

    def machine(self, group: Communicator) -> MachineKind:
        """Say what kind of machine some ranks are on, which have taken GPUs; all of them do this.

        Parameters
        ----------
        group : Communicator
            By which they have met.

        Returns
        -------
        MachineKind
            The same on all ranks.
        """
        gpus = group.exchange(self._gpus[self.world.rank])
        return group.tell(kind_of_machine(gpus) if group.rank == 0 else None)

    def _connected(self, name: str, group: Communicator, device: str) -> Communicator:
        if group.size == 1:
            return group
        offers = self.offers(group, device, self._comm)
        table = self._table(group, device)
        while True:
            chosen = choose(self._comm, offers, group.size, table)
            try:
                connected = connect(group, chosen, offers, device)
                break
            except BrokenPathError as broken:
                # What nobody has asked for by name is done without.
                offers = [
                    Offer(each.path, broken.cause) if each.path == broken.path else each
                    for each in offers
                ]
                if self._comm != "auto" or all(each.problem for each in offers):
                    raise
        if self._explain:
            for line in chosen.explain():
                self._explain(f"{name}, arrays of {device}: {line}")
        return connected

    def _table(self, group: Communicator, device: str) -> TimesTable | None:
        if device != "cuda" or self._comm != "auto" or not self._gpus:
            return None
        kind = self.machine(group)
        return find_table(kind) if kind.is_known else None

    def offers(self, group: Communicator, device: str, wanted: str = "all") -> list[Offer]:
        """Say which paths there are between some ranks; all of them do this.

        Parameters
        ----------
        group : Communicator
            By which they have met.
        device : {"cpu", "cuda", "sim"}
            Of the arrays.
        wanted : str
            See :func:`.paths.offers_between`.

        Returns
        -------
        list of Offer
        """
        hidden = ""
        if device == "cuda":
            if not self._gpus:
                self.take_gpu()
            hidden = hidden_gpu(self._views, self._gpus, group.exchange(self.world.rank))
        return offers_between(group, device, wanted, hidden)

    def agree(self, what: Mapping[str, object]) -> None:
        """Make sure that all ranks see the same.

        Parameters
        ----------
        what : mapping of str to object
            By its name in a sentence, anything with the same ``repr`` where it is the same.
            Only hashes travel, and the beginning of what is short.

        Raises
        ------
        ParallelError
            On all ranks, naming one that differs from rank 0 and in what.
        """
        mine = {name: _summary(repr(value)) for name, value in what.items()}
        views = self.world.exchange(mine)
        for rank, view in enumerate(views):
            for name in views[0] | view:  # in the order in which they were asked for
                if view.get(name) != views[0].get(name):
                    here, there = (each.get(name, ("", "nothing"))[1] for each in (view, views[0]))
                    raise ParallelError(
                        f"Rank {rank} differs from rank 0 in {name}: {here}, and on rank 0"
                        f" {there}.",
                        "Give all ranks the same program and the same files.",
                    )

    def __enter__(self) -> "Mesh":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._started and exit_code(error) != 0:
            self._started.end_all(error)


def _summary(text: str) -> tuple[str, str]:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return digest, text if len(text) <= 80 else f"{text[:60]}... ({digest[:8]})"


@functools.cache
def _versions() -> dict[str, object]:
    # Two checkouts may have one version and different code.
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(str(path.relative_to(package)).encode() + path.read_bytes())
    versions = {"the code of llm_numba": code.hexdigest()[:12]}
    versions["the version of Python"] = platform.python_version()
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[f"the version of {name}"] = metadata.version(name)
    return versions
