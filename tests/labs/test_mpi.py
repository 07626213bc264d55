"""The second tier: the same functions where MPI carries the messages."""

import contextlib
import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from grader import mpi
from grader.children import Children
from grader.lab import LabError, find_labs
from grader.run import run_lab

BIN = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or shutil.which("mpirun", path=BIN) is None,
    reason="mpi4py and mpirun are not installed",
)

# Both ranks receive first. The grader's own routing would find that before MPI is asked.
CIRCLE = """
import numpy as np


def circle(comm, x):
    return comm.receive(x, 1 - comm.rank)


def meet(comm, x):
    assert comm.size == 2
    comm.tick("nobody listens")
    sending = comm.start_send(x, 1 - comm.rank)
    comm.receive(y := np.zeros_like(x), 1 - comm.rank)
    sending.wait()
    return comm.all_reduce(y), comm.all_gather(x)


def overwrite(comm, x):
    sending = comm.start_send(x, 1 - comm.rank)
    comm.receive(np.zeros_like(x), 1 - comm.rank)
    x += 1
    sending.wait()


def function(comm, x):
    return function
"""


def order(name):
    operations = ("start_send", "receive", "all_reduce", "all_gather")
    return {"path": "circle.py", "source": CIRCLE, "imports": [], "name": name, "allow": operations}


def left(world, patience_s=15.0):
    """The processes of a world that are still there; those that were killed take a moment to go."""
    mark = f"TMPDIR={world._folder.name}".encode()
    end = time.monotonic() + patience_s
    while True:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            # What has ended and waits for its parent has no environment any more.
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


@pytest.fixture(scope="module")
def by_mpirun():
    with Children(mpirun=True) as children:
        yield children


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("number", [10, 11, 12])
def test_solutions_pass_where_mpi_carries_their_messages(number, by_mpirun):
    (lab,) = find_labs(str(number))
    result = run_lab(lab, lab.folder / "solution.py", by_mpirun)
    assert [step.trouble for step in result.steps if step.trouble] == []
    assert result.points == lab.points
    assert by_mpirun._world is not None


@needs_mpi
def test_some_of_the_ranks_of_mpi_exchange_and_the_others_wait_for_orders():
    world = mpi.World(3)
    try:
        for turn in range(2):
            args = [(np.float32([rank + turn, 5]),) for rank in range(2)]
            said = world.run(2, order("meet"), args)
            assert len(left(world, patience_s=0)) >= 3
            for message in said:
                assert message["event"] == "returned"
                total, gathered = message["value"]
                assert total.tolist() == [1 + 2 * turn, 10]
                assert gathered.tolist() == [turn, 5, turn + 1, 5]
    finally:
        world.end()
    assert left(world) == []


@needs_mpi
@pytest.mark.slow
def test_ranks_that_wait_for_ever_are_named_with_their_line():
    children = Children(mpirun=True)
    children._world = world = mpi.World(2, stall_s=8.0)
    (said,) = children.ask_world(2, order("circle"), [(np.zeros(3, np.float32),)] * 2)
    assert said["event"] == "raised"
    assert said["type"] == "StallError"
    assert "receive of 3 float32" in said["message"]
    assert said["frames"] == [(6, "circle")]
    # The next order gets ranks that are not stuck.
    assert children._world is None
    assert left(world) == []


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [("overwrite", "written before its transfer"), ("function", "a function")],
)
def test_mistakes_are_told_as_in_the_first_tier(name, words):
    children = Children(mpirun=True)
    (said,) = children.ask_world(2, order(name), [(np.zeros(3, np.float32),)] * 2)
    assert said["event"] == "raised"
    assert words in said["message"]


def test_without_mpirun_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(LabError, match="no mpirun") as caught:
        Children(mpirun=True).ask_world(2, order("meet"), [(), ()])
    assert "llm-numba[mpi]" in caught.value.remedy
