"""Every rank: does all that a communicator can, and knows what must come out.

Run under mpirun by test_staged.py, and by test_on_gpus.py on GPUs, with the number of ranks, the
path of their arrays, and the device that these are on. A failed assertion ends all ranks.
"""

import itertools
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from llm_numba import ops
from llm_numba.errors import ParallelError
from llm_numba.parallel import Communicator, Mesh
from llm_numba.parallel.bounce import BounceCommunicator
from llm_numba.parallel.messages import MessageCommunicator
from llm_numba.runtime import capture, kind_of, overlapping, to_device, to_host

FORMATS = ["float32", "float64", "float16", ml_dtypes.bfloat16, "int8", "int32", "int64"]
# Odd, empty, less than one number a rank, below and above the size from which two steps are taken.
SHAPES = [(1,), (3, 5), (0, 4), (2, 0), (7, 11, 13), (257, 1031)]


def values_of(rank: int, shape: tuple[int, ...], dtype: object) -> np.ndarray:
    """Numbers whose sum shows the order in which they were added."""
    rng = np.random.default_rng([rank, *shape])
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-1, 2, shape)).astype(dtype)


def summed(parts: list[np.ndarray]) -> np.ndarray:
    """The sum from rank 0 on, one rounding to 16 bits."""
    dtype = parts[0].dtype
    wide = np.float32 if dtype.itemsize == 2 else dtype
    total = parts[0].astype(wide)
    for part in parts[1:]:
        total = total + part.astype(wide)
    return total.astype(dtype)


def place(x: np.ndarray) -> Any:
    """Put a copy of an array where the ranks' arrays are."""
    return x.copy() if DEVICE == "cpu" else to_device(x, DEVICE)


def check_sum(comm: Communicator, found: np.ndarray, parts: list[np.ndarray]) -> None:
    """The sum in the order of ranks, or in another: to the rounding of each addition, and once."""
    expected = summed(parts)
    assert found.dtype == expected.dtype
    in_order = comm.name == "mpi-staged" and DEVICE == "cpu"
    if in_order or expected.dtype.kind in "iu":
        assert found.tobytes() == expected.tobytes()
        return
    once = ml_dtypes.finfo(expected.dtype).eps
    # NCCL rounds to the array's own format at each rank.
    in_float32 = expected.dtype.itemsize == 2 and comm.name != "nccl"
    each = ml_dtypes.finfo("float32").eps if in_float32 else once
    largest = sum(np.abs(part.astype(np.float64)) for part in parts)
    error = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    assert np.all(error <= len(parts) * each * largest + once * np.abs(expected)), error.max()


def check_collectives(comm: Communicator) -> None:
    """All operations, in all formats and shapes."""
    for dtype, shape in itertools.product(FORMATS, SHAPES):
        if shape == SHAPES[-1] and dtype not in ("float32", ml_dtypes.bfloat16):
            continue  # only for time: sizes do not depend on the format
        parts = [values_of(rank, shape, dtype) for rank in range(comm.size)]
        x = place(parts[comm.rank])
        assert comm.all_reduce(x) is x
        check_sum(comm, to_host(x), parts)
        assert len(set(comm.exchange(to_host(x).tobytes()))) == 1, (dtype, shape)
        x = place(parts[comm.rank])
        comm.all_reduce(x, "max")
        largest = np.max(np.stack(parts).astype(np.float64), axis=0)
        assert np.array_equal(to_host(x), largest), (dtype, shape)

        whole = np.concatenate(parts)
        gathered = to_host(comm.all_gather(place(parts[comm.rank])))
        assert gathered.dtype == whole.dtype
        assert np.array_equal(gathered, whole), (dtype, shape)
        wholes = [np.roll(whole, rank) for rank in range(comm.size)]
        part = to_host(comm.reduce_scatter(place(wholes[comm.rank])))
        check_sum(comm, part, [np.split(each, comm.size)[comm.rank] for each in wholes])

        for root in (0, comm.size - 1):
            x = place(parts[comm.rank])
            assert comm.broadcast(x, root) is x
            assert np.array_equal(to_host(x), parts[root]), (dtype, shape)


