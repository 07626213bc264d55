"""How many blocks a cache gets, and what those are told for whom it does not suffice."""

import pytest

from llm_numba.errors import CacheError, EngineError
from llm_numba.kvcache import Needs, Room, gpu_limit, gpu_num_blocks, host_num_blocks

GIB = 2**30
# 100 tokens in blocks of 16 are 7 blocks, and 3 sequences fill 21.
ROOM = Room(1000, 16, max_model_len=100, max_num_seqs=3)


# -- In main memory ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "num_blocks"),
    [
        (10**9, 7 * 3),  # as many as 3 sequences of 7 blocks can fill
        (2 * 21 * 1000, 21),
        (2 * 21 * 1000 - 1, 20),  # half the memory holds no more
        (2 * 7 * 1000, 7),  # just one sequence
    ],
)
def test_half_the_available_memory_but_no_more_than_can_be_used(available, num_blocks):
    assert host_num_blocks(available, 0, ROOM) == num_blocks


def test_too_little_memory_for_one_sequence_names_the_length_that_fits():
    available = 2 * 7 * 10**9 - 1
    with pytest.raises(CacheError) as caught:
        host_num_blocks(available, 0, Room(10**9, 16, 100, 3))
    assert "100 tokens takes 7.00 GB, more than 50% of the 14.00 GB" in caught.value.cause
    assert f"at most {6 * 16}" in caught.value.remedy
    assert host_num_blocks(available, 0, Room(10**9, 16, 6 * 16, 3)) == 6


def test_the_weights_that_are_yet_to_be_read_leave_less_for_the_cache():
    available = 2 * 21 * 1000 + 5000
    assert host_num_blocks(available, 5000, ROOM) == 21
    assert host_num_blocks(available, 7000, ROOM) == 20


def test_no_memory_beside_the_weights_asks_for_a_smaller_model():
    with pytest.raises(CacheError, match="or take a smaller model or a machine"):
        host_num_blocks(1000, 2000, ROOM)


def test_the_blocks_that_a_user_asks_for_must_fit_beside_the_weights():
    assert host_num_blocks(25_000, 5000, ROOM, num_blocks=20) == 20
    with pytest.raises(CacheError, match="Give at most 20 blocks"):
        host_num_blocks(25_000, 5000, ROOM, num_blocks=21)


def test_fewer_blocks_than_one_sequence_needs_are_refused_wherever_they_are():
    with pytest.raises(CacheError, match="Give at least 7 blocks, or lower max_model_len"):
        host_num_blocks(10**9, 0, ROOM, num_blocks=6)
    with pytest.raises(CacheError, match="Give at least 7 blocks, or lower max_model_len"):
        gpu_num_blocks(10**9, Needs(0, 0, 0), ROOM, num_blocks=6)


# -- What an engine may take of a GPU ------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "choice", "limit"),
    [
        (80 * GIB, {}, 72 * GIB),
        (40 * GIB, {}, 36 * GIB),  # of what others left
        (80 * GIB, {"gpu_memory_utilization": 0.5}, 40 * GIB),
        (40 * GIB, {"gpu_memory_utilization": 0.5}, 40 * GIB),  # of the whole card all the same
        (80 * GIB, {"gpu_memory_utilization": 1}, 80 * GIB),
        (80 * GIB, {"gpu_memory_gb": 2.5}, 5 * GIB // 2),
    ],
)
def test_a_part_of_the_card_or_a_cap(free, choice, limit):
    assert gpu_limit(80 * GIB, free, **choice) == limit


@pytest.mark.parametrize(
    "choice",
    [
        {"gpu_memory_utilization": 0},
        {"gpu_memory_utilization": 1.01},
        {"gpu_memory_utilization": float("nan")},
        {"gpu_memory_utilization": True},
        {"gpu_memory_utilization": "half"},
        {"gpu_memory_gb": -1},
        {"gpu_memory_gb": 80.1},
    ],
)
def test_a_part_that_is_none_is_refused(choice):
    (name,) = choice
    with pytest.raises(EngineError, match=f"{name}=.* out of range.*at most (1|80)"):
        gpu_limit(80 * GIB, 80 * GIB, **choice)


