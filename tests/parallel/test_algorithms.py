"""Operations made of messages: between threads, in every order that each algorithm promises."""

import ml_dtypes
import numpy as np
import pytest

from llm_numba.parallel import algorithms, run_ranks
from llm_numba.parallel.carrier import Carrier
from llm_numba.parallel.messages import FEW_BYTES, MessageCommunicator
from llm_numba.runtime import kind_of, to_device, to_host

FORMATS = ["float32", "float16", ml_dtypes.bfloat16, "int32"]
RANKS = [2, 3, 4, 5]
each_format = pytest.mark.parametrize("dtype", FORMATS, ids=lambda d: np.dtype(d).name)
each_number_of_ranks = pytest.mark.parametrize("ranks", RANKS)


def values_of(rank, length, dtype):
    """Numbers whose sum shows the order in which they were added."""
    rng = np.random.default_rng([rank, length])
    return (rng.normal(size=length) * 10.0 ** rng.integers(0, 4, length)).astype(dtype)


def wide(array):
    return array.astype(np.float32) if algorithms.is_short(array) else array


def in_pairs(parts):
    """Neighbours first, then pairs of pairs; what is beyond a power of two at the beginning."""
    paired = 1 << (len(parts).bit_length() - 1)
    sums = [sum(map(wide, parts[rank::paired][1:]), wide(parts[rank])) for rank in range(paired)]
    while len(sums) > 1:
        sums = [low + high for low, high in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0].astype(parts[0].dtype)


def from_rank(parts, first):
    """One after another around the ring."""
    total = parts[first % len(parts)].copy()
    for turn in range(1, len(parts)):
        total += parts[(first + turn) % len(parts)]
    return total


def in_order(parts):
    return sum(map(wide, parts[1:]), wide(parts[0])).astype(parts[0].dtype)


@each_number_of_ranks
@each_format
@pytest.mark.parametrize("length", [1, 37])
def test_doubling_adds_in_pairs(ranks, dtype, length):
    parts = [values_of(rank, length, dtype) for rank in range(ranks)]

    def program(comm):
        x = parts[comm.rank].copy()
        algorithms.all_reduce_by_doubling(comm, x, "sum")
        return x

    for found in run_ranks(ranks, program):
        assert found.tobytes() == in_pairs(parts).tobytes()


@each_number_of_ranks
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("length", [5, 37, 64])
def test_around_the_ring_each_part_is_added_from_the_next_rank_on(ranks, dtype, length):
    arrays = [values_of(rank, length, dtype) for rank in range(ranks)]

    def program(comm):
        return algorithms.reduce_around(comm, algorithms.cut(arrays[comm.rank], ranks))

    cuts = [algorithms.cut(array, ranks) for array in arrays]
    for rank, found in enumerate(run_ranks(ranks, program)):
        expected = from_rank([parts[rank] for parts in cuts], rank + 1)
        assert found.tobytes() == expected.tobytes()


@each_number_of_ranks
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_in_place_the_sums_are_those_of_the_ring(ranks, dtype, device):
    arrays = [values_of(rank, 131, dtype) for rank in range(ranks)]

    def program(comm):
        found = []
        for op in ("sum", "max"):
            x = (
                arrays[comm.rank].copy()
                if device == "cpu"
                else to_device(arrays[comm.rank], device)
            )
            parts = algorithms.cut(x, ranks)
            algorithms.reduce_in_place(comm, parts, op)
            found.append(to_host(parts[comm.rank]))
        return found

    cuts = [algorithms.cut(array, ranks) for array in arrays]
    for rank, (total, largest) in enumerate(run_ranks(ranks, program)):
        parts = [each[rank] for each in cuts]
        assert total.tobytes() == from_rank(parts, rank + 1).tobytes()
        assert np.array_equal(largest, np.max(parts, axis=0))


