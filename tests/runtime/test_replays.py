"""An operation that is repeated queues what it would have queued, with the arrays of this time."""

import ast
import contextlib
import gc
import sys
import threading
import time
import weakref
from array import array as words_of
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_up import DriverError, Kernel, Stream, array

from llm_numba import kernels, ops
from llm_numba.errors import KernelArgumentError
from llm_numba.models import Execution, ForwardBatch
from llm_numba.models.families import load_config
from llm_numba.models.gpt2 import GPT2Model, gpt2_tensors
from llm_numba.models.llama import LlamaModel, llama_tensors
from llm_numba.ops import Call
from llm_numba.parallel import Partition
from llm_numba.runtime import empty, intercept, launch, may_overlap, overlapping

KERNELS = Path(kernels.__file__).parent
GOLDEN = Path(__file__).parents[1] / "golden" / "fixtures"


def scaled(x, factor, out):
    pass


SCALED, DOUBLED = Kernel(scaled), Kernel(scaled)


def scale(x, factor, out=None, stream=None):
    """An operation as launchers are: new arrays, a view, two kernels, one number."""
    scale.calls += 1
    if factor < 0:
        raise KernelArgumentError("The factor is negative.", "It must not be.")
    between = empty((2, *x.shape), x.dtype, like=x)
    if out is None:
        out = empty(x.shape, x.dtype, like=x)
    launch(SCALED, len(x), 32, (x, np.float32(factor), between[1]), stream=stream)
    launch(DOUBLED, len(x), 32, (between[1], 2, out), stream=stream)
    return out


@pytest.fixture
def scaling(gpu):
    scale.calls = 0
    return gpu.replays.Replays(scale)


def addresses(queued):
    """The addresses of a launch's two arrays of one axis."""
    return [int.from_bytes(queued.parameters[slot], "little") for slot in (4, 12)]


def test_the_second_time_nothing_is_chosen_and_the_arrays_are_the_new_ones(scaling, gpu):
    for _ in range(3):
        x = array((5,))
        out = scaling(x, 3.0)
        first, second = gpu.launches[-2:]
        assert addresses(first)[0] == x.data.ptr
        assert addresses(first)[1] == addresses(second)[0]
        assert addresses(second)[1] == out.data.ptr
        assert (out.shape, out.dtype) == ((5,), np.float32)
    assert scale.calls == 1
    assert [len(gpu.launches), gpu.ranges.count("scaled")] == [6, 6]


def test_a_result_that_was_given_comes_back(scaling, gpu):
    for _ in range(2):
        out = array((5,))
        assert scaling(array((5,)), 3.0, out=out) is out
        assert addresses(gpu.launches[-1])[1] == out.data.ptr
    assert scale.calls == 1


@pytest.mark.parametrize(
    ("x", "factor", "options"),
    [
        (array((6,)), 3.0, {}),
        (array((5,), np.float16), 3.0, {}),
        (array((5, 1)), 3.0, {}),
        (array((6,))[1:], 3.0, {}),
        (array((5,)), 3.5, {}),
        (array((5,)), 3, {}),
        (array((5,)), np.float32(3), {}),
        (array((5,)), 3.0, {"stream": Stream(9)}),
        (array((5,)), 3.0, {"out": array((5,))}),
    ],
    ids=["length", "dtype", "axes", "alignment", "number", "type", "scalar", "stream", "out"],
)
def test_what_differs_is_done_as_if_for_the_first_time(x, factor, options, scaling):
    scaling(array((5,)), 3.0)
    scaling(x, factor, **options)
    assert scale.calls == 2


def test_each_gpu_has_its_own(scaling, gpu):
    scaling(array(), 3.0)
    gpu.device = 1
    with pytest.raises(KernelArgumentError, match="lies on GPU 0, the current GPU is 1"):
        scaling(array(), 3.0)
    scaling(array(gpu=1), 3.0)
    assert scale.calls == 3


def test_ctrl_c_while_the_driver_works_leaves_no_range_of_a_profiler_open(scaling, gpu):
    def interrupt():
        raise KeyboardInterrupt

    scaling(array(), 3.0)
    gpu.before_launch = interrupt
    with pytest.raises(KeyboardInterrupt):
        scaling(array(), 3.0)
    assert gpu.ranges == ["scaled", "end"] * 3


def test_errors_are_raised_each_time(scaling, gpu):
    for _ in range(2):
        with pytest.raises(KernelArgumentError, match="negative"):
            scaling(array(), -1.0)
    scaling(array(), 3.0)
    gpu.launch_status = 1
    with pytest.raises(DriverError):
        scaling(array(), 3.0)
    assert scale.calls == 3


