"""Every rank: on one of two hosts, meets the others; then rank 3 stalls if it is asked to.

Run by test_hosts.py under mpirun: ``on_hosts.py [stall]``.
"""

import socket
import sys
import time

import numpy as np

from llm_numba.parallel import Mesh
from llm_numba.parallel.watch import time_limit
from llm_numba.parallel.world import start_world

with Mesh(tp=2, pp=2) as mesh:
    rank = mesh.world.rank
    assert socket.gethostname() == ("node-a", "node-b")[mesh.stage]
    assert mesh.ranks_on_host == 2
    # A board for each host.
    assert start_world(4, time_limit()).watch.board.ranks == [2 * mesh.stage, 2 * mesh.stage + 1]
    for size in (3, 300_001):
        x = np.full(size, 10.0**rank, np.float32)
        assert np.all(mesh.world.all_reduce(x) == 1111)
        if mesh.stage == 0:
            mesh.pipeline.send(x + rank, to=1)
        else:
            assert np.all(mesh.pipeline.receive(x, source=0) == 1111 + rank - 2)
    if sys.argv[1:] == ["stall"] and rank == 3:
        time.sleep(60)
    mesh.world.barrier()
    print("met", flush=True)