def check_norms(comm: Communicator) -> None:
    """Sum, residual and norm as one step: the bits of a sum, and of a norm behind it."""
    formats = ["float32"] if DEVICE == "cpu" else ["float32", "float16", ml_dtypes.bfloat16]
    # Rows of packets and not; many; what one kernel takes by some paths, and what it does not.
    shapes = [(1, 4096), (3, 8192), (200, 1024), (5, 264), (2, 1001), (700, 2048)]
    for dtype, shape in itertools.product(formats, shapes):
        residual, weight = values_of(99, shape, dtype), values_of(98, shape[1:], dtype)
        mine = values_of(comm.rank, shape, dtype)
        operands = place(residual), place(weight), 1e-5
        found = [to_host(each) for each in comm.all_reduce_norm(place(mine), *operands)]
        apart = ops.add_rms_norm(comm.all_reduce(place(mine)), *operands)
        for each, expected in zip(found, apart, strict=True):
            assert each.tobytes() == to_host(expected).tobytes(), (dtype, shape)
        assert len(set(comm.exchange(found[0].tobytes()))) == 1, (dtype, shape)


def check_messages(comm: Communicator) -> None:
    """A ring in both directions, in order, and of all shapes."""
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for dtype, shape in itertools.product([np.float32, ml_dtypes.bfloat16, np.bool_], SHAPES):
        sent = [place(values_of(comm.rank + 10 * i, shape, dtype)) for i in range(3)]
        outs = [place(np.empty(shape, dtype)) for _ in range(3)]
        receives = [comm.start_receive(out, before) for out in outs]
        sends = [comm.start_send(x, after) for x in sent]
        for i, (receive, send) in reversed(list(enumerate(zip(receives, sends, strict=True)))):
            assert receive.wait() is outs[i]
            assert send.wait() is sent[i]
            assert np.array_equal(to_host(outs[i]), values_of(before + 10 * i, shape, dtype))
    # Another length than the receiver expects.
    if comm.rank == 0:
        comm.send(np.zeros(3, np.float32), 1)
    elif comm.rank == 1:
        with pytest.raises(ParallelError, match="Rank 0 sent 12 bytes, and receive of 4 float32 n"):
            comm.receive(np.zeros(4, np.float32), 0)


def check_long_messages(comm: Communicator) -> None:
    """Several begun by all before any is received, and waited for from the last to the first."""
    if not comm.name.startswith("mpi"):
        return  # NCCL's messages wait for each other on their stream
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    # On GPUs more than a lane holds, and at the most one piece of it, and a little.
    lengths = [10_001, 3, 40_000] if DEVICE == "cpu" else [5_000_011, 3, (1 << 19) + 1, 1 << 24]
    sent = [place(values_of(comm.rank, (length,), np.float32)) for length in lengths]
    sends = [comm.start_send(x, after) for x in sent]
    # Meanwhile this rank waits for something else, in which its messages must go on.
    comm.barrier()
    outs = [place(np.zeros(length, np.float32)) for length in lengths]
    receives = [comm.start_receive(out, before) for out in outs]
    for transfer in reversed(sends + receives):
        transfer.wait()
    for length, out in zip(lengths, outs, strict=True):
        assert np.array_equal(to_host(out), values_of(before, (length,), np.float32)), length
    if DEVICE == "cuda" and comm.name == "mpi-staged":
        # And by no other way: these ranks share a host.
        assert {other for _, other in comm._host._lanes} >= {after, before}
    # A sender that waits at a barrier, to which the receiver comes later.
    if comm.rank == 0:
        last = comm.start_send(sent[0], 1)
        comm.barrier()
        last.wait()
    else:
        if comm.rank == 1:
            comm.receive(outs[0], 0)
            assert np.array_equal(to_host(outs[0]), values_of(0, (lengths[0],), np.float32))
        comm.barrier()


def check_objects(comm: Communicator) -> None:
    """Small ones, and ones that do not fit the first message."""
    for length in (0, 10, 4000, 4090, 5000, 100_000):
        for root in range(comm.size):
            value = {"text": "x" * (length + root)} if comm.rank == root else None
            assert comm.tell(value, root, patient=True) == {"text": "x" * (length + root)}
        values = comm.exchange(("y" * length * comm.rank, comm.rank))
        assert values == [("y" * length * rank, rank) for rank in range(comm.size)]


def check_simulator(comm: Communicator) -> None:
    """Arrays of the simulated device stay there."""
    host = values_of(comm.rank, (5, 3), np.float16)
    x = to_device(host, "sim")
    gathered, total = comm.all_gather(x), comm.all_reduce(x)
    assert kind_of(gathered) == kind_of(total) == "sim"
    parts = [values_of(rank, (5, 3), np.float16) for rank in range(comm.size)]
    assert np.array_equal(to_host(gathered), np.concatenate(parts))
    check_sum(comm, to_host(total), parts)