def test_operands_that_overlap_are_never_taken_for_others(scaling, gpu):
    """In the recording both have one place; which of the two a kernel meant cannot be seen."""
    whole = array((5,))
    for _ in range(2):
        scaling(whole, 3.0, out=whole.reshape(-1))
    assert scale.calls == 2
    x, out = array((5,)), array((5,))
    scaling(x, 3.0, out=out)
    scaling(whole, 3.0, out=whole.reshape(-1))
    assert scale.calls == 3
    assert addresses(gpu.launches[-2])[0] == addresses(gpu.launches[-1])[1] == whole.data.ptr


def test_an_array_that_is_given_twice_is_one_operand(scaling, gpu):
    for _ in range(2):
        both = array((5,))
        assert scaling(both, 3.0, out=both) is both
        assert addresses(gpu.launches[-2])[0] == addresses(gpu.launches[-1])[1] == both.data.ptr
    assert scale.calls == 1
    for _ in range(2):  # another operation than that on two arrays
        x, out = array((5,)), array((5,))
        scaling(x, 3.0, out=out)
        assert addresses(gpu.launches[-2])[0] == x.data.ptr
        assert addresses(gpu.launches[-1])[1] == out.data.ptr
    assert scale.calls == 2


def test_operands_with_gaps_are_done_as_if_for_the_first_time(scaling):
    for _ in range(2):
        scaling(array((10,))[::2], 3.0)
    assert scale.calls == 2


def test_memory_from_elsewhere_is_never_remembered(gpu):
    kept = array((5,))

    def operation(x):
        launch(SCALED, 1, 32, (x, np.float32(1), kept))

    replays = gpu.replays.Replays(operation)
    for _ in range(2):
        replays(array((5,)))
    assert not replays._known


def test_a_view_of_what_was_allocated_is_a_view_of_the_new(gpu):
    def halves(x):
        both = empty((2, len(x)), x.dtype, like=x)
        launch(SCALED, 1, 32, (x, np.float32(1), both.reshape(-1)))
        return both[1], None

    replays = gpu.replays.Replays(halves)
    replays(array((64,)))
    second, nothing = replays(array((64,)))
    assert nothing is None
    both = int.from_bytes(gpu.launches[-1].parameters[8 + 4], "little")
    assert second.data.ptr == both + 64 * 4
    assert (second.shape, second.dtype, second.strides) == ((64,), np.float32, (4,))


def test_who_intercepts_launches_gets_them_each_time(scaling, gpu):
    scaling(array(), 3.0)
    seen = []
    with intercept(seen.append):
        scaling(array(), 3.0)
    assert [each.kernel for each in seen] == [SCALED, DOUBLED]
    assert len(gpu.launches) == 2


def test_the_current_stream_is_that_of_the_moment(scaling, gpu):
    scaling(array(), 3.0)
    gpu.stream = Stream(11)
    scaling(array(), 3.0)
    assert [each.stream for each in gpu.launches] == [7, 7, 11, 11]


def test_what_can_be_no_key_is_done_each_time(gpu):
    calls = []
    replays = gpu.replays.Replays(lambda x, what: calls.append(what))
    for _ in range(2):
        replays(array(), [1])
    assert calls == [[1], [1]]


def test_the_memory_of_operations_has_an_end(gpu, monkeypatch):
    monkeypatch.setattr(gpu.replays, "_MOST_REMEMBERED", 3)
    scale.calls = 0
    replays = gpu.replays.Replays(scale)
    for n in (1, 2, 3, 4, 4, 1):
        replays(array((n,)), 1.0)
    assert scale.calls == 5
    assert len(replays._known) == 2


def test_whether_kernels_may_overlap_is_asked_each_time(scaling, gpu, monkeypatch):
    module = sys.modules["llm_numba.runtime.gpu"]
    monkeypatch.setattr(module, "begins_early", lambda kernel: may_overlap())
    for wanted in (False, True, False, True):
        with overlapping(wanted):
            scaling(array(), 3.0)
    assert [each.config.numAttrs for each in gpu.launches] == [0, 0, 1, 1] * 2
    assert scale.calls == 2


