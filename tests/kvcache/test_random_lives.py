"""Random lives of sequences in one cache, against lists of tokens.

Every token that is written gets a number of its own, stored in each layer's keys and values. After
each step every sequence must read back exactly its tokens: two sequences that shared a slot after
one of them wrote to it, or a copy that forgot a layer, show at once.
"""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from llm_numba import reference
from llm_numba.errors import CacheError
from llm_numba.kvcache import PagedKVCache

NUM_LAYERS = 2


class Lives(RuleBasedStateMachine):
    """`model` maps each table, by its number, to the tokens that it must hold."""

    names = Bundle("names")

    @initialize(block_size=st.sampled_from([4, 1, 3, 7]), num_blocks=st.integers(3, 40))
    def build(self, block_size, num_blocks):
        self.block_size = block_size
        self.cache = PagedKVCache(NUM_LAYERS, num_blocks, block_size, 1, 1, np.dtype(np.float64))
        self.tables = {}
        self.model = {}
        self.num_tokens_written = 0
        self.num_tables_made = 0

    def keep(self, table, tokens):
        name = self.num_tables_made
        self.num_tables_made += 1
        self.tables[name], self.model[name] = table, tokens
        return name

    @rule(target=names, count=st.integers(0, 9))
    def begin(self, count):
        name = self.keep(self.cache.new_table(), [])
        self.append(name, count)
        return name

    @rule(name=names, count=st.integers(0, 9))
    def append(self, name, count):
        table, allocator = self.tables[name], self.cache.allocator
        free = allocator.num_free
        before = list(table.blocks), table.num_tokens
        needed = table.blocks_to_reach(table.num_tokens + count)
        if needed > free:
            with pytest.raises(CacheError):
                table.append_slots(count)
            assert (table.blocks, table.num_tokens) == before
            assert allocator.num_free == free
            return
        slots = table.append_slots(count)
        assert free - allocator.num_free == needed
        assert len(slots) == count
        tokens = list(range(self.num_tokens_written, self.num_tokens_written + count))
        self.num_tokens_written += count
        self.model[name] = self.model[name] + tokens
        for layer, caches in enumerate(self.cache.layers):
            k, v = (np.array([written(t, layer, i) for t in tokens]) for i in range(2))
            where = np.array(slots, int)
            reference.write_kv(k.reshape(-1, 1, 1), v.reshape(-1, 1, 1), *caches, where)

    @rule(name=names, target=names)
    def fork(self, name):
        free = self.cache.allocator.num_free
        twin = self.keep(self.tables[name].fork(), list(self.model[name]))
        assert self.cache.allocator.num_free == free
        return twin

    @rule(name=names, part=st.floats(0, 1))
    def truncate(self, name, part):
        length = int(part * len(self.model[name]))
        self.tables[name].truncate(length)
        del self.model[name][length:]

    @rule(name=consumes(names))
    def free(self, name):
        table = self.tables.pop(name)
        table.free()
        table.free()  # what is empty may be freed again
        del self.model[name]

    @invariant()
    def every_sequence_reads_its_own_tokens(self):
        for name, tokens in self.model.items():
            table = self.tables[name]
            assert table.num_tokens == len(tokens)
            blocks = np.array(table.blocks, int)[None]
            for layer, caches in enumerate(self.cache.layers):
                for i, cache in enumerate(caches):
                    read = reference.gather_kv(cache, blocks, len(tokens)).ravel().tolist()
                    assert read == [written(t, layer, i) for t in tokens]

    @invariant()
    def no_table_holds_more_blocks_than_its_tokens_fill(self):
        for table in self.tables.values():
            assert len(table.blocks) == self.cache.blocks_for(table.num_tokens)
            assert len(set(table.blocks)) == len(table.blocks)

    @invariant()
    def a_block_is_free_or_in_a_table(self):
        held = [block for table in self.tables.values() for block in table.blocks]
        allocator = self.cache.allocator
        assert allocator.num_free == allocator.num_blocks - len(set(held))
        for block in set(held):
            assert allocator.is_shared(block) == (held.count(block) > 1)

    def teardown(self):
        for table in self.tables.values():
            table.free()
        assert self.cache.allocator.num_free == self.cache.allocator.num_blocks


def written(token, layer, which):
    """Return what a token's key (0) or value (1) holds in a layer."""
    return 4.0 * token + 2 * layer + which + 1


TestLives = Lives.TestCase
# The same lives on every machine; no deadline, for the machine may be busy.
TestLives.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
