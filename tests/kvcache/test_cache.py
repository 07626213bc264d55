"""The memory behind the blocks, and how much of the machine's it takes."""

import numpy as np
import pytest

from llm_numba.errors import CacheError
from llm_numba.kvcache import PagedKVCache, cache, check_num_blocks, default_num_blocks


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


@pytest.fixture
def available(monkeypatch):
    """Pretend that so many bytes of memory are available."""

    def pretend(num_bytes):
        monkeypatch.setattr(cache, "available_memory", lambda: num_bytes)

    return pretend


@pytest.mark.parametrize(
    ("num_bytes", "num_blocks"),
    [
        (10**9, 7 * 3),  # as many as 3 sequences of 7 blocks can fill
        (2 * 21 * 1000, 21),
        (2 * 21 * 1000 - 1, 20),  # half the memory holds no more
        (2 * 7 * 1000, 7),  # just one sequence
    ],
)
def test_half_the_available_memory_but_no_more_than_can_be_used(available, num_bytes, num_blocks):
    available(num_bytes)
    # 100 tokens in blocks of 16 are 7 blocks.
    assert default_num_blocks(1000, 16, max_model_len=100, max_num_seqs=3) == num_blocks


def test_too_little_memory_for_one_sequence_names_the_length_that_fits(available):
    available(2 * 7 * 10**9 - 1)
    with pytest.raises(CacheError) as caught:
        default_num_blocks(10**9, 16, max_model_len=100, max_num_seqs=3)
    assert "100 tokens takes 7.00 GB, more than 50% of the 14.00 GB" in caught.value.cause
    assert f"at most {6 * 16}" in caught.value.remedy
    assert default_num_blocks(10**9, 16, max_model_len=6 * 16, max_num_seqs=3) == 6


def test_the_weights_that_are_yet_to_be_read_leave_less_for_the_cache(available):
    available(2 * 21 * 1000 + 5000)
    assert default_num_blocks(1000, 16, 100, 10, weight_bytes=5000) == 21
    assert default_num_blocks(1000, 16, 100, 10, weight_bytes=7000) == 20


def test_no_memory_beside_the_weights_asks_for_a_smaller_model(available):
    available(1000)
    with pytest.raises(CacheError) as caught:
        default_num_blocks(1000, 16, 100, 10, weight_bytes=2000)
    assert "smaller model" in caught.value.remedy


def test_a_gpus_own_memory_counts_and_more_of_it(monkeypatch):
    monkeypatch.setattr(cache, "available_gpu_memory", lambda: 25_000)
    assert default_num_blocks(1000, 16, 100, 10, weight_bytes=5000, device="cuda") == 16
    with pytest.raises(CacheError) as caught:
        default_num_blocks(10**4, 16, 100, 10, device="cuda")
    assert "80% of the 0.00 GB of the GPU's memory" in caught.value.cause
    assert "at most 32," in caught.value.remedy
    with pytest.raises(CacheError) as caught:
        default_num_blocks(10**5, 16, 100, 10, device="cuda")
    assert caught.value.remedy == "Take a smaller model, or a GPU with more memory."


def test_the_blocks_that_a_user_asks_for_must_fit_the_gpu(monkeypatch):
    monkeypatch.setattr(cache, "available_gpu_memory", lambda: 25_000)
    check_num_blocks(20, 1000, 16, 100, weight_bytes=5000, device="cuda")
    with pytest.raises(CacheError) as caught:
        check_num_blocks(21, 1000, 16, 100, weight_bytes=5000, device="cuda")
    assert "of the GPU's memory are available beside the weights" in caught.value.cause
    assert caught.value.remedy == "Give at most 20 blocks."


def test_the_real_machine_has_room_for_a_small_cache():
    assert default_num_blocks(1024, 16, max_model_len=160, max_num_seqs=2) == 20
