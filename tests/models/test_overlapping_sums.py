"""A product in chunks, each added up over ranks while the next is multiplied.

There are no streams here. The simulator shows that the numbers are right; a stand-in for CuPy notes
what each stream does after what, and so which work is ordered, whatever the GPU does first.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from splitting import files_of

from llm_numba import ops
from llm_numba.models import Execution, rank_config, split_model, tensor_parallel
from llm_numba.models.tensor_parallel import composites_of
from llm_numba.parallel import run_ranks
from llm_numba.runtime import beside, side_stream, to_device, to_host

ROWS = 7


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Three chunks, the last of one row."""
    monkeypatch.setattr(tensor_parallel, "CHUNK_ROWS", 3)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def closing(tensor, device, arrays, residual, norm, **switches):
    """Close a block on a rank: the stream and its norm."""
    config = files_of("llama-biases").config
    partition = split_model(config, tensor)
    run = composites_of(rank_config(config, partition), Execution(**switches), partition)
    if device == "sim":
        placed = (to_device(each.astype("f4"), "sim") for each in (*arrays, residual, norm))
        *arrays, residual, norm = placed
    bias = arrays[2] if tensor.rank == 0 else None
    return run.close(*arrays[:2], bias, residual, norm)


@pytest.mark.parametrize("fuse_norms", [True, False])
@pytest.mark.parametrize("close_with_norm", [True, False])
def test_chunks_are_the_rows_of_the_whole(close_with_norm, fuse_norms):
    E, K = files_of("llama-biases").config.hidden_size, 6
    x, weight, bias = random(ROWS, 2 * K), random(E, 2 * K), random(E)
    residual, scales = random(ROWS, E, seed=1), random(E, seed=2)
    switches = {"close_with_norm": close_with_norm, "fuse_norms": fuse_norms}
    asked = []

    def close(tensor):
        part = slice(tensor.rank * K, (tensor.rank + 1) * K)
        arrays = [np.ascontiguousarray(each[:, part]) for each in (x, weight)] + [bias]
        sums, tensor.all_reduce = tensor.all_reduce, lambda y: asked.append(len(y)) or sums(y)
        r, normed = closing(tensor, "sim", arrays, residual, scales, overlap_sums=True, **switches)
        return to_host(r), None if isinstance(normed, tuple) else to_host(normed)

    exact = x @ weight.T + bias + residual
    normed = ops.rms_norm(exact, scales, files_of("llama-biases").config.norm_eps)
    # Sums of 2 K + 2 terms of size 1, in float32; what is normalised is divided by its row's size.
    bound = (2 * K + 2) * np.finfo("f4").eps
    for found, found_normed in run_ranks(2, close):
        assert np.abs(found - exact).max() <= bound * np.abs(exact).max()
        if found_normed is not None:
            error = np.abs(found_normed - normed).max()
            assert error <= (2 * bound + (E + 4) * np.finfo("f4").eps) * np.abs(normed).max()
        else:
            assert fuse_norms
            assert not close_with_norm
    assert sorted(asked) == [1, 1, 3, 3, 3, 3]


# -- What waits for what ------------------------------------------------------------------------


class Stream:
    """A stream that knows, of all that was queued, what comes before its next work."""

    def __init__(self, streams, **options):
        self.streams, self.options = streams, options
        self.known, self.behind = set(), {}

    def record(self, event):
        event.known = set(self.known)
        return event

    def wait_event(self, event):
        self.known |= event.known

    def work(self, name):
        self.behind[name] = set(self.known)
        self.known.add(name)

    def __enter__(self):
        self.streams.append(self)

    def __exit__(self, *error):
        self.streams.pop()


@pytest.fixture(name="gpu")
def _gpu(monkeypatch):
    """A made-up CuPy: its streams, and `work(name)`, which is queued on the current one."""
    current, made, order = [], [], []

    def stream(**options):
        made.append(Stream(current, **options))
        return made[-1]

    cuda = SimpleNamespace(
        Stream=stream,
        Event=lambda disable_timing: SimpleNamespace(known=set()),
        get_current_stream=lambda: current[-1],
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    main = stream()
    current.append(main)

    def work(name):
        order.append(name)
        current[-1].work(name)

    return SimpleNamespace(main=main, made=made, work=work, order=order)


def behind(gpu):
    """For each work, what must have ended before it."""
    return {name: found for stream in gpu.made for name, found in stream.behind.items()}


def test_a_chunk_s_sum_waits_for_its_product_and_the_next_product_for_nobody(gpu, monkeypatch):
    monkeypatch.setattr(tensor_parallel, "side_stream", lambda x: beside._SideStreamOfGPU())
    sums = []

    class Tensor:
        rank, size = 1, 2

        def all_reduce(self, x):
            sums.append(len(x))
            gpu.work(f"sum {len(sums) - 1}")
            return x

    products = []

    def note(call):
        products.append(call.name)
        gpu.work(f"product {len(products) - 1}")
        return call.run()

    gpu.work("before")
    arrays = [random(ROWS, 4), random(16, 4), random(16)]
    residual, norm = random(ROWS, 16), random(16)
    with ops.watch(note):
        closing(Tensor(), "sim", arrays, residual, norm, overlap_sums=True)
    gpu.work("after")
    assert sums == [3, 3, 1]
    assert len(gpu.made) == 2
    assert gpu.made[1].options == {"non_blocking": True, "priority": -1}
    assert behind(gpu) == {
        "before": set(),
        "product 0": {"before"},
        "product 1": {"before", "product 0"},
        "product 2": {"before", "product 0", "product 1"},
        "sum 0": {"before", "product 0"},
        "sum 1": {"before", "product 0", "product 1", "sum 0"},
        "sum 2": {"before", "product 0", "product 1", "product 2", "sum 0", "sum 1"},
        "after": {"before", *(f"{kind} {i}" for kind in ("product", "sum") for i in range(3))},
    }
    # Where the host waits in a sum, the GPU has a product to go on with.
    order = ["product 0", "product 1", "sum 0", "product 2", "sum 1", "sum 2"]
    assert gpu.order == ["before", *order, "after"]


def test_a_gpu_has_one_second_stream(gpu, monkeypatch):
    monkeypatch.setattr(beside, "kind_of", lambda array: "cuda")
    beside._of_gpu.cache_clear()
    arrays = [SimpleNamespace(device=SimpleNamespace(id=number)) for number in (0, 1, 0)]
    first, second, again = map(side_stream, arrays)
    beside._of_gpu.cache_clear()
    assert first is again
    assert first is not second


@pytest.mark.parametrize(("rows", "device"), [(5, "sim"), (ROWS, "cpu")])
def test_few_rows_and_those_of_the_cpu_are_added_up_at_once(rows, device):
    sums = []

    class Tensor:
        rank, size = 1, 2

        def all_reduce(self, x):
            sums.append(len(x))
            return x

    arrays = [random(rows, 4), random(16, 4), random(16)]
    closing(Tensor(), device, arrays, random(rows, 16), random(16), overlap_sums=True)
    assert sums == [rows]