def test_threads_do_not_mix_their_arrays(scaling, gpu):
    scaling(array((5,)), 3.0)
    gpu.launches.clear()
    # The driver lets other threads go on while it works.
    gpu.before_launch = lambda: time.sleep(1e-5)
    pairs = [(array((5,)), array((5,))) for _ in range(4)]

    def work(x, out):
        for _ in range(20):
            scaling(x, 3.0, out=out)

    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = Counter(address for each in gpu.launches for address in addresses(each))
    assert [(seen[x.data.ptr], seen[out.data.ptr]) for x, out in pairs] == [(20, 20)] * 4


def test_launchers_do_nothing_to_a_device_but_allocate_and_launch():
    """What a recording cannot see would be missing from a repetition."""
    unseen = {"to_device", "to_host", "upload", "write_to", "zeros"}
    for path in sorted(KERNELS.glob("**/*.py")):
        # Of these none is an operation of a model: the persistent kernel is all of them at once.
        if path.stem.startswith(("basics", "persistent")):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [each for each in ast.walk(tree) if isinstance(each, ast.Import | ast.ImportFrom)]
        modules = {getattr(each, "module", None) for each in imports}
        names = {alias.name for each in imports for alias in each.names}
        if path.stem != "tuning":  # which asks for a GPU's name
            assert "cupy" not in modules | names, path
        if any(str(module).startswith("llm_numba.runtime") for module in modules):
            assert not names & unseen, path


# -- Whole models -------------------------------------------------------------------------------


def new_model(family, execution):
    """A model of a family, a cache, and the arrays of both; nobody looks at what is in them."""
    arrays = []
    config = load_config(GOLDEN / family)
    is_gpt2 = family == "gpt2"
    last = "" if is_gpt2 else 64
    shapes = gpt2_tensors(config, "") if is_gpt2 else llama_tensors(config)

    def new(shape, dtype="bfloat16"):
        arrays.append(array(shape, dtype))
        return arrays[-1]

    def load(*names, transpose=False):
        first, *rest = shapes[names[0]]
        rows = sum(shapes[name][0] for name in names)
        return new((*rest, first) if transpose else (rows, *rest))

    load.place = lambda table: new(table.shape, table.dtype)
    cache = (9, 4, config.num_kv_heads, config.head_dim)
    layers = [(new(cache), new(cache)) for _ in range(config.num_layers)]
    family_of = GPT2Model if is_gpt2 else LlamaModel
    model = family_of(config, load, last, execution, Partition.whole(config))
    return model, SimpleNamespace(layers=layers), arrays


class Batch:
    """What a step is given; `arrays` are all that it consists of."""

    def __init__(self, tokens, sequences):
        B, words, numbers = sequences, np.int32, np.float32
        self.arrays = []
        self.token_ids, self.sources, self.positions, self.slots = self.new(4, words, tokens)
        (self.tables,) = self.new(1, words, B, 4)
        (self.starts,) = self.new(1, words, B + 1)
        self.lengths, self.rows, self.chosen = self.new(3, words, B)
        self.past = [*self.new(2, words, 7), *self.new(1, words, B + 1), *self.new(1, words, B)]
        self.penalties = self.new(3, numbers, B)
        self.limits = [self.new(1, each, B)[0] for each in (numbers, words, numbers, numbers)]
        self.draws = [self.new(1, each, B)[0] for each in (np.uint64, words, words)]
        (self.sampled,) = self.new(1, np.int64, B)

    def new(self, count, dtype, *shape):
        made = [array(shape, dtype) for _ in range(count)]
        self.arrays += made
        return made


def step(model, kv_cache, given):
    """Do what the engine does on a GPU, from token ids to sampled tokens."""
    batch = ForwardBatch(
        ops.fill_in_tokens(given.token_ids, given.sources, given.sampled),
        *(given.positions, given.slots, given.tables, given.starts, given.lengths),
    )
    hidden = model.forward(batch, kv_cache)
    logits = model.logits(ops.embedding(given.rows, hidden))
    logits = ops.apply_penalties(logits, *given.past, *given.penalties)
    ops.sample_tokens(logits, *given.limits, *given.draws, out=given.sampled)
    ops.argmax(logits, out=given.sampled)
    ops.top_logprobs(logits, given.chosen, 3)


