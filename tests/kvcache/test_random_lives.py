"""Random lives of sequences in one cache, against a model of who may find what.

What is stored for a token stands for its keys and values: a number that belongs to the token *and
all before it*, since those change its keys too. After each step every sequence must read back its
own numbers. A slot with two writers, a copy that forgot a layer, a block that was found behind
another beginning or that was taken from its owner: all of them show at once.

The model keeps three things: the tokens of each sequence, the block that is known for each
beginning (until somebody writes to it), and the order in which blocks without owners came free.
"""

from dataclasses import dataclass

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
    precondition,
    rule,
    run_state_machine_as_test,
)

from llm_numba import reference
from llm_numba.errors import CacheError
from llm_numba.kvcache import BlockTable, PagedKVCache

NUM_LAYERS = 2


def texts(longest):
    """The same few texts, cut off at any length: many sequences begin alike."""
    return st.builds(
        lambda length, bits: [bits >> i & 1 for i in range(length)],
        st.integers(1, longest),
        st.sampled_from([0, 0b110, 0b1000_0000_0110]),
    )


registers = st.sampled_from([True, True, False])


@dataclass
class Life:
    """A sequence: the tokens that are known, its table, and how many blocks it has registered."""

    tokens: list[int]
    table: BlockTable
    num_registered: int = 0


