"""A whole decoding step in one launch, against the same step in float64."""

import ml_dtypes
import numpy as np
import pytest

from llm_numba.kernels.persistent_plan import Weights, plan, workspace
from llm_numba.kernels.persistent_shape import Shape
from llm_numba.kernels.persistent_stream import FLAG_STRIDE
from llm_numba.runtime import launch, to_device, to_host, zeros
from llm_numba.simulator import simulate

EPS = 1e-5
# Of the largest logit; what models are held to.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 2e-2}
WIDTHS = {"float32": 4, "float16": 8, "bfloat16": 8}
BLOCKS, BLOCK_SIZE, TABLE = 24, 4, 20

# Units so small that rows have several, and a ring that is full now and then.
GRID = {"blocks": 5, "warps": 2, "packets": 1, "flight": 2, "slots": 4}

SHAPES = {
    # E, F, L, H, G, D, V
    "rows that no grid divides": (64, 96, 2, 4, 2, 16, 101),
    "a head of its own for each query": (32, 40, 1, 2, 2, 16, 33),
    "eight queries a head": (32, 32, 1, 8, 1, 16, 5),
    "rows of more units than one": (32, 1048, 1, 2, 1, 16, 40),
}
USUAL = SHAPES["rows that no grid divides"]


class Model:
    """Random weights, a cache of random keys and values, and both on a device."""

    def __init__(self, sizes, dtype, device, **grid):
        rng = np.random.default_rng(1)
        self.shape = Shape(*sizes, BLOCK_SIZE, WIDTHS[dtype], **(GRID | grid))
        E, L, G, D = sizes[0], sizes[2], sizes[4], sizes[5]
        dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        self.arena = (rng.normal(size=self.shape.arena_size) * E**-0.5).astype(dtype)
        self.norms = rng.normal(1, 0.1, size=(2 * L + 1, E)).astype(dtype)
        angles = np.arange(TABLE * BLOCK_SIZE)[:, None] * 0.3 ** np.arange(D // 2)
        self.tables = np.cos(angles).astype("f4"), np.sin(angles).astype("f4")
        cache = (2, L * BLOCKS, BLOCK_SIZE, G, D)
        self.caches = rng.normal(size=cache).astype(dtype)
        self.block_table = rng.permutation(BLOCKS)[:TABLE].astype("i4")
        self.device = device
        self.space = workspace(self.shape, dtype, device)
        arena = self.put(self.arena)
        head = arena[: self.shape.vocabulary * E].reshape(-1, E)
        weights = Weights(arena, head, *map(self.put, (self.norms, *self.tables)))
        self.on_device = weights, tuple(map(self.put, self.caches))
        self.exact = self.caches.astype("f8")

    def put(self, array):
        return to_device(np.ascontiguousarray(array), self.device)

    def launch(self, token, position):
        """Return the launch of a step, and where its logits and its token will be."""
        results = zeros(self.shape.vocabulary, np.float32, self.device), zeros(1, "i8", self.device)
        slot = self.block_table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
        numbers = ([self.block_table], [token], [position], [slot])
        inputs = [self.put(np.array(each, "i4")) for each in numbers]
        scale = self.shape.head_dim**-0.5 * np.log2(np.e)
        return plan(self.shape, *self.on_device, *inputs, EPS, scale, self.space, *results), results

    def step(self, token, position):
        """Run a step on the device."""
        item, results = self.launch(token, position)
        launch(*item)
        return [to_host(each) for each in results]

    def expect(self, token, position):
        """Compute the logits of a step, in float64; keep its keys and values."""
        shape, weights = self.shape, self.arena.astype("f8")
        E, _, L, H, G, D = shape[:6]
        head, at = weights[: shape.vocabulary * E].reshape(-1, E), shape.vocabulary * E
        cos, sin = (each[position].astype("f8") for each in self.tables)
        places = [(self.block_table[p // BLOCK_SIZE], p % BLOCK_SIZE) for p in range(position + 1)]

        def normed(x, norm):
            return x / np.sqrt((x * x).mean() + EPS) * self.norms[norm].astype("f8")

        def turned(x):
            a, b = np.split(x, 2, axis=1)
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)

        r = head[token]
        for layer in range(L):
            matrices = []
            for rows, columns, copies in shape.matrices:
                size = rows * copies * columns
                matrices.append(weights[at : at + size].reshape(-1, columns))
                at += size
            qkv, out, gate_up, down = matrices
            q, k, v = np.split((qkv @ normed(r, 2 * layer)).reshape(-1, D), [H, H + G])
            caches = self.exact[:, layer * BLOCKS : (layer + 1) * BLOCKS]
            caches[0][places[-1]], caches[1][places[-1]] = turned(k), v
            keys, values = (np.stack([cache[place] for place in places]) for cache in caches)
            scores = np.einsum("hd,thd->ht", turned(q), keys.repeat(H // G, axis=1)) / D**0.5
            probs = np.exp(scores - scores.max(axis=1, keepdims=True))
            probs /= probs.sum(axis=1, keepdims=True)
            mixed = np.einsum("ht,thd->hd", probs, values.repeat(H // G, axis=1))
            r = r + out @ mixed.ravel()
            gate, up = np.split(gate_up @ normed(r, 2 * layer + 1), 2)
            r = r + down @ (gate / (1 + np.exp(-gate)) * up)
        return head @ normed(r, 2 * L)


def assert_close(logits, truth, dtype):
    assert np.abs(logits - truth).max() <= TOLERANCES[dtype] * np.abs(truth).max()


@pytest.fixture(scope="module")
def models():
    """Models that were made, by their sizes, type and device: to compile one takes a while."""
    return {}


def model_of(models, sizes, dtype, device):
    key = sizes, dtype, device
    if key not in models:
        models[key] = Model(sizes, dtype, device)
    return models[key]


def test_steps_one_after_the_other_are_the_reference_s(models, device):
    model, token = model_of(models, USUAL, "float32", device), 3
    for position in (70, 71, 72):
        logits, chosen = model.step(token, position)
        assert_close(logits, model.expect(token, position), "float32")
        assert chosen.tolist() == [logits.argmax()]
        token = int(chosen[0])


@pytest.mark.parametrize("position", [0, 31, 32, 79])
def test_contexts_end_anywhere_in_a_piece(position, models, device):
    model = model_of(models, USUAL, "float32", device)
    logits, _ = model.step(7, position)
    assert_close(logits, model.expect(7, position), "float32")


def test_a_step_has_the_same_bits_again(models, device):
    model = model_of(models, USUAL, "float32", device)
    first, again = model.step(7, 50)[0], model.step(7, 50)[0]
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_there_is_no_token_where_the_largest_logit_is_not_finite(wrong, models, device):
    """As in `argmax`: an engine must hear that a model is broken, by whatever kernel."""
    model = model_of(models, USUAL, "float32", device)
    weights, caches = model.on_device
    norms = model.norms.copy()
    norms[-1] = wrong
    model.on_device = weights._replace(norms=model.put(norms)), caches
    try:
        logits, chosen = model.step(7, 50)
    finally:
        model.on_device = weights, caches
    assert not np.isfinite(logits.max())
    assert chosen.tolist() == [-1]


def test_counters_may_overflow(models, device):
    """After so many steps that the next one's arrivals are counted past 2**31."""
    model = model_of(models, USUAL, "float32", device)
    expected = model.step(7, 50)[0]
    shape, before = model.shape, 2**31 // GRID["blocks"] - 1
    arrivals = np.full(shape.flags, shape.blocks, "i8")
    arrivals[0], arrivals[2:-2:5] = 1, shape.kv_heads
    flags = np.zeros((shape.flags, FLAG_STRIDE), "i4")
    flags[:, 0] = (arrivals * before).astype("u4").view("i4")
    fresh = workspace(shape, np.float32, device)
    model.space, used = (
        fresh._replace(flags=model.put(flags.ravel()), epoch=model.put(np.array([before], "i4"))),
        model.space,
    )
    for _ in range(2):
        np.testing.assert_array_equal(model.step(7, 50)[0], expected)
    assert to_host(model.space.flags).min() < 0
    model.space = used


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_of_two_bytes(dtype, models, device):
    model = model_of(models, USUAL, dtype, device)
    logits, _ = model.step(3, 70)
    assert_close(logits, model.expect(3, 70), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHAPES if SHAPES[name] != USUAL])
def test_models_of_any_shape(name, device):
    model = Model(SHAPES[name], "float32", device)
    logits, _ = model.step(3, 70)
    assert_close(logits, model.expect(3, 70), "float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    "grid",
    [
        {"blocks": 2, "warps": 1, "flight": 1, "slots": 2},
        {"blocks": 16, "packets": 4, "flight": 3, "slots": 10},
    ],
)
def test_any_grid_with_a_block_for_each_kv_head_will_do(grid, device):
    model = Model(USUAL, "float32", device, **grid)
    logits, _ = model.step(7, 40)
    assert_close(logits, model.expect(7, 40), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_no_order_of_blocks_and_copies_harms(seed):
    model = Model(USUAL, "float32", "sim", blocks=3)
    (kernel, grid, block, args, shared), (logits, _) = model.launch(7, 40)
    simulate(kernel, grid, block, args, shared, schedule="random", seed=seed)
    assert_close(to_host(logits), model.expect(7, 40), "float32")


def test_slots_are_as_many_as_shared_memory_has_room_for():
    shape = Shape(2048, 8192, 16, 32, 8, 64, 128256, 16, 8, 132, packets=8, flight=3, slots=5)
    assert shape.fitted(227 * 1024) == shape
    less = shape.fitted(140 * 1024)
    assert (less.packets, less.slots, less.flight) == (8, 3, 2)
    smaller = shape.fitted(64 * 1024)
    assert (smaller.packets, smaller.slots) == (2, 3)
    assert smaller.ring_bytes + 4 * smaller.room < 64 * 1024
    assert shape.fitted(36 * 1024) is None
