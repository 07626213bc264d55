"""Block tables and the allocator, one small story each."""

import pytest

from llm_numba.errors import CacheError
from llm_numba.kvcache import BlockAllocator, BlockTable


@pytest.fixture
def copies():
    """The (source, target) pairs that were copied."""
    return []


@pytest.fixture
def make(copies):
    """Make an allocator of so many blocks and an empty table over it, in blocks of 4."""

    def make(num_blocks, block_size=4):
        allocator = BlockAllocator(num_blocks)
        return allocator, BlockTable(allocator, block_size, lambda a, b: copies.append((a, b)))

    return make


def test_slots_count_up_within_a_block_and_jump_between_blocks(make):
    allocator, table = make(9)
    allocator.allocate()  # block 0 is somebody else's
    assert table.append_slots(6) == [4, 5, 6, 7, 8, 9]
    other = allocator.allocate()
    assert other == 3
    assert table.append_slots(3) == [10, 11, 16]
    assert table.blocks == [1, 2, 4]
    assert table.num_tokens == 9


def test_no_token_takes_no_slot_and_no_block(make):
    allocator, table = make(2)
    assert table.append_slots(0) == []
    table.append_slots(3)
    table.fork()
    assert table.append_slots(0) == []
    assert allocator.num_free == 1
    assert table.append_slots(1) == [1 * 4 + 3], "in a copy, for the fork has the other"


@pytest.mark.parametrize(
    ("held", "goal", "blocks"),
    [(0, 0, 0), (0, 1, 1), (0, 4, 1), (0, 5, 2), (3, 4, 0), (4, 5, 1), (5, 12, 1), (9, 2, 0)],
)
def test_blocks_to_reach_counts_the_blocks_that_are_missing(make, held, goal, blocks):
    _, table = make(9)
    table.append_slots(held)
    assert table.blocks_to_reach(goal) == blocks


def test_a_fork_copies_the_half_full_block_once_one_of_the_two_grows(make, copies):
    allocator, table = make(9)
    table.append_slots(6)
    twin = table.fork()
    assert twin.blocks == table.blocks == [0, 1]
    assert twin.blocks_to_reach(7) == 1  # the copy
    assert twin.blocks_to_reach(9) == 2  # and a fresh one
    assert twin.blocks_to_reach(6) == 0
    assert twin.append_slots(1) == [2 * 4 + 2]
    assert copies == [(1, 2)]
    # The other now has the block to itself, and writes to it without a copy.
    assert table.append_slots(1) == [1 * 4 + 2]
    assert copies == [(1, 2)]
    assert allocator.is_shared(0)


def test_a_full_block_is_shared_for_good(make, copies):
    _, table = make(9)
    table.append_slots(4)
    twin = table.fork()
    assert table.append_slots(1) == [4]
    assert twin.append_slots(1) == [8]
    assert copies == []


def test_a_sequence_cut_back_into_a_shared_block_copies_before_it_writes(make, copies):
    _, table = make(9)
    table.append_slots(8)
    twin = table.fork()
    twin.truncate(6)
    assert twin.append_slots(2) == [2 * 4 + 2, 2 * 4 + 3]
    assert copies == [(1, 2)]
    assert table.blocks == [0, 1]


def test_truncation_gives_back_the_blocks_that_it_empties(make):
    allocator, table = make(9)
    table.append_slots(9)
    for length, free in [(9, 6), (8, 7), (5, 7), (4, 8), (1, 8), (0, 9)]:
        table.truncate(length)
        assert (table.num_tokens, allocator.num_free) == (length, free)


def test_a_table_cannot_be_truncated_to_more_than_it_has(make):
    _, table = make(9)
    table.append_slots(2)
    with pytest.raises(AssertionError, match="truncated"):
        table.truncate(3)


def test_a_full_cache_says_so_and_changes_nothing(make):
    allocator, table = make(3)
    table.append_slots(3)
    with pytest.raises(
        CacheError, match=r"3 more of the 3 blocks .* 2 are free\. Raise num_blocks"
    ):
        table.append_slots(10)
    assert (table.blocks, table.num_tokens, allocator.num_free) == ([0], 3, 2)
    assert table.append_slots(9) == list(range(3, 12))


def test_a_full_cache_undoes_no_sharing(make, copies):
    allocator, table = make(2)
    table.append_slots(2)
    twin = table.fork()
    with pytest.raises(CacheError):
        twin.append_slots(4)  # a copy and a fresh block, and only one is free
    assert twin.blocks == table.blocks == [0]
    assert allocator.num_free == 1
    assert copies == []


def test_a_fork_after_a_refusal_shares_no_slot_that_both_will_write(make):
    _, table = make(3)
    table.append_slots(4)
    with pytest.raises(CacheError):
        table.append_slots(9)
    twin = table.fork()
    assert table.append_slots(1) == [4]
    assert twin.append_slots(1) == [8]


def test_the_block_freed_last_is_handed_out_first():
    allocator = BlockAllocator(4)
    blocks = [allocator.allocate() for _ in range(4)]
    assert blocks == [0, 1, 2, 3]
    allocator.free(3)
    allocator.free(1)
    assert [allocator.allocate(), allocator.allocate()] == [1, 3]


def test_a_block_is_free_when_its_last_owner_lets_go():
    allocator = BlockAllocator(1)
    block = allocator.allocate()
    allocator.share(block)
    assert allocator.is_shared(block)
    allocator.free(block)
    assert not allocator.is_shared(block)
    assert allocator.num_free == 0
    allocator.free(block)
    assert allocator.num_free == 1


def test_what_is_required_must_be_free_and_is_not_taken():
    allocator = BlockAllocator(2)
    allocator.allocate()
    allocator.require(0)
    allocator.require(1)
    with pytest.raises(CacheError, match="1 are free"):
        allocator.require(2)
    assert allocator.num_free == 1
    assert allocator.allocate() == 1
    with pytest.raises(CacheError, match="0 are free"):
        allocator.allocate()


def test_a_free_block_can_be_neither_shared_nor_freed():
    allocator = BlockAllocator(1)
    with pytest.raises(AssertionError, match="cannot be shared"):
        allocator.share(0)
    with pytest.raises(AssertionError, match="free already"):
        allocator.free(0)