def check_groups(comm: Communicator) -> None:
    """Groups at the same time, each with operations of its own, and groups of groups."""
    half = comm.split(comm.rank % 2)
    for turn in range(1 + comm.rank % 2):
        x = np.int64([10**comm.rank])
        half.all_reduce(x)
        expected = sum(10**rank for rank in range(comm.rank % 2, comm.size, 2))
        assert x[0] == expected, turn
    assert half.name == (comm.name if half.size > 1 else "alone")
    assert half.split(half.rank).size == 1


def check_graph(comm: Communicator) -> None:
    """A thousand replays of a graph with sums in it: each sees the numbers that were there last."""
    if DEVICE != "cuda":
        return
    # Launches of our own kernels may overlap: then sums follow each other without a gap.
    for length, early in itertools.product((1, 37, 4096, 4099, 1 << 16, 1 << 18), (False, True)):
        start = values_of(comm.rank, (length,), np.float32)
        x, total, first = place(start), place(np.zeros(length, np.float32)), place(start[:4])

        def step(x: Any = x, total: Any = total, first: Any = first) -> None:
            total[...], first[...] = x, x[:4]
            comm.all_reduce(total)
            comm.all_reduce(first)
            x += 1

        step()
        with overlapping(early):
            graph = capture(step)
        assert (graph.num_pieces == 1) is comm.captures
        for _ in range(1000):
            graph.launch()
        parts = [values_of(rank, (length,), np.float32) for rank in range(comm.size)]
        for part in parts:
            for _ in range(1000):
                part += 1
        check_sum(comm, to_host(total), parts)
        check_sum(comm, to_host(first), [part[:4] for part in parts])


def check_repetition(comm: Communicator) -> None:
    """A thousand sums one after another: none may see the numbers of the next."""
    x = place(np.empty(37, np.float32))
    for turn in range(1000):
        x[:] = turn + comm.rank
        comm.all_reduce(x)
        assert np.all(to_host(x) == comm.size * turn + comm.size * (comm.size - 1) // 2), turn


def check_mesh(ranks: int, path: str) -> None:
    """Who is where in every mesh of so many ranks, and what carries their arrays."""
    for tp in (tp for tp in range(1, ranks + 1) if ranks % tp == 0):
        mesh = Mesh(tp, ranks // tp, comm=path)
        mesh.connect(DEVICE)
        assert mesh.tensor.name == (path if tp > 1 else "alone")
        assert mesh.pipeline.name == (path if tp < ranks else "alone")
        rank = mesh.world.rank
        assert (mesh.stage, mesh.num_stages, mesh.is_leader) == (rank // tp, ranks // tp, rank == 0)
        assert (mesh.tensor.size, mesh.tensor.rank) == (tp, rank % tp)
        assert (mesh.pipeline.size, mesh.pipeline.rank) == (ranks // tp, rank // tp)
        assert mesh.ranks_on_host == ranks
        members = mesh.tensor.exchange(rank)
        assert members == list(range(rank - rank % tp, rank - rank % tp + tp))
        assert mesh.pipeline.exchange(rank) == list(range(rank % tp, ranks, tp))
        mesh.agree({"the same": [1, 2]})
        text = f"Rank {ranks - 1} differs from rank 0 in the weights: True, and on rank 0 False"
        with pytest.raises(ParallelError, match=text):
            mesh.agree({"the same": 1, "the weights": rank == ranks - 1})


if __name__ == "__main__":
    size, path, DEVICE = int(sys.argv[1]), *sys.argv[2:]
    mesh = Mesh(size, comm=path)
    if DEVICE == "cuda":
        mesh.take_gpu()
    mesh.connect(DEVICE)
    world = mesh.tensor
    assert (world.name, world.size) == (path, size)
    assert world.size == size
    for check in (
        check_collectives,
        check_norms,
        check_messages,
        check_long_messages,
        check_objects,
        check_simulator,
        check_groups,
        check_repetition,
        check_graph,
    ):
        check(world)
        world.barrier()
        if world.rank == 0:
            print(check.__name__, flush=True)
    if (path, DEVICE) == ("mpi-staged", "cuda"):
        # As between hosts, which these ranks do not need.
        between_hosts = MessageCommunicator(mesh.world.again(BounceCommunicator))
        check_messages(between_hosts)
        check_long_messages(between_hosts)
    check_mesh(size, path)
    if world.rank == 0:
        print("all is well")