@each_number_of_ranks
@each_format
def test_at_once_each_part_is_added_in_the_order_of_ranks(ranks, dtype):
    arrays = [values_of(rank, 37, dtype) for rank in range(ranks)]

    def program(comm):
        return algorithms.reduce_at_once(comm, algorithms.cut(arrays[comm.rank], ranks))

    cuts = [algorithms.cut(array, ranks) for array in arrays]
    for rank, found in enumerate(run_ranks(ranks, program)):
        assert found.tobytes() == in_order([parts[rank] for parts in cuts]).tobytes()


@each_number_of_ranks
@pytest.mark.parametrize("gather", [algorithms.gather_around, algorithms.gather_at_once])
def test_all_get_the_parts_of_all(ranks, gather):
    whole = np.arange(37, dtype=np.int16)

    def program(comm):
        x = np.full_like(whole, -1)
        parts = algorithms.cut(x, ranks)
        parts[comm.rank][...] = algorithms.cut(whole, ranks)[comm.rank]
        gather(comm, parts)
        return x

    for found in run_ranks(ranks, program):
        np.testing.assert_array_equal(found, whole)


@each_number_of_ranks
def test_a_broadcast_reaches_all_from_any_rank(ranks):
    def program(comm):
        found = []
        for root in range(ranks):
            x = np.int32([comm.rank, 7])
            algorithms.broadcast_by_doubling(comm, x, root)
            found.append(x.tolist())
        return found

    assert run_ranks(ranks, program) == [[[root, 7] for root in range(ranks)]] * ranks


class _Counted(MessageCommunicator):
    """Counts the bytes that this rank sends."""

    sent = 0

    def start_send(self, x, to):
        self.sent += x.nbytes
        return super().start_send(x, to)


@each_number_of_ranks
def test_around_the_ring_a_rank_sends_the_fewest_bytes(ranks):
    length = ranks * FEW_BYTES

    def program(comm):
        counted = _Counted(comm)
        counted.all_reduce(np.ones(length, np.float32))
        long = counted.sent
        counted.all_reduce(np.ones(length, np.float16))
        return long, counted.sent - long

    fewest = 2 * (ranks - 1) * length // ranks
    assert run_ranks(ranks, program) == [(4 * fewest, 2 * fewest)] * ranks


@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("length", [16, FEW_BYTES // 2 + 3])
def test_arrays_of_a_device_are_added_there(dtype, length):
    arrays = [values_of(rank, length, dtype) for rank in range(2)]

    def program(comm):
        comm = MessageCommunicator(comm)
        x = to_device(arrays[comm.rank], "sim")
        # Before the sum, which is in place.
        gathered = comm.all_gather(x)
        comm.all_reduce(x)
        assert kind_of(x) == kind_of(gathered) == "sim"
        return to_host(x), to_host(gathered)

    for total, gathered in run_ranks(2, program):
        # Of two numbers there is one sum.
        assert total.tobytes() == in_order(arrays).tobytes()
        assert gathered.tobytes() == np.concatenate(arrays).tobytes()


def test_what_a_path_does_not_do_itself_the_first_communicator_does():
    def program(comm):
        both = Carrier(comm)
        x = np.int32([1, comm.rank])
        send = both.start_send(np.int32([comm.rank]), to=(comm.rank + 1) % 3)
        (got,) = both.receive(np.zeros(1, np.int32), source=(comm.rank - 1) % 3)
        send.wait()
        total, largest = both.all_reduce(x.copy()), both.all_reduce(x.copy(), "max")
        part = both.reduce_scatter(np.arange(3, dtype=np.int32))
        told = both.broadcast(np.int32([comm.rank]), root=1)
        arrays = total, largest, both.all_gather(x[1:]), part, told
        return int(got), [each.tolist() for each in arrays]

    for rank, found in enumerate(run_ranks(3, program)):
        assert found == ((rank - 1) % 3, [[3, 3], [1, 2], [0, 1, 2], [3 * rank], [1]])


def test_groups_of_a_path_keep_to_it():
    def program(comm):
        half = MessageCommunicator(comm).split(comm.rank // 2)
        return half.name, half.size, half.exchange(comm.rank), half.tell(comm.rank, root=0)

    first = "mpi", 2, [0, 1], 0
    assert run_ranks(3, program) == [first, first, ("alone", 1, [2], 2)]
