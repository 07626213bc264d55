"""The memory behind the blocks."""

import numpy as np
import pytest

from llm_numba.kvcache import PagedKVCache


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_layer_has_keys_and_values_of_its_own_and_they_begin_as_zeros(dtype):
    kv = PagedKVCache(3, 5, 4, 2, 7, np.dtype(dtype))
    arrays = [array for layer in kv.layers for array in layer]
    assert len({id(array) for array in arrays}) == 6
    for array in arrays:
        assert array.shape == (6, 4, 2, 7)  # 5, and the one that no sequence gets
        assert array.dtype == dtype
        assert not array.any()


def test_copy_on_write_copies_keys_and_values_of_every_layer():
    kv = PagedKVCache(3, 4, 2, 2, 5, np.dtype(np.float64))
    table = kv.new_table()
    table.append_slots(3)
    rng = np.random.default_rng(0)
    for layer in kv.layers:
        for array in layer:
            array[:] = rng.normal(size=array.shape)
    before = [[array.copy() for array in layer] for layer in kv.layers]
    twin = table.fork()
    twin.append_slots(1)
    (source, target) = table.blocks[1], twin.blocks[1]
    assert source != target
    for layer, old in zip(kv.layers, before, strict=True):
        for array, was in zip(layer, old, strict=True):
            np.testing.assert_array_equal(array[target], was[source])
            others = [block for block in range(4) if block != target]
            np.testing.assert_array_equal(array[others], was[others])


@pytest.mark.parametrize(
    ("num_tokens", "blocks"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (257, 17)]
)
def test_a_begun_block_counts_as_a_block(num_tokens, blocks):
    assert PagedKVCache(0, 0, 16, 1, 1, np.dtype(np.float32)).blocks_for(num_tokens) == blocks


def test_the_block_that_no_sequence_gets_is_the_last_one():
    kv = PagedKVCache(1, 3, 4, 1, 1, np.dtype(np.float32))
    table = kv.new_table()
    table.append_slots(3 * 4)
    assert kv.allocator.num_free == 0
    assert kv.null_block not in table.blocks
    assert kv.null_block == len(kv.layers[0][0]) - 1


def test_the_bytes_of_all_layers_are_counted():
    assert PagedKVCache(3, 5, 4, 2, 7, np.dtype(np.float32)).num_bytes == 3 * 2 * 6 * 4 * 2 * 7 * 4
