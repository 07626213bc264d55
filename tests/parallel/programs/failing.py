"""Every rank works until one of them goes the way that is named on the command line.

Run by test_faults.py under mpirun.
"""

import atexit
import os
import platform
import signal
import sys
import time
from pathlib import Path

import numpy as np

from llm_numba.errors import PromptError
from llm_numba.parallel import Mesh

way = sys.argv[1]
if way == "another Python" and os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    platform.python_version = lambda: "2.7.18"
if way == "stay at the end" and os.environ["OMPI_COMM_WORLD_RANK"] == "2":

    def stay() -> None:
        time.sleep(60)

    # Before ranks meet, so it is called when they have parted.
    atexit.register(stay)
if way == "at the start":
    # A launcher other than this MPI's is of no use here: too few ranks are.
    mesh = Mesh(tp=3, pp=5)
with Mesh(tp=2, pp=2) as mesh:
    world = mesh.world
    x = np.ones((4, 32), np.float32)
    for _ in range(3):
        mesh.tensor.all_reduce(x)
    Path(os.environ["TMPDIR"], "fault").touch()
    if way == "idle":
        # Longer than the time limit, and no fault: a user thinks, or a disk is slow.
        if world.rank in (0, 3):
            time.sleep(1.2 * float(os.environ["LLM_NUMBA_STALL_S"]))
        if mesh.stage == 0:
            assert mesh.tensor.tell("go on" if mesh.is_leader else None, patient=True) == "go on"
        else:
            assert mesh.tensor.exchange(world.rank, patient=True) == [2, 3]
    if way == "all raise":
        raise PromptError("The prompt is empty.", "Give it a word.")
    if way == "differ":
        mesh.agree({"the weights": "those of rank 1" if world.rank == 1 else "all others"})
    if way == "wait in a circle":
        # Each waits for a message that the next one would send later.
        world.receive(x, (world.rank + 1) % 4)
    if way == "exit" and world.rank == 1:
        sys.exit(7)
    if way == "return" and world.rank == 1:
        sys.exit(0)
    if world.rank == 2:
        if way == "raise":
            raise KeyError("no such layer")
        if way == "a mistake":
            raise PromptError("The prompt is empty.", "Give it a word.")
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if way == "sleep":
            time.sleep(60)
        if way == "kill the launcher":
            os.kill(os.getppid(), signal.SIGKILL)
        if way == "interrupt the launcher":
            os.kill(os.getppid(), signal.SIGINT)
    for _ in range(3):
        mesh.tensor.all_reduce(x)
    hidden = np.ones((3, 32), np.float32)
    if mesh.stage == 0:
        mesh.pipeline.send(hidden, to=1)
    else:
        mesh.pipeline.receive(hidden, source=0)
    if way.endswith("the launcher"):
        time.sleep(60)
    world.barrier()
    print("the end", flush=True)
