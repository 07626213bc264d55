"""Tensor maps: passed by value, made anew for other arrays, and captured in graphs as they are."""

import struct
import sys
from array import array as words_of

import numpy as np
import pytest
from made_up import Kernel, array
from numba import cuda, uint64

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime import empty, launch, tensor_map, tensor_maps
from llm_numba.runtime.tensor_maps import TensorMap

ROWS, COLUMNS = 8, 64


def copied(factor, x_map, y, y_map):
    pass


COPIED = Kernel(copied)


@pytest.fixture
def encoded(gpu, monkeypatch):
    """The driver's part: words that tell of what they were made."""

    def encode(address, shape, dtype, rows):
        return words_of("q", [address, *shape, len(dtype), rows, *range(11)])

    monkeypatch.setattr(sys.modules["llm_numba.runtime.tensor_maps"], "_encoded", encode)
    return gpu


def halves(*shape):
    return array(shape, np.float16)


def maps(queued):
    """The two maps of a launch, each as its 16 words."""
    return [struct.unpack("<16q", each) for each in queued.parameters if len(each) == 128]


def test_a_map_is_one_parameter_of_128_bytes(encoded):
    x, y = halves(5, 8), halves(3, 8)
    launch(COPIED, 1, 32, (2.5, tensor_map(x, 64), y, tensor_map(y, 32)))
    lengths = [len(each) for each in encoded.launches[-1].parameters]
    assert lengths == [8, 128, *[8] * 9, 128]
    of_x, of_y = maps(encoded.launches[-1])
    assert of_x == (x.data.ptr, 5, 8, 7, 64, *range(11))
    assert of_y == (y.data.ptr, 3, 8, 7, 32, *range(11))


def test_a_repetition_has_maps_of_its_own_arrays(encoded):
    calls = []

    def copy(x):
        calls.append(x)
        both = empty((2, *x.shape), x.dtype, like=x)
        # Of an array that was allocated, and not of its beginning.
        launch(COPIED, 1, 32, (1.0, tensor_map(x, 64), both, tensor_map(both[1], 64)))
        return both[1]

    replays = encoded.replays.Replays(copy)
    for _ in range(3):
        x = halves(5, 8)
        out = replays(x)
        of_x, of_out = maps(encoded.launches[-1])
        assert (of_x[0], of_out[0]) == (x.data.ptr, out.data.ptr)
        assert of_out[1:] == (5, 8, 7, 64, *range(11))
    assert len(calls) == 1


def test_a_map_of_memory_from_elsewhere_is_never_repeated(encoded):
    kept = halves(5, 8)
    replays = encoded.replays.Replays(
        lambda x: launch(COPIED, 1, 32, (1.0, tensor_map(x, 64), x, tensor_map(kept, 64)))
    )
    for _ in range(2):
        replays(halves(5, 8))
    assert not replays._known


def test_the_driver_is_asked_once_for_what_lies_at_one_place(encoded):
    """What is kept is numbers alone; weights, which do not move, have their maps for good."""
    module = sys.modules["llm_numba.runtime.tensor_maps"]
    x = halves(5, 8)
    assert tensor_map(x, 64).words() == module._encoded(x.data.ptr, (5, 8), "float16", 64)
    assert tensor_map(x, 64).form.words(4096)[0] == 4096


# -- On a GPU -----------------------------------------------------------------------------------


def copying():
    """Make a kernel that brings a tile of one matrix and takes it to another."""

    @cuda.jit
    def kernel(x_map, out_map):
        x_map, out_map = ptx.parameter(x_map), ptx.parameter(out_map)
        tile = cuda.shared.array(0, np.float16)
        bars = cuda.shared.array(1, uint64)
        first = -int(ptx.shared_address(tile, 0)) % 1024 // 2
        if cuda.threadIdx.x == 0:
            ptx.mbarrier_init(bars, 0, 1)
            ptx.fence_async()
            ptx.mbarrier_expect(bars, 0, 2 * ROWS * COLUMNS)
            ptx.tma_load_2d(tile, first, x_map, 0, 0, bars, 0)
            while not ptx.mbarrier_test(bars, 0, 0):
                pass
            ptx.tma_store_2d(tile, first, out_map, 0, 0)
            ptx.bulk_commit()
            ptx.bulk_wait(0)

    return kernel


COPYING = copying()


def copy(x, out=None):
    out = empty(x.shape, x.dtype, like=x) if out is None else out
    args = tensor_map(x, ROWS), tensor_map(out, ROWS)
    launch(COPYING, 1, 32, args, 2 * ROWS * COLUMNS + 1024)
    return out


def numbers(seed):
    rng = np.random.default_rng(seed)
    return runtime.to_device(rng.standard_normal((ROWS, COLUMNS)).astype(np.float16), "cuda")


def _skip_without_engine(x):
    if not runtime.has_capability(x, (9, 0)):
        pytest.skip("this GPU has no copy engine for tiles")


@pytest.mark.gpu
def test_a_repetition_copies_what_it_was_given_on_a_gpu():
    from llm_numba.runtime.replays import Replays

    _skip_without_engine(numbers(0))
    replays = Replays(copy)
    kept = [(x, replays(x)) for x in map(numbers, range(5))]
    for x, out in kept:
        assert bool((x == out).all())
    assert len(replays._known) == 1


@pytest.mark.gpu
def test_a_graph_keeps_its_maps_whatever_is_made_after_it():
    """Graphs hold maps by value: neither other maps nor other graphs change them."""
    pairs = [(numbers(seed), numbers(9)) for seed in (0, 1)]
    _skip_without_engine(pairs[0][0])
    copy(*pairs[0])
    graphs = [runtime.capture(lambda pair=pair: copy(*pair)) for pair in pairs]
    runtime.tensor_maps._encoded.cache_clear()
    copy(numbers(2))
    for seed in (3, 4):
        for i, ((x, out), graph) in enumerate(zip(pairs, graphs, strict=True)):
            x[...] = numbers(10 * seed + i)
            graph.launch()
            assert bool((out == x).all())


@pytest.mark.gpu
def test_the_driver_takes_a_map_for_each_dtype_and_refuses_none():
    x = numbers(0)
    _skip_without_engine(x)
    for dtype in ("float16", "bfloat16"):
        words = TensorMap(runtime.empty((64, 64), dtype, like=x), 64).words()
        assert len(words) == 16
        assert any(words)


@pytest.mark.ptx
@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("float16", "FLOAT16"),
        ("bfloat16", "BFLOAT16"),
        ("float32", "FLOAT32"),
        ("int8", "UINT8"),
        ("uint8", "UINT8"),
    ],
)
def test_the_driver_has_a_name_for_each_format(dtype, name):
    """Without a GPU nothing else asks cuda-bindings, whose enumerations differ by version."""
    assert tensor_maps._format_of(dtype).name == f"CU_TENSOR_MAP_DATA_TYPE_{name}"
