"""Ranks whose arrays go through shared memory, as those of GPUs do, copied by a core.

Run under mpirun by test_lanes.py, with the number of ranks and what is to happen.
"""

import os
import signal
import sys
from pathlib import Path

import exchanging
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from host_copies import HostLanes

from llm_numba.parallel import Mesh
from llm_numba.parallel.messages import MessageCommunicator

size, way = int(sys.argv[1]), sys.argv[2]
exchanging.DEVICE = "cpu"
with Mesh(size) as mesh:
    lanes = mesh.world.again(HostLanes)
    comm = MessageCommunicator(lanes)
    if way == "exchange":
        exchanging.check_messages(comm)
        exchanging.check_groups(comm)
        exchanging.check_long_messages(comm)
        # And by no other way.
        assert {other for _, other in lanes._lanes} == set(range(size)) - {comm.rank}
        if comm.rank == 0:
            print("all is well")
    elif comm.rank == 1:
        comm.receive(np.zeros(10), 0)
        Path(os.environ["TMPDIR"], "fault").touch()
        os.kill(os.getpid(), signal.SIGKILL if way == "kill" else signal.SIGSTOP)
    else:
        comm.send(np.zeros(10), 1)
        comm.send(np.zeros(100_000), 1)
