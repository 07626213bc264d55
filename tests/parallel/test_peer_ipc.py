"""The path ``peer`` as ranks see it: which arrays go by it. Here links are simulated."""

import functools

import numpy as np
import pytest

from llm_numba.parallel.partition import Seat
from llm_numba.parallel.peer import simulated_links
from llm_numba.parallel.peer_ipc import PeerCommunicator
from llm_numba.runtime import to_device, to_host
from llm_numba.runtime.devices import simulate_ranks


def peers(ranks):
    """Ranks that are nobody's but for their links."""
    links = simulated_links(ranks, teams=2)
    return [PeerCommunicator(Seat(link.rank, ranks), link) for link in links]


def test_sums_and_gathered_arrays_go_by_the_link():
    xs = [to_device(np.full(9, 10.0**rank, np.float32), "sim") for rank in range(2)]
    found = [[], []]

    def program(comm):
        found[comm.rank] += [comm.all_gather(xs[comm.rank]), comm.all_reduce(xs[comm.rank])]

    simulate_ranks([functools.partial(program, comm) for comm in peers(2)], schedule="ordered")
    for gathered, total in found:
        np.testing.assert_array_equal(to_host(gathered), np.repeat([1.0, 10.0], 9))
        np.testing.assert_array_equal(to_host(total), np.full(9, 11.0))


@pytest.mark.parametrize(
    ("operation", "dtype", "op", "carried"),
    [
        ("all_reduce", "float32", "sum", True),
        ("all_reduce", "float32", "max", False),
        ("all_reduce", "int64", "sum", False),
        ("all_gather", "int64", "sum", True),
        ("all_gather", "float64", "sum", False),
        ("reduce_scatter", "float32", "sum", False),
    ],
)
def test_what_has_no_kernel_goes_by_the_next_path(operation, dtype, op, carried):
    comm, x = peers(2)[0], np.zeros(3, dtype)
    assert comm.carries(operation, to_device(x, "sim"), op) is carried
    assert not comm.carries(operation, x, op)
