"""The path ``peer``: GPUs of one host read each other's memory, and kernels of our own add it up.

CUDA's interprocess communication names an allocation of one process by a handle of 64 bytes, with
which another maps it. Only whole allocations of ``cudaMalloc`` have handles, so the memory for it
is none of CuPy's pool.
"""

import platform

import numpy as np

from llm_numba.errors import ParallelError
from llm_numba.kernels import peer
from llm_numba.kernels.peer_team import PeerLink
from llm_numba.parallel.carrier import Carrier
from llm_numba.parallel.communicator import Communicator
from llm_numba.parallel.peer import MOST_RANKS, PUSHED_BYTES, ROOM_BYTES, TEAMS, Layout
from llm_numba.reference.rank_sums import Reduction
from llm_numba.runtime import Array, kind_of, storage_dtype

_ADDED = ("float32", "float16", "bfloat16")
_GATHERED = (*_ADDED, "int32", "int64")


class MappedMemory:
    """A piece of memory of each rank's GPU, which all ranks have mapped.

    Parameters
    ----------
    host : Communicator
        By which ranks exchange handles. All of them make such an object at the same time.
    num_bytes : int
        Of each piece; zeros at first.

    Attributes
    ----------
    addresses : list of int
        Of rank 0's piece first, as this process sees them.
    own : cupy.ndarray
        This rank's, as uint8.

    Raises
    ------
    ParallelError
        If a rank's memory cannot be mapped here.
    """

    def __init__(self, host: Communicator, num_bytes: int) -> None:
        import cupy

        self._runtime = cupy.cuda.runtime
        self._rank = host.rank
        address = self._runtime.malloc(num_bytes)
        self._runtime.memset(address, 0, num_bytes)
        self._runtime.deviceSynchronize()
        handles = host.exchange((platform.node(), self._runtime.ipcGetMemHandle(address)))
        self.addresses: list[int] = []
        failure = None
        for rank, (node, handle) in enumerate(handles):
            try:
                self.addresses.append(address if rank == host.rank else self._map(node, handle))
            except (cupy.cuda.runtime.CUDARuntimeError, OSError) as error:
                failure = f"rank {rank}'s memory cannot be mapped by rank {host.rank}: {error}"
                break
        # All fail, or none: a rank that went on alone would wait for ever.
        failures = [each for each in host.exchange(failure) if each]
        if failures:
            raise ParallelError(
                f"GPUs do not see each other's memory: {failures[0]}.",
                "Start the ranks on one host, each seeing all of its GPUs (CUDA_VISIBLE_DEVICES, "
                "and under Slurm --gpu-bind=none), or choose another path: --comm nccl.",
            )
        memory = cupy.cuda.UnownedMemory(address, num_bytes, self)
        self.own = cupy.ndarray(num_bytes, np.uint8, cupy.cuda.MemoryPointer(memory, 0))

    def _map(self, node: str, handle: bytes) -> int:
        if node != platform.node():
            raise OSError(f"it is on {node}")
        return self._runtime.ipcOpenMemHandle(handle)

    def close(self) -> None:
        """Unmap the others' memory. All ranks must have ended their work with it."""
        for rank, address in enumerate(self.addresses):
            if rank != self._rank:
                self._runtime.ipcCloseMemHandle(address)
        self.addresses = []


def open_link(
    host: Communicator,
    *,
    teams: int = TEAMS,
    room_bytes: int = ROOM_BYTES,
    pushed_bytes: int = PUSHED_BYTES,
) -> tuple[PeerLink, MappedMemory]:
    """Make a rank's link to the GPUs of the others.

    Parameters
    ----------
    host : Communicator
        All of its ranks do this.
    teams, room_bytes, pushed_bytes : int
        As of :func:`llm_numba.parallel.peer.simulated_links`.

    Returns
    -------
    link : PeerLink
    memory : MappedMemory
        Must live as long as the link.
    """
    layout = Layout.of(host.size, teams, room_bytes, pushed_bytes)
    memory = MappedMemory(host, layout.size)
    link = layout.link(host.rank, memory.own, memory.addresses, "cuda")
    host.barrier()
    return link, memory


class PeerCommunicator(Carrier):
    """Ranks that read each other's GPU memory, see :mod:`llm_numba.kernels.peer`.

    Parameters
    ----------
    host : Communicator
        For all else: what is not on a GPU, no sum of floats, or no collective.
    link : PeerLink, optional
        By default one that is opened now, by all ranks together.
    """

    name = "peer"
    captures = True  # its operations may be held in a CUDA graph

    def __init__(self, host: Communicator, link: PeerLink | None = None) -> None:
        super().__init__(host)
        if host.size > MOST_RANKS:
            raise ParallelError(
                f"{host.size} ranks cannot be joined as peers.",
                f"Choose another path for more than {MOST_RANKS}.",
            )
        self.link, self._memory = (link, None) if link else open_link(host)

    def carries(self, operation: str, x: Array, op: Reduction = "sum") -> bool:
        """Tell whether an operation on an array goes by the GPUs' memory."""
        formats = {"all_reduce": _ADDED if op == "sum" else (), "all_gather": _GATHERED}
        # Where the link's own memory is: on GPUs, or with them in the simulator.
        is_there = kind_of(x) == kind_of(self.link.counters)
        return is_there and storage_dtype(x) in formats.get(operation, ())

    def all_reduce_norm(
        self, x: Array, residual: Array, weight: Array, eps: float
    ) -> tuple[Array, Array]:
        """Add up and normalise by the GPUs' memory, see :meth:`Communicator.all_reduce_norm`."""
        if self.carries("all_reduce", x):
            return peer.all_reduce_norm(x, residual, weight, eps, self.link)
        return super().all_reduce_norm(x, residual, weight, eps)

    def _all_reduce(self, x: Array, op: Reduction) -> None:
        if self.carries("all_reduce", x, op):
            peer.all_reduce(x, self.link)
        else:
            super()._all_reduce(x, op)

    def _all_gather(self, x: Array, out: Array) -> None:
        if self.carries("all_gather", x):
            peer.all_gather(x, self.link, out=out)
        else:
            super()._all_gather(x, out)