class Lives(RuleBasedStateMachine):
    names = Bundle("names")
    num_steps = 0

    @initialize(block_size=st.sampled_from([4, 3, 2, 1]), num_blocks=st.sampled_from([16, 8, 30]))
    def build(self, block_size, num_blocks):
        self.block_size = block_size
        self.cache = PagedKVCache(
            NUM_LAYERS, num_blocks, block_size, 1, 1, np.dtype(np.float64), identity="a model"
        )
        self.allocator = self.cache.allocator
        self.lives = {}
        self.num_begun = 0
        self.known = {}  # tokens up to the end of a block -> the block that holds the last of them
        self.kept = []  # blocks that are known and nobody's, the one that came free first in front
        self.numbers = {}
        self.doubted = False

    # -- What happens to sequences ---------------------------------------------------------------

    # With few at a time each of them has a long life.
    @precondition(lambda self: len(self.lives) < 4)
    @rule(target=names, tokens=texts(24))
    def arrive(self, tokens):
        life = Life(tokens, self.cache.new_table())
        self.adopt(life)
        return self.keep(life)

    @rule(name=names, count=st.integers(0, 20), registers=registers)
    def prefill(self, name, count, registers):
        life = self.lives[name]
        self.compute(life, life.tokens, life.table.num_tokens + count, registers)

    @rule(name=names, new=texts(5), registers=registers)
    def decode(self, name, new, registers):
        life = self.lives[name]
        self.compute(life, life.tokens + new, len(life.tokens) + len(new), registers)

    @rule(name=names, unread=st.integers(0, 1))
    def register_late(self, name, unread):
        """Register what was computed before, perhaps without the last token."""
        life = self.lives[name]
        self.register(life, life.tokens[: len(life.tokens) - unread])

    @precondition(lambda self: len(self.lives) < 6)
    @rule(name=names, target=names)
    def fork(self, name):
        life, free = self.lives[name], self.allocator.num_free
        twin = Life(list(life.tokens), life.table.fork(), life.num_registered)
        assert self.allocator.num_free == free
        return self.keep(twin)

    @rule(name=names, count=st.integers(1, 9))
    def cut_back(self, name, count):
        life = self.lives[name]
        length = max(0, life.table.num_tokens - count)
        self.let_go(life, length)
        life.tokens = life.tokens[:length]

    @rule(name=names)
    def pre_empt(self, name):
        """Give all blocks back, and begin again with those that can still be found."""
        life = self.lives[name]
        self.let_go(life, 0)
        self.adopt(life)

    @rule(name=consumes(names))
    def end(self, name):
        life = self.lives.pop(name)
        self.let_go(life, 0)
        life.table.free()  # what is empty may be freed again

    @precondition(lambda self: self.num_begun > 5 and not self.doubted)
    @rule()
    def doubt(self):
        """All begin again in a cache that is as good as new."""
        self.doubted = True
        self.allocator.clear()
        self.known, self.kept = {}, []
        for life in self.lives.values():
            life.table = self.cache.new_table()
            self.adopt(life)

    # -- The same in the model -------------------------------------------------------------------

    def keep(self, life):
        self.num_begun += 1
        self.lives[self.num_begun] = life
        return self.num_begun

    def adopt(self, life):
        size, tokens = self.block_size, life.tokens
        expected = []
        while (len(expected) + 1) * size < len(tokens):
            block = self.known.get(tuple(tokens[: (len(expected) + 1) * size]))
            if block is None:
                break
            expected.append(block)
        assert life.table.adopt_prefix(tokens) == len(expected) * size
        assert life.table.blocks == expected
        self.kept = [block for block in self.kept if block not in expected]
        life.num_registered = len(expected)

    def compute(self, life, tokens, length, registers):
        if self.append(life, tokens, min(length, len(tokens)) - life.table.num_tokens):
            life.tokens = tokens
            if registers:
                self.register(life, tokens)

    def append(self, life, tokens, count):
        """Write tokens if there is room for them, and say whether there was."""
        table, free, kept = life.table, self.allocator.num_free, self.allocator.num_kept
        before, start = list(table.blocks), table.num_tokens
        needed = table.blocks_to_reach(start + count)
        if needed > free:
            with pytest.raises(CacheError):
                table.append_slots(count)
            assert (table.blocks, table.num_tokens) == (before, start)
            assert (self.allocator.num_free, self.allocator.num_kept) == (free, kept)
            return False
        slots = table.append_slots(count)
        taken = [block for block in table.blocks if block not in before]
        assert len(slots) == count
        assert len(taken) == needed == free - self.allocator.num_free
        # Nothing that is known is given up while a worthless block is free, and then the oldest.
        evicted = max(0, needed - (free - kept))
        assert {block for block in taken if block in self.kept} == set(self.kept[:evicted])
        self.kept = self.kept[evicted:]
        written = {slot // self.block_size for slot in slots}
        assert written.isdisjoint(b for other in self.others(life) for b in other.table.blocks)
        self.known = {k: block for k, block in self.known.items() if block not in written}
        numbers = [self.number(tokens[: p + 1]) for p in range(start, start + count)]
        self.write(slots, numbers)
        return True

    def register(self, life, tokens):
        life.table.register(tokens)
        size = self.block_size
        num_full = min(len(tokens), life.table.num_tokens) // size
        for i in range(life.num_registered, num_full):
            self.known.setdefault(tuple(tokens[: (i + 1) * size]), life.table.blocks[i])
        life.num_registered = max(life.num_registered, num_full)

    def let_go(self, life, length):
        before = list(life.table.blocks)
        life.table.truncate(length)
        held = {block for other in self.others(life) for block in other.table.blocks}
        freed = [b for b in reversed(before[len(life.table.blocks) :]) if b not in held]
        self.kept += [block for block in freed if block in self.known.values()]
        life.num_registered = min(life.num_registered, length // self.block_size)

    def others(self, life):
        return [other for other in self.lives.values() if other is not life]

    # -- What is stored --------------------------------------------------------------------------

    def number(self, tokens):
        """Return the number of a token and all before it."""
        return self.numbers.setdefault(tuple(tokens), len(self.numbers))

    def write(self, slots, numbers):
        for layer, caches in enumerate(self.cache.layers):
            k, v = (np.array([stored(n, layer, i) for n in numbers], float) for i in range(2))
            where = np.array(slots, int)
            reference.write_kv(k.reshape(-1, 1, 1), v.reshape(-1, 1, 1), *caches, where)

    # -- What must always hold -------------------------------------------------------------------

    @invariant()
    def every_sequence_reads_its_own_tokens(self):
        type(self).num_steps += 1
        for life in self.lives.values():
            length = life.table.num_tokens
            assert length <= len(life.tokens)
            blocks = np.array(life.table.blocks, int)[None]
            expected = [self.number(life.tokens[: p + 1]) for p in range(length)]
            for layer, caches in enumerate(self.cache.layers):
                for i, cache in enumerate(caches):
                    read = reference.gather_kv(cache, blocks, length).ravel().tolist()
                    assert read == [stored(n, layer, i) for n in expected]

    @invariant()
    def no_table_holds_more_blocks_than_its_tokens_fill(self):
        for life in self.lives.values():
            table = life.table
            assert len(table.blocks) == self.cache.blocks_for(table.num_tokens)
            assert len(set(table.blocks)) == len(table.blocks)

    @invariant()
    def a_block_is_in_a_table_or_free_and_known_ones_are_kept(self):
        held = [block for life in self.lives.values() for block in life.table.blocks]
        assert self.allocator.num_free == self.allocator.num_blocks - len(set(held))
        assert self.allocator.num_kept == len(self.kept)
        assert set(self.kept) == set(self.known.values()) - set(held)
        for block in set(held):
            assert self.allocator.is_shared(block) == (held.count(block) > 1)

    @invariant()
    def nobody_finds_more_or_less_than_is_known(self):
        findable = {b for b in range(self.allocator.num_blocks) if b in self.cache.prefix_cache}
        assert findable == set(self.known.values())

    def teardown(self):
        for life in self.lives.values():
            life.table.free()
        if self.lives:
            assert self.allocator.num_free == self.allocator.num_blocks


def stored(number, layer, which):
    """Return what a token's key (0) or value (1) holds in a layer."""
    return 4.0 * number + 2 * layer + which + 1


SHORT = settings(max_examples=150, stateful_step_count=50)
LONG = settings(SHORT, max_examples=800, stateful_step_count=80)


def test_short_lives():
    run_state_machine_as_test(Lives, settings=SHORT)


@pytest.mark.slow
def test_ten_thousand_steps():
    before = Lives.num_steps
    run_state_machine_as_test(Lives, settings=LONG)
    assert Lives.num_steps - before > 10_000
