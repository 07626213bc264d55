"""Every rank: generates, until one of them goes in the middle of a layer.

Run by test_faults.py under mpirun: ``dying.py MODEL WAY``.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from llm_numba import LLM, SamplingParams
from llm_numba.models.checkpoint import SINGLE_FILE, read_infos
from llm_numba.parallel import Mesh

model, way = sys.argv[1:]


def go() -> None:
    Path(os.environ["TMPDIR"], "fault").touch()
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "stall":
        time.sleep(60)
    raise RuntimeError("a cosmic ray")


with Mesh(tp=2, pp=2) as mesh:
    if mesh.world.rank == 3:
        calls, all_reduce = iter(range(100)), mesh.tensor.all_reduce
        # The first steps are whole: 4 sums in each, of a stage with 2 layers.
        mesh.tensor.all_reduce = lambda x: go() if next(calls) == 30 else all_reduce(x)
    if way == "another model" and mesh.world.rank == 3:
        model = "storyteller"
    if way == "other weights" and mesh.world.rank == 3:
        model = shutil.copytree(model, Path(model).with_name("other"))
        info = read_infos(model / SINGLE_FILE)["model.norm.weight"]
        with (model / SINGLE_FILE).open("r+b") as file:
            file.seek(info.begin)
            file.write(bytes(4))
    llm = LLM(model, device="cpu", mesh=mesh)
    if llm.leads:
        with llm:
            for _ in llm.stream("Once", SamplingParams(max_tokens=40, ignore_eos=True)):
                print("a token", flush=True)
    else:
        llm.follow()