@pytest.fixture
def engine_ops(gpu, monkeypatch):
    """The operations, as if nobody had ever called them, on kernels that were never compiled.

    Returns the layout of each kernel's arguments, by its handle.
    """
    layouts = {}
    module = sys.modules["llm_numba.runtime.gpu"]
    kernels = {}

    def loaded(kernel, signature, layout, device):
        handle = kernels.setdefault((kernel, signature), 1000 + len(kernels))
        layouts[handle] = layout
        found = SimpleNamespace(handle=handle)
        return module._Compiled(found, layout, False, 1 << 20, 40, 0, 0)

    monkeypatch.setattr(module, "_prepare", loaded)
    monkeypatch.setattr("llm_numba.kernels.tuning._gpu_name", lambda device: "made up")
    # The driver's maps tell of what they are; and the made-up models' products are few tiles.
    monkeypatch.setattr("llm_numba.runtime.tensor_maps._encoded", described_map)
    monkeypatch.setattr("llm_numba.kernels.gemm_hopper_fused.FEWEST_TILES", 1)
    for name in ops.__all__:
        if hasattr(operation := getattr(ops, name), "on_gpu"):
            operation.on_gpu.cache_clear()
    yield layouts
    for name in ops.__all__:
        if hasattr(operation := getattr(ops, name), "on_gpu"):
            operation.on_gpu.cache_clear()


def described_map(address, shape, dtype, rows):
    return words_of("q", [address, *shape, len(dtype), rows, *range(11)])


def described(launches, layouts, arrays):
    """What was queued, with addresses told by the array that they lead into."""
    arrays = [each for each in arrays if each.size]

    def told(number):
        for i, each in enumerate(arrays):
            if 0 <= number - each.data.ptr < each.nbytes:
                return "array", i, number - each.data.ptr
        raise AssertionError(f"an address that leads nowhere: {number:#x}")

    def parameters(launch):
        layout = layouts[launch.function]
        numbers = [int.from_bytes(each[:8], "little") for each in launch.parameters]
        for slot in layout.addresses:
            if slot is None:
                continue
            place = layout.parameters.index(slot)
            of_map = launch.parameters[place][8:]
            # Nobody follows the address of an array without elements.
            leads_there = of_map or numbers[place - 2]
            numbers[place] = (told(numbers[place]), of_map) if leads_there else None
        return numbers

    def shape(config):
        return [getattr(config, f"{of}Dim{axis}") for of in ("grid", "block") for axis in "XYZ"]

    return [
        (
            each.function,
            shape(each.config),
            each.config.sharedMemBytes,
            each.config.numAttrs,
            parameters(each),
        )
        for each in launches
    ]


@pytest.mark.parametrize(("tokens", "sequences"), [(150, 2), (23, 2), (3, 3), (1, 1), (12, 12)])
@pytest.mark.parametrize(
    "execution",
    [
        Execution(),
        Execution(batch_invariant=True),
        Execution(
            fuse_qkv=False,
            fuse_gate_up=False,
            fuse_norms=False,
            fuse_rope_kv=False,
            fuse_rope_attention=False,
        ),
    ],
    ids=["fused", "invariant", "apart"],
)
@pytest.mark.parametrize("family", ["llama3", "qwen3-biases", "gpt2"])
def test_a_step_queues_what_a_step_without_memory_queues(
    family, execution, tokens, sequences, gpu, engine_ops, monkeypatch
):
    model, kv_cache, kept = new_model(family, execution)
    steps = []
    for plain in (False, False, True):
        given = Batch(tokens, sequences)
        gpu.launches.clear()
        gpu.allocated.clear()
        with ops.watch(Call.run) if plain else contextlib.nullcontext():
            step(model, kv_cache, given)
        arrays = [*kept, *given.arrays, *gpu.allocated]
        steps.append(described(gpu.launches, engine_ops, arrays))
    first, repeated, plain = steps
    assert len(plain) > 20
    assert repeated == first == plain
    # A tensor map is 128 bytes; GEMV, which has none, multiplies up to 16 rows.
    assert any(len(each) == 128 for launch in gpu.launches for each in launch.parameters) == (
        tokens > 16 and not execution.batch_invariant
    )


@pytest.mark.parametrize("family", ["llama3", "gpt2"])
def test_no_array_of_a_step_lives_on_in_what_is_remembered(family, gpu, engine_ops):
    """Prompts come in hundreds of lengths: what each first one had would fill the GPU."""
    model, kv_cache, _ = new_model(family, Execution())
    given = Batch(150, 2)
    step(model, kv_cache, given)
    assert any(len(each) == 128 for launch in gpu.launches for each in launch.parameters)
    # Views share the memory that an array began with.
    memory = [weakref.ref(each.host.base) for each in (*given.arrays, *gpu.allocated) if each.size]
    del given
    gpu.allocated.clear()
    gc.collect()
    assert all(each() is None for each in memory)
