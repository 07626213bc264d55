"""Messages through memory that both ends see, moved in every order, copied as late as may be."""

import ctypes
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from host_copies import HostCopies, LateCopies
from ranks import PROGRAMS

from llm_numba.parallel.lanes import LaneLayout, ReceivingEnd, SendingEnd
from llm_numba.parallel.outbox import Address, Outbox
from llm_numba.parallel.shared import GPUCopies, pin

NARROW = LaneLayout(slots=3, piece_bytes=16)
# Shorter than a piece, whole pieces, more than the lane holds, nothing at all.
LENGTHS = [5, 16, 100, 0, 48, 1, 333, 47]


def ends(layout=NARROW, sender=None, receiver=None):
    memory = np.zeros(layout.num_bytes, np.uint8)
    copies = sender or HostCopies(), receiver or HostCopies()
    return SendingEnd(memory, layout, copies[0]), ReceivingEnd(memory, layout, copies[1])


def values_of(length, seed=0):
    return np.random.default_rng([seed, length]).integers(0, 256, length, dtype=np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_messages_arrive_in_order_whoever_moves_when(seed):
    rng = np.random.default_rng(seed)
    sending, receiving = ends(sender=LateCopies(2 * seed), receiver=LateCopies(2 * seed + 1))
    outs = [np.zeros(length, np.uint8) for length in LENGTHS]
    to_send, to_receive = list(enumerate(LENGTHS)), list(outs)
    sent, received = [], []
    for _ in range(100_000):
        turn = rng.integers(20)
        if turn == 0 and to_send:
            i, length = to_send.pop(0)
            sent.append(sending.start(values_of(length, i)))
        elif turn == 1 and to_receive:
            received.append(receiving.start(to_receive.pop(0)))
        else:
            (sending if turn % 2 else receiving).move()
        for message in sent:
            if message.is_done:  # and so it may be written again
                message.array[:] = 255
        if len(received) == len(LENGTHS) and all(message.is_done for message in received):
            break
    for i, (length, out) in enumerate(zip(LENGTHS, outs, strict=True)):
        np.testing.assert_array_equal(out, values_of(length, i))
    assert sending.is_idle
    assert receiving.is_idle


def test_what_a_lane_holds_needs_its_sender_no_more():
    sending, receiving = ends()
    message = sending.start(values_of(NARROW.room_bytes))
    sending.move()
    assert message.is_done
    assert sending.is_idle
    # One byte more must wait for the receiver, and nobody's copy.
    longer = sending.start(values_of(NARROW.room_bytes + 1))
    assert not longer.is_done
    assert not sending.is_busy
    assert not sending.is_idle
    out = np.zeros(NARROW.room_bytes, np.uint8)
    assert receiving.start(out)
    receiving.move()
    np.testing.assert_array_equal(out, values_of(NARROW.room_bytes))
    assert sending.is_busy


def test_two_that_both_send_first_get_each_others_arrays():
    there, back = ends(), ends()
    sent = [lane[0].start(values_of(500, seed)) for seed, lane in enumerate((there, back))]
    outs = [np.zeros(500, np.uint8) for _ in range(2)]
    received = [lane[1].start(out) for lane, out in zip((there, back), outs, strict=True)]
    for _ in range(100):
        for end in (*there, *back):
            end.move()
    assert all(message.is_done for message in sent + received)
    for seed, out in enumerate(outs):
        np.testing.assert_array_equal(out, values_of(500, seed))


@pytest.mark.parametrize(("sent", "expected"), [(100, 99), (5, 0), (0, 5), (16, 200)])
def test_a_message_of_another_length_is_not_copied_and_the_next_one_comes(sent, expected):
    sending, receiving = ends()
    out, behind = np.zeros(expected, np.uint8), np.zeros(7, np.uint8)
    messages = [sending.start(values_of(length)) for length in (sent, 7)]
    messages += [receiving.start(array) for array in (out, behind)]
    for _ in range(20):
        sending.move()
        receiving.move()
    assert all(message.is_done for message in messages)
    assert messages[2].sent_bytes == sent
    assert not out.any()
    np.testing.assert_array_equal(behind, values_of(7))


def test_an_outbox_is_seen_by_whoever_opens_it_and_leaves_no_file():
    outbox, address = Outbox.create(3, NARROW)
    assert os.readlink(address.path).endswith("(deleted)")  # and never was in a folder
    opened = Outbox.open(address, 3, NARROW)
    lane = opened.lane(2)
    outbox.lane(2)[:] = 7
    assert (lane == 7).all()
    assert not outbox.lane(1).any()
    del outbox, opened
    assert (lane == 7).all()


def test_an_outbox_of_somebody_else_is_none(tmp_path):
    address = Outbox.create(2, NARROW)[1]
    assert Outbox.open(address, 2, NARROW) is None  # closed
    assert Outbox.open(None, 2, NARROW) is None
    kept, address = Outbox.create(2, NARROW)
    assert kept
    assert Outbox.open(Address(address.path, b"another's"), 2, NARROW) is None
    os.mkfifo(tmp_path / "pipe")
    assert Outbox.open(Address(str(tmp_path / "pipe"), address.token), 2, NARROW) is None


class _FailedError(RuntimeError):
    pass


@pytest.fixture(name="gpu")
def _gpu(monkeypatch):
    """As much of CUDA as copies need; `status` is what it says of all, `pinned` what it has."""
    gpu = SimpleNamespace(status=0, pinned=[])

    def register(address, num_bytes, flags):
        if gpu.status:
            raise _FailedError(gpu.status)
        gpu.pinned.append(address)

    names = {
        "CUDARuntimeError": _FailedError,
        "eventQuery": lambda event: gpu.status,
        "memcpyAsync": lambda to, source, size, *_: ctypes.memmove(to, source, size),
        "hostRegister": register,
        "hostUnregister": gpu.pinned.remove,
    }
    stream = SimpleNamespace(ptr=0)
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(**names),
        Stream=lambda **_: stream,
        Event=lambda **_: SimpleNamespace(ptr=0, record=lambda stream: None),
        get_current_stream=lambda: stream,
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    return gpu


def test_a_gpu_that_has_failed_is_not_waited_for(gpu):
    copies = GPUCopies()
    source, to = values_of(8), np.zeros(8, np.uint8)
    has_ended = copies.start(to.ctypes.data, source.ctypes.data, 8)
    assert has_ended()
    gpu.status = 600  # cudaErrorNotReady
    assert not has_ended()
    assert not copies.when_ready()()
    gpu.status = 700  # cudaErrorIllegalAddress
    with pytest.raises(_FailedError, match="700"):
        has_ended()
    np.testing.assert_array_equal(to, source)


@pytest.mark.parametrize("refused", [False, True])
def test_memory_is_pinned_as_long_as_there_is_the_lane_and_where_that_is_allowed(gpu, refused):
    memory = np.zeros(NARROW.num_bytes, np.uint8)
    lane = SendingEnd(memory, NARROW, HostCopies())
    gpu.status = 1 if refused else 0
    pin(lane, memory)
    assert gpu.pinned == ([] if refused else [memory.ctypes.data])
    del lane
    assert gpu.pinned == []


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_exchange_through_lanes_what_they_should(mpirun, ranks):
    ended = mpirun(ranks, PROGRAMS / "through_lanes.py", ranks, "exchange")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "all is well"
    assert ended.orphans == []


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_rank_that_goes_in_the_middle_of_a_message_is_named(mpirun, way):
    settings = {"LLM_NUMBA_STALL_S": "3" if way == "stop" else "60"}
    ended = mpirun(2, PROGRAMS / "through_lanes.py", 2, way, **settings)
    assert ended.code != 0
    assert ended.since_fault < 10 + 3
    assert ended.orphans == []
    assert "ank 1" in ended.err
    if way == "stop":
        assert "Rank 1 did not come to send of 100000 float64 within 3 s" in ended.err
