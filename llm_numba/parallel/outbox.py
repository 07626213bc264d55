"""Memory that ranks of a host share, which is gone when the last of them is.

Each rank has an *outbox*: a file without a name, with a
:mod:`lane <llm_numba.parallel.lanes>` to each other rank. Linux makes such files in memory
(``memfd_create``), and others open them as ``/proc/PROCESS/fd/NUMBER``. A file in ``/dev/shm``
would stay there if a rank were killed before it was removed, and containers often have no more than
64 MB there.

Where there are no such files, or where ranks do not see each other's processes, there is no lane.
"""

import mmap
import os
import weakref
from typing import NamedTuple

import numpy as np

from llm_numba.parallel.lanes import LaneLayout

# A process of another container may have the same number.
_TOKEN_BYTES = 16


class Address(NamedTuple):
    """Where other processes find an outbox, and by what they know it."""

    path: str
    token: bytes


class Outbox:
    """A rank's lanes to all ranks of a group, or another rank's as it is seen from here.

    A lane takes memory when it is first used.

    Parameters
    ----------
    handle : int
        An open file's, which is closed when this object goes. What is mapped stays.
    layout : LaneLayout
    """

    def __init__(self, handle: int, layout: LaneLayout) -> None:
        self._handle, self._layout = handle, layout
        weakref.finalize(self, os.close, handle)

    @classmethod
    def create(
        cls, num_ranks: int, layout: LaneLayout
    ) -> "tuple[Outbox, Address] | tuple[None, None]":
        """Make an outbox with a lane to each rank.

        Parameters
        ----------
        num_ranks : int
        layout : LaneLayout

        Returns
        -------
        outbox : Outbox
        address : Address
            For the other ranks. None instead of both where there are no such files.
        """
        if not hasattr(os, "memfd_create"):
            return None, None
        token = os.urandom(_TOKEN_BYTES)
        handle = os.memfd_create("llm-numba-outbox", os.MFD_CLOEXEC)
        # Of holes, but for the token at its end.
        os.pwrite(handle, token, num_ranks * layout.num_bytes)
        return cls(handle, layout), Address(f"/proc/{os.getpid()}/fd/{handle}", token)

    @classmethod
    def open(cls, address: Address | None, num_ranks: int, layout: LaneLayout) -> "Outbox | None":
        """Open another rank's outbox; return None if it has none that can be found from here.

        Parameters
        ----------
        address : Address or None
            From :meth:`create` of that rank.
        num_ranks : int
        layout : LaneLayout
            As there.
        """
        if address is None:
            return None
        # Under the same name another container may have a pipe, whose other end nobody opens.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            outbox = cls(os.open(address.path, flags), layout)
            token = os.pread(outbox._handle, _TOKEN_BYTES, num_ranks * layout.num_bytes)
        except OSError:
            return None
        return outbox if token == address.token else None

    def lane(self, rank: int) -> np.ndarray:
        """Map the lane to a rank.

        Parameters
        ----------
        rank : int

        Returns
        -------
        uint8 ndarray
            Shared by all who map it; keeps itself mapped.
        """
        num_bytes = self._layout.num_bytes
        return np.frombuffer(mmap.mmap(self._handle, num_bytes, offset=rank * num_bytes), np.uint8)
