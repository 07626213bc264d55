"""Prefixes that are found again: what is found, who may write where, who is evicted."""

import time
from hashlib import sha256

import numpy as np
import pytest

from llm_numba.kvcache import BlockAllocator, BlockTable, PagedKVCache, PrefixCache

PROMPT = list(range(100, 111))  # 11 tokens: two full blocks of 4 and three more


class Memory:
    """Blocks of 4 tokens, of which each table can be asked for by `new()`."""

    def __init__(self, num_blocks, identity="a model"):
        self.allocator = BlockAllocator(num_blocks, PrefixCache(identity, 4))
        self.prefix_cache = self.allocator.prefix_cache
        self.copies = []

    def new(self):
        return BlockTable(self.allocator, 4, lambda a, b: self.copies.append((a, b)))

    def compute(self, token_ids):
        """Return a table that holds a sequence, with all that was found for it."""
        table = self.new()
        table.adopt_prefix(token_ids)
        table.append_slots(len(token_ids) - table.num_tokens)
        table.register(token_ids)
        return table

    def findable(self):
        return {block for block in range(self.allocator.num_blocks) if block in self.prefix_cache}


@pytest.fixture
def memory():
    return Memory(8)


def test_a_second_prompt_begins_with_the_full_blocks_of_the_first(memory):
    first = memory.compute(PROMPT)
    second = memory.new()
    assert second.adopt_prefix(PROMPT) == 8
    assert second.num_tokens == 8
    assert second.blocks == first.blocks[:2]
    assert memory.allocator.is_shared(0)
    assert second.append_slots(3) == [12, 13, 14]
    assert memory.copies == []


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        (PROMPT[:3], 0),
        (PROMPT[:4], 0),  # its last token is to be computed, and so its only block
        (PROMPT[:5], 4),
        (PROMPT[:8], 4),
        (PROMPT[:9], 8),
        ([*PROMPT, 1, 2, 3], 8),  # the third block of the first was never full
        ([100, 101, 102, 1, *PROMPT[4:]], 0),
        ([*PROMPT[:7], 1, *PROMPT[8:]], 4),
        (PROMPT[4:], 0),  # the same tokens at another place
        ([], 0),
    ],
)
def test_only_full_blocks_behind_the_same_beginning_are_found(memory, prompt, found):
    memory.compute(PROMPT).free()
    assert memory.new().adopt_prefix(prompt) == found


def test_keys_and_values_of_another_model_are_not_found():
    ours, theirs = PrefixCache("a", 4), PrefixCache("b", 4)
    assert ours.next_key([], PROMPT) != theirs.next_key([], PROMPT)
    assert ours.next_key([], PROMPT) == PrefixCache("a", 4).next_key([], PROMPT)


def test_the_key_of_a_block_is_the_hash_of_its_tokens_behind_the_key_before():
    cache = PrefixCache("a", 2)
    root = sha256(b"a").digest()
    first = sha256(root + np.array([5, -6], "<i8").tobytes()).digest()
    second = sha256(first + np.array([7, 2**40], "<i8").tobytes()).digest()
    tokens = [5, -6, 7, 2**40, 9]
    assert cache.next_key([], tokens) == first
    assert cache.next_key([first], tokens) == second


def test_what_nobody_owns_is_kept_and_counts_as_free(memory):
    table = memory.compute(PROMPT)
    assert (memory.allocator.num_free, memory.allocator.num_kept) == (5, 0)
    table.free()
    assert (memory.allocator.num_free, memory.allocator.num_kept) == (8, 2)
    again = memory.compute(PROMPT)
    assert again.blocks[:2] == [0, 1]
    assert (memory.allocator.num_free, memory.allocator.num_kept) == (5, 0)


def test_no_kept_block_is_evicted_while_another_is_free(memory):
    memory.compute(PROMPT).free()
    other = memory.new()
    other.append_slots(6 * 4)
    assert memory.findable() == {0, 1}
    other.append_slots(1)
    assert memory.findable() == {0}


def test_the_end_of_a_prefix_is_evicted_before_its_beginning(memory):
    memory.compute(PROMPT[:9]).free()
    memory.new().append_slots(7 * 4)
    assert memory.new().adopt_prefix(PROMPT) == 4


def test_the_prefix_used_longest_ago_is_evicted_first(memory):
    a, b = [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]
    memory.compute(a).free()
    memory.compute(b).free()
    memory.compute(a).free()
    memory.new().append_slots(7 * 4)
    assert memory.prefix_cache.match(b) == ([], [])
    assert memory.new().adopt_prefix(a) == 4


