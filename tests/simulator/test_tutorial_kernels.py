"""Kernels in the style of tutorials, from outside this package, run as they are.

`strangers/` holds them: nothing there knows of the simulator, or was written for it.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from llm_numba.simulator import simulate

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of `strangers/` as in its author's directory.

    Some modules say ``from .helpers import ...``, some ``import helpers``.
    """
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(HERE / "strangers")
    before = set(sys.modules)
    yield lambda name: importlib.import_module(f"strangers.{name}")
    for name in set(sys.modules) - before:
        if name == "helpers" or name.partition(".")[0] == "strangers":
            del sys.modules[name]


@pytest.fixture(params=["ordered", *SEEDS])
def order(request: pytest.FixtureRequest) -> dict[str, object]:
    """The order of threads, as arguments of ``simulate``."""
    if request.param == "ordered":
        return {"schedule": "ordered"}
    return {"schedule": "random", "seed": request.param}


def test_block_reduction_with_shuffles(stranger, order):
    array = np.arange(1, 778, dtype=np.float32)
    result = np.zeros(1, np.float32)
    simulate(stranger("reduction").reduce_sum, 3, 128, (array, result), **order)
    assert result[0] == array.sum()


def test_histogram_with_shared_atomics(stranger, order):
    data = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
    hist = np.zeros(256, np.int32)
    simulate(stranger("histogram").histogram256, 2, 96, (data, hist), **order)
    np.testing.assert_array_equal(hist, np.bincount(data, minlength=256))


@pytest.mark.parametrize("steps", [1, 6])
def test_cooperative_grid_in_step(stranger, order, steps):
    u = np.random.default_rng(1).random(70)
    v = np.empty_like(u)
    want = u.copy()
    for _ in range(steps):
        want[1:-1] += 0.2 * (want[:-2] - 2 * want[1:-1] + want[2:])
    simulate(stranger("heat").heat_1d, 3, 32, (u, v, 0.2, steps), **order)
    np.testing.assert_allclose(v if steps % 2 else u, want, rtol=1e-14)


def test_mutex_with_compare_and_swap(stranger, order):
    a, b = np.arange(300.0), np.arange(300.0) % 7
    mutex, c = np.zeros(1, np.int32), np.zeros(1)
    simulate(stranger("spin_lock").dot, 5, 64, (mutex, a, b, c), **order)
    assert c[0] == a @ b
    assert mutex[0] == 0


def test_stencil_with_halo_and_device_functions_of_another_module(stranger, order):
    img = np.random.default_rng(2).random((21, 37), np.float32)
    out = np.full_like(img, np.nan)
    simulate(stranger("blur").blur, (3, 2), (16, 16), (img, out, 1.5), **order)
    offsets = np.arange(-2, 3)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(img, 2, mode="edge"), (5, 5))
    # Sums in float64, stored as float32: half a unit in the last place, and a little.
    want = np.einsum("yxij,ij->yx", windows, weights) / weights.sum()
    np.testing.assert_allclose(out, want, rtol=1e-7)


def test_warp_aggregated_atomics(stranger, order):
    src = np.random.default_rng(3).integers(-50, 50, 150).astype(np.int32)
    dst, counter = np.zeros_like(src), np.zeros(1, np.int32)
    kernel = stranger("stream_compaction").filter_positive
    simulate(kernel, 2, 96, (src, dst, counter), **order)
    positive = src[src > 0]
    assert counter[0] == len(positive)
    np.testing.assert_array_equal(np.sort(dst[: len(positive)]), np.sort(positive))


def test_counting_by_key_with_match(stranger, order):
    keys = np.random.default_rng(4).integers(0, 6, 150).astype(np.int32)
    counts = np.zeros(6, np.int32)
    simulate(stranger("stream_compaction").count_by_key, 2, 96, (keys, counts), **order)
    np.testing.assert_array_equal(counts, np.bincount(keys))


def test_monte_carlo_in_float64(stranger, order):
    """The generator of Numba for the GPU, against the same one for the CPU."""
    from numba.cuda.random import (
        init_xoroshiro128p_states_cpu,
        xoroshiro128p_dtype,
        xoroshiro128p_uniform_float64,
    )

    states = np.empty(40, xoroshiro128p_dtype)
    init_xoroshiro128p_states_cpu(states, 7, 0)
    own = states.copy()
    darts = np.array(
        [[xoroshiro128p_uniform_float64(own, i) for _ in range(50)] for i in range(40)]
    )
    want = 4 * (darts[:, ::2] ** 2 + darts[:, 1::2] ** 2 <= 1).mean(axis=1)
    out = np.zeros(40)
    simulate(stranger("monte_carlo").compute_pi, 1, 40, (states, 25, out), **order)
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(states, own)
    assert 2.9 < out.mean() < 3.4


def test_mandelbrot_in_complex_numbers(stranger, order):
    image = np.zeros((9, 20), np.uint8)
    args = (-2.0, 1.0, -1.0, 1.0, image, 30)
    simulate(stranger("mandelbrot").mandelbrot, (2, 1), (8, 4), args, **order)
    y, x = np.mgrid[0:9, 0:20]
    c = -2.0 + x * (3.0 / 20) + 1j * (-1.0 + y * (2.0 / 9))
    z, want = np.zeros_like(c), np.full(c.shape, 30)
    for i in range(30):
        z = np.where(want == 30, z * z + c, z)
        want[(want == 30) & (z.real**2 + z.imag**2 >= 4)] = i
    np.testing.assert_array_equal(image, want)


def test_sorting_network_in_dynamic_shared_memory(stranger, order):
    keys = np.random.default_rng(5).integers(-1000, 1000, 128).astype(np.int32)
    want = np.sort(keys)
    kernel = stranger("bitonic_sort").bitonic_sort
    simulate(kernel, 1, 128, (keys,), shared_bytes=4 * 128, **order)
    np.testing.assert_array_equal(keys, want)


def test_filter_in_constant_memory(stranger, order):
    signal = np.arange(104, dtype=np.float32) % 9
    out = np.zeros(100, np.float32)
    simulate(stranger("convolution").convolve, 4, 32, (signal, out), **order)
    taps = [0.25, 0.5, 1.0, 0.5, 0.25]
    np.testing.assert_array_equal(out, np.convolve(signal, taps, mode="valid"))
