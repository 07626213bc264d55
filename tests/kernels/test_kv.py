"""Scatter, gather and copy of a paged cache: the reference's bits, whatever bits they are."""

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.kv import copy_blocks, gather_kv, write_kv
from llm_numba.runtime import intercept, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
# [G, D] of rows in packets, of rows without, and of one that needs a second turn of its threads.
each_row = pytest.mark.parametrize("row", [(2, 8), (1, 1), (3, 5), (1, 24), (2, 31), (9, 256)])


def bits(shape, dtype, seed=0):
    """Make an array of random bits, NaN of all kinds among them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return (
        np.random.default_rng(seed).integers(256, size=size, dtype="u1").view(dtype).reshape(shape)
    )


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.view("u1"), expected.view("u1"))


def pages(row, dtype, num_blocks=7, block_size=5):
    return bits((num_blocks, block_size, *row), dtype, seed=1)


@each_row
@each_dtype
@pytest.mark.parametrize("num_tokens", [1, 4, 13])
def test_each_token_goes_to_its_slot_and_a_negative_slot_nowhere(num_tokens, dtype, row, device):
    k, v = bits((2, num_tokens, *row), dtype)
    k_cache, v_cache = pages(row, dtype), pages(row, dtype)[::-1].copy()
    slots = np.random.default_rng(2).permutation(35)[:num_tokens].astype("i4")
    slots[1::3] = [-1, -(2**31), -35, -2][: len(slots[1::3])]
    caches = [to_device(k_cache, device), to_device(v_cache, device)]
    write_kv(to_device(k, device), to_device(v, device), *caches, to_device(slots, device))
    reference.write_kv(k, v, k_cache, v_cache, slots)
    for n in np.flatnonzero(slots >= 0):
        assert_same_bits(k_cache[slots[n] // 5, slots[n] % 5], k[n])
    assert_same_bits(to_host(caches[0]), k_cache)
    assert_same_bits(to_host(caches[1]), v_cache)


@each_row
@each_dtype
@pytest.mark.parametrize("length", [1, 5, 9, 15])
def test_sequences_are_gathered_in_order(length, dtype, row, device):
    cache = pages(row, dtype)
    tables = np.array([[6, 0, 3], [1, 1, 2]], "i4")
    expected = reference.gather_kv(cache, tables, length)
    found = gather_kv(to_device(cache, device), to_device(tables, device), length)
    assert_same_bits(to_host(found), expected)
    out = to_device(np.zeros_like(expected), device)
    again = gather_kv(to_device(cache, device), to_device(tables, device), length, out=out)
    assert again is out
    assert_same_bits(to_host(out), expected)


@each_row
@each_dtype
def test_blocks_are_copied_and_the_rest_stays(dtype, row, device):
    cache = pages(row, dtype)
    on_device = to_device(cache, device)
    sources, targets = np.array([4, 0, 4], "i4"), np.array([1, 6, 2], "i4")
    copy_blocks(on_device, to_device(sources, device), to_device(targets, device))
    reference.copy_blocks(cache, sources, targets)
    assert_same_bits(to_host(on_device), cache)


def test_what_was_written_is_gathered(device):
    rows = bits((12, 2, 8), "bfloat16")
    caches = [to_device(pages((2, 8), "bfloat16"), device) for _ in range(2)]
    tables = np.array([[5, 0, 3]], "i4")
    positions = np.arange(12)
    slots = (tables[0, positions // 5] * 5 + positions % 5).astype("i4")
    write_kv(to_device(rows, device), to_device(rows, device), *caches, to_device(slots, device))
    for cache in caches:
        found = to_host(gather_kv(cache, to_device(tables, device), 12))
        assert_same_bits(found[0], rows)


@each_dtype
def test_arrays_may_begin_anywhere(dtype, device):
    whole = bits((7 * 5 * 16 + 1,), dtype)
    expected = whole.copy()
    reference.copy_blocks(expected[1:].reshape(7, 5, 2, 8), np.array([4]), np.array([1]))
    on_device = to_device(whole, device)
    pairs = [to_device(np.array([block], "i4"), device) for block in (4, 1)]
    copy_blocks(on_device[1:].reshape(7, 5, 2, 8), *pairs)
    assert_same_bits(to_host(on_device), expected)


@pytest.mark.parametrize(("row", "in_packets"), [((2, 8), True), ((1, 12), False), ((3, 5), False)])
def test_whole_packets_move_as_packets(row, in_packets):
    launches = []
    with intercept(launches.append):
        copy_blocks(
            to_device(pages(row, "bfloat16"), "sim"),
            *(to_device(np.array([block], "i4"), "sim") for block in (4, 1)),
        )
    (launch,) = launches
    assert (launch.args[0].dtype == np.int32) == in_packets


@pytest.mark.ptx
@pytest.mark.parametrize("row", [(2, 8), (3, 5)])
def test_every_kernel_compiles_without_float64_and_without_a_stack(row):
    if problem := compiler_problem():
        pytest.skip(problem)
    launches = []
    with intercept(launches.append):
        rows, cache = (to_device(np.zeros(s, "f4"), "sim") for s in ((3, *row), (7, 5, *row)))
        slots, tables = (to_device(np.zeros(s, "i4"), "sim") for s in (3, (2, 3)))
        write_kv(rows, rows, cache, cache, slots)
        gather_kv(cache, tables, 3)
        copy_blocks(cache, slots, slots)
    for launch in launches:
        found = resources(launch, (9, 0))
        assert not found.float64
        assert found.stack_bytes == 0


def test_nothing_to_do_is_no_error(device):
    empty_rows = to_device(np.zeros((0, 2, 8), "f4"), device)
    cache = to_device(pages((2, 8), "float32"), device)
    none = to_device(np.zeros(0, "i4"), device)
    tables = to_device(np.zeros((2, 3), "i4"), device)
    write_kv(empty_rows, empty_rows, cache, cache, none)
    copy_blocks(cache, none, none)
    assert gather_kv(cache, tables, 0).shape == (2, 0, 2, 8)
    assert gather_kv(cache, tables[:0], 3).shape == (0, 3, 2, 8)
    assert_same_bits(to_host(cache), pages((2, 8), "float32"))


ROWS = np.zeros((3, 2, 8), np.float32)
CACHE = np.zeros((7, 5, 2, 8), np.float32)
SLOTS = np.arange(3, dtype="i4")
TABLES = np.zeros((2, 3), "i4")


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (write_kv, (ROWS[0], ROWS[0], CACHE, CACHE, SLOTS), ["'k'", "3 axes"]),
        (write_kv, (ROWS.astype("i4"), ROWS, CACHE, CACHE, SLOTS), ["'k'", "int32"]),
        (write_kv, (ROWS, ROWS.astype("f2"), CACHE, CACHE, SLOTS), ["'v'", "float16"]),
        (write_kv, (ROWS, ROWS, CACHE[:, :, :1], CACHE, SLOTS), ["'k_cache'", "any, any, 2, 8"]),
        (write_kv, (ROWS, ROWS, CACHE, CACHE[:3], SLOTS), ["'v_cache'", "(7, 5, 2, 8)"]),
        (write_kv, (ROWS, ROWS, CACHE, CACHE, SLOTS[:2]), ["'slot_mapping'", "(3,)"]),
        (write_kv, (ROWS, ROWS, CACHE, CACHE, SLOTS.astype("i8")), ["'slot_mapping'", "int64"]),
        (gather_kv, (CACHE[0], TABLES, 3), ["'cache'", "4 axes"]),
        (gather_kv, (CACHE, TABLES[0], 3), ["'block_tables'", "2 axes"]),
        (gather_kv, (CACHE, TABLES, 16), ["'length'", "16", "from 0 to 15"]),
        (copy_blocks, (CACHE[0], SLOTS, SLOTS), ["'cache'", "4 axes"]),
        (copy_blocks, (CACHE, SLOTS.astype("i8"), SLOTS), ["'sources'", "int64"]),
        (copy_blocks, (CACHE, SLOTS, SLOTS[:2]), ["'targets'", "(3,)"]),
    ],
)
def test_wrong_arguments_are_named_with_what_is_needed(function, arguments, words, device):
    arguments = [
        to_device(np.ascontiguousarray(each), device) if isinstance(each, np.ndarray) else each
        for each in arguments
    ]
    with pytest.raises(KernelArgumentError) as refusal:
        function(*arguments)
    for word in words:
        assert word in str(refusal.value)