def test_only_one_of_the_two_may_be_given():
    with pytest.raises(EngineError, match="Give one of them"):
        gpu_limit(80 * GIB, 80 * GIB, 0.9, 70)


@pytest.mark.parametrize(
    ("choice", "advice"),
    [({"gpu_memory_utilization": 0.9}, 0.12), ({"gpu_memory_gb": 72}, 10.2)],
)
def test_what_is_not_free_cannot_be_promised_and_what_is_advised_can(choice, advice):
    free = int(10.2 * GIB) + 1
    with pytest.raises(EngineError) as caught:
        gpu_limit(80 * GIB, free, **choice)
    assert "allows the engine 72.0 GiB of the GPU's 80.0 GiB, and 10.2 GiB are free" in str(
        caught.value
    )
    (name,) = choice
    assert caught.value.remedy.endswith(f"set {name} to at most {advice}.")
    assert gpu_limit(80 * GIB, free, **{name: advice}) <= free


# -- What is left of that for blocks -------------------------------------------------------------


def test_the_cache_gets_what_is_left_but_for_the_block_that_no_sequence_gets():
    needs = Needs(weights=5000, activations=300, reserve=700)
    assert gpu_num_blocks(6000 + 22_000, needs, ROOM) == 21
    assert gpu_num_blocks(6000 + 21_999, needs, ROOM) == 20
    assert gpu_num_blocks(10**9, needs, ROOM) == 21
    assert gpu_num_blocks(10**9, needs, ROOM, num_blocks=500) == 500
    assert gpu_num_blocks(6000 + 8000, needs, ROOM) == 7


def test_a_sequence_that_does_not_fit_names_the_length_that_does():
    with pytest.raises(CacheError) as caught:
        gpu_num_blocks(20 * GIB, Needs(10 * GIB, GIB, GIB), Room(GIB, 16, 200, 3))
    assert "one sequence of 200 tokens takes 14.0 GiB. The engine may take 20.0 GiB" in str(
        caught.value
    )
    assert "leave 8.0 GiB" in caught.value.cause
    assert caught.value.remedy.startswith("Set max_model_len to at most 112, let the engine")
    assert gpu_num_blocks(20 * GIB, Needs(10 * GIB, GIB, GIB), Room(GIB, 16, 112, 3)) == 7


def test_more_blocks_than_fit_are_refused_with_the_number_that_fits():
    needs = Needs(5000, 300, 700)
    with pytest.raises(CacheError, match=r"num_blocks=22 .* Give at most 21 blocks"):
        gpu_num_blocks(6000 + 22_000, needs, ROOM, num_blocks=22)
    assert gpu_num_blocks(6000 + 22_000, needs, ROOM, num_blocks=21) == 21


def test_where_no_block_fits_no_length_is_advised():
    with pytest.raises(CacheError, match=r"leave 1 MiB\. Let the engine take more"):
        gpu_num_blocks(GIB + 2**20, Needs(GIB, 0, 0), Room(2**20, 16, 16, 1))


def test_weights_that_do_not_fit_are_told_before_they_are_read():
    with pytest.raises(EngineError) as caught:
        gpu_num_blocks(16 * GIB, Needs(16 * GIB, GIB, GIB // 2), ROOM)
    assert caught.value.cause == (
        "Out of device memory: the weights take 16.0 GiB and CUDA itself 512 MiB, and the engine "
        "may take 16.0 GiB of the GPU's memory."
    )
    assert "gpu_memory_utilization" in caught.value.remedy


def test_a_step_that_does_not_fit_beside_the_weights_asks_for_smaller_steps():
    with pytest.raises(EngineError, match=r"largest step takes 1\.0 GiB.*Lower max_num_batched"):
        gpu_num_blocks(16 * GIB, Needs(15 * GIB, GIB, GIB // 2), ROOM)