def test_to_evict_takes_no_longer_the_more_were_evicted_before():
    num_blocks, part = 80_000, 4_000
    memory = Memory(num_blocks)
    memory.compute(range(4 * num_blocks)).free()
    assert memory.allocator.num_kept == num_blocks

    def evict():
        start = time.process_time()
        for _ in range(part):
            memory.allocator.allocate()
        return time.process_time() - start

    seconds = [evict() for _ in range(num_blocks // part)]
    assert min(seconds[-5:]) < 4 * min(seconds[:5])


def test_adopted_blocks_are_not_evicted(memory):
    memory.compute(PROMPT).free()
    table = memory.new()
    table.adopt_prefix(PROMPT)
    assert memory.allocator.num_free == 6
    memory.new().append_slots(6 * 4)
    assert memory.findable() == set(table.blocks) == {0, 1}


def test_of_two_that_compute_the_same_the_first_to_register_is_found(memory):
    first, second = memory.new(), memory.new()
    first.append_slots(8)
    second.append_slots(8)
    first.register(PROMPT)
    second.register(PROMPT)
    assert memory.findable() == {0, 1}
    second.free()
    assert memory.allocator.num_kept == 0  # nobody would ever find these
    third = memory.new()
    third.adopt_prefix(PROMPT)
    assert third.blocks == first.blocks


def test_behind_a_block_that_another_registered_a_sequence_registers_its_own(memory):
    first, second = memory.new(), memory.new()
    first.append_slots(4)
    second.append_slots(8)
    first.register(PROMPT)
    second.register(PROMPT)
    third = memory.new()
    third.adopt_prefix(PROMPT)
    assert third.blocks == [first.blocks[0], second.blocks[1]]


def test_a_token_that_is_not_known_yet_keeps_its_block_from_being_found(memory):
    table = memory.new()
    table.append_slots(8)
    table.register(PROMPT[:7])
    assert memory.findable() == {0}
    table.register(PROMPT[:8])
    assert memory.findable() == {0, 1}


def test_a_token_that_is_not_computed_yet_keeps_its_block_from_being_found(memory):
    table = memory.new()
    table.append_slots(7)
    table.register(PROMPT)
    assert memory.findable() == {0}
    table.append_slots(1)
    table.register(PROMPT)
    assert memory.findable() == {0, 1}


def test_a_sequence_cut_back_into_its_registered_block_is_not_found_by_its_old_end(memory):
    table = memory.compute(PROMPT)
    table.truncate(6)
    assert memory.findable() == {0, 1}  # nothing was written over yet
    assert table.append_slots(3) == [6, 7, 8]
    assert memory.findable() == {0}
    table.register([*PROMPT[:6], 1, 2, 3])
    assert memory.new().adopt_prefix(PROMPT) == 4
    assert memory.new().adopt_prefix([*PROMPT[:6], 1, 2, 3]) == 8
    assert memory.copies == []


def test_a_sequence_cut_back_into_a_block_that_another_adopted_copies_it(memory):
    table = memory.compute(PROMPT)
    other = memory.new()
    other.adopt_prefix(PROMPT)
    table.truncate(6)
    table.append_slots(2)
    assert memory.copies == [(1, table.blocks[1])]
    assert other.blocks == [0, 1]
    assert memory.findable() == {0, 1}
    table.register([*PROMPT[:6], 1, 2])
    assert memory.findable() == {0, 1, table.blocks[1]}


def test_samples_of_one_prompt_register_the_blocks_in_which_they_part(memory):
    table = memory.compute(PROMPT)
    twin = table.fork()
    for sample, token in [(table, 1), (twin, 2)]:
        sample.append_slots(1)
        sample.register([*PROMPT, token])
    assert memory.copies == [(2, 3)]
    assert memory.findable() == {0, 1, 2, 3}
    for token, block in [(1, 3), (2, 2)]:
        assert memory.prefix_cache.match([*PROMPT, token, 0])[1] == [0, 1, block]


def test_what_is_in_doubt_is_found_by_nobody_and_free_again(memory):
    memory.compute(PROMPT).free()
    memory.compute(PROMPT[:9])
    memory.allocator.clear()
    assert memory.findable() == set()
    assert (memory.allocator.num_free, memory.allocator.num_kept) == (8, 0)
    assert memory.new().adopt_prefix(PROMPT) == 0


def test_a_table_with_tokens_adopts_nothing(memory):
    table = memory.compute(PROMPT)
    with pytest.raises(AssertionError, match="cannot adopt"):
        table.adopt_prefix(PROMPT)


def test_switched_off_nothing_is_found_and_nothing_kept():
    cache = PagedKVCache(0, 8, 4, 1, 1, np.dtype(np.float32))
    assert cache.prefix_cache is None
    table = cache.new_table()
    table.append_slots(len(PROMPT))
    table.register(PROMPT)
    table.free()
    assert cache.allocator.num_kept == 0
    assert cache.new_table().adopt_prefix(PROMPT) == 0


def test_the_cache_of_a_named_model_finds_prefixes():
    cache = PagedKVCache(0, 8, 4, 1, 1, np.dtype(np.float32), identity="storyteller")
    table = cache.new_table()
    table.append_slots(len(PROMPT))
    table.register(PROMPT)
    assert cache.new_table().adopt_prefix(PROMPT) == 8


def test_a_block_has_one_key():
    cache = PrefixCache("a", 4)
    cache.add(b"first", 3)
    with pytest.raises(AssertionError, match="block 3 has two keys"):
        cache.add(b"second", 3)
    cache.forget(3)
    cache.add(b"second", 3)
    assert 3 in cache
