"""What a rank loads: its windows of each tensor, with the bits of the whole, and nothing else."""

import os
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file
from splitting import (
    FIXTURES,
    GPT2,
    LAYOUTS,
    LENGTH,
    files_of,
    in_parts,
    load,
    scored,
    tokens,
    tolerance,
    weights_of,
    write_shape,
)

from llm_numba.models import (
    load_model,
    open_model,
    rank_shapes,
    reading,
    split_model,
    tensor_shapes,
)
from llm_numba.models.split import windows_of
from llm_numba.models.weights import FileWeights, RandomWeights
from llm_numba.parallel import Alone, Partition, Seat
from llm_numba.runtime import gpu_problem, kind_of, to_host

CASES = [
    (family, ranks)
    for family in ("llama-biases", "mistral-window", "qwen2", "qwen3-biases", "gpt2", "gpt2-untied")
    for ranks in ((3,) if "gpt2" in family else (2, 4))
]
each_case = pytest.mark.parametrize(("family", "ranks"), CASES)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
# GPT-2's products are stored [K, N].
TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def seat(config, rank, ranks, stage=0, num_stages=1):
    """The partition of one of some ranks, without the others."""
    return split_model(config, Seat(rank, ranks), stage, num_stages)


def stored(family):
    tensors = {}
    for path in FIXTURES.joinpath(family).glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def windows(files, partition, layout="megatron"):
    shapes = {name: info.shape for name, info in files.checkpoint.tensors.items()}
    return windows_of(shapes, files.config, partition, layout)


def cut(tensor, window):
    return tensor[tuple(slice(indices.start, indices.stop) for indices in window)]


def expected(tensor, parts, turned):
    pieces = [cut(tensor, window) for window in parts]
    return np.ascontiguousarray(np.concatenate([each.T if turned else each for each in pieces]))


# -- Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_layout
@each_case
def test_each_rank_gets_the_bits_of_its_windows(family, ranks, layout, dtype):
    files, tensors = files_of(family), stored(family)
    for rank in range(ranks):
        mine = windows(files, seat(files.config, rank, ranks), layout)
        with FileWeights(files.checkpoint, np.dtype(dtype), windows=mine) as loader:
            for name, parts in mine.items():
                turned = name.endswith(TURNED)
                found = loader(name, transpose=turned)
                if not parts:
                    assert found is None
                    continue
                wanted = expected(tensors[name], parts, turned).astype(dtype)
                np.testing.assert_array_equal(found.view("u1"), wanted.view("u1"))
                assert found.flags.c_contiguous


@each_layout
@each_case
def test_together_the_ranks_have_everything_and_little_twice(family, ranks, layout):
    """Copies are norms, KV heads beyond G, and in no layout a row of a table or of the MLP."""
    files = files_of(family)
    config = files.config
    held = {name: np.zeros(i.shape, int) for name, i in files.checkpoint.tensors.items()}
    for rank in range(ranks):
        for name, parts in windows(files, seat(config, rank, ranks), layout).items():
            for window in parts:
                cut(held[name], window)[...] += 1
    for name, count in held.items():
        copies = 1
        if "norm" in name or "ln_" in name:
            copies = ranks
        elif ".k_proj." in name or ".v_proj." in name:
            copies = max(1, ranks // config.num_kv_heads)
        assert np.unique(count).tolist() == [copies], name


@each_layout
@each_case
def test_a_models_arrays_have_the_shapes_of_the_ranks_configuration(family, ranks, layout):
    files = files_of(family)
    partition = seat(files.config, 1, ranks)
    counted = sum(np.prod(shape) for shape in rank_shapes(files.config, partition, layout).values())

    def num_elements(model):
        arrays = {id(each): each for _, each in weights_of(model)}
        return sum(each.size for each in arrays.values())

    assert in_parts(files, ranks, num_elements, layout=layout)[1] == counted


def test_a_rank_alone_holds_all_shapes():
    config = files_of("gpt2").config
    assert rank_shapes(config, Partition.whole(config)) == tensor_shapes(config)


def test_stacked_weights_are_cut_in_each_of_their_parts():
    """Of query, key and value, and of gate and up, a rank has its rows of each."""
    files = files_of("qwen2")
    whole = load(files, "float32").layers[1]
    parts = in_parts(files, 2, lambda model: model.layers[1], "float32")
    H, G, D, F = 4, 2, 4, 12
    for p, part in enumerate(parts):
        q, k, v = np.split(whole.qkv, [H * D, (H + G) * D])
        mine = [np.split(each, 2)[p] for each in (q, k, v)]
        np.testing.assert_array_equal(part.qkv, np.concatenate(mine))
        gate, up = np.split(whole.gate_up, 2)
        rows = slice(p * F // 2, (p + 1) * F // 2)
        np.testing.assert_array_equal(part.gate_up, np.concatenate([gate[rows], up[rows]]))
        np.testing.assert_array_equal(part.out, whole.out[:, p * 8 : p * 8 + 8])
        np.testing.assert_array_equal(part.down, whole.down[:, rows])


def test_ranks_beyond_the_kv_heads_share_them():
    """Four ranks, two KV heads: ranks 0 and 1 have the first, 2 and 3 the second."""
    files = files_of("qwen2")
    whole = load(files, "float32").layers[0].qkv
    parts = in_parts(files, 4, lambda model: model.layers[0].qkv, "float32")
    for p, part in enumerate(parts):
        head = 4 * (p // 2)
        np.testing.assert_array_equal(part[:4], whole[4 * p : 4 * p + 4])
        np.testing.assert_array_equal(part[4:8], whole[16 + head : 20 + head])
        np.testing.assert_array_equal(part[8:], whole[24 + head : 28 + head])


def test_a_stage_opens_no_file_of_other_stages(monkeypatch):
    files = files_of("qwen2-layer-types")
    opened, open_file = set(), reading.open_safetensors
    monkeypatch.setattr(
        reading, "open_safetensors", lambda path: opened.add(path) or open_file(path)
    )
    for stage in range(2):
        opened.clear()
        partition = split_model(files.config, Alone(), stage, 2)
        load(files, partition=partition)
        shapes = windows(files, partition)
        assert opened == {files.checkpoint.tensors[name].path for name in shapes}
        assert opened < {info.path for info in files.checkpoint.tensors.values()}


def test_progress_counts_the_bytes_of_the_rank():
    files, calls = files_of("qwen2"), []
    partition = seat(files.config, 0, 4)
    loader = FileWeights(
        files.checkpoint,
        np.dtype(np.float32),
        lambda *call: calls.append(call),
        windows=windows(files, partition),
    )
    for name in windows(files, partition):
        loader(name)
    shapes = rank_shapes(files.config, partition).values()
    total = 2 * sum(int(np.prod(shape)) for shape in shapes)
    assert calls[-1][1:] == (total, total)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loading_takes_the_memory_of_the_shard_and_one_tensor(tiny_checkpoint, layout):
    """Python's own count of what it and NumPy allocate; mapped pages of the file are not in it."""
    directory = tiny_checkpoint(
        hidden_size=128, intermediate_size=352, num_hidden_layers=6, vocab_size=512
    )
    files = open_model(directory)
    partition = seat(files.config, 1, 4)
    shapes = rank_shapes(files.config, partition, layout)
    sizes = [4 * int(np.prod(shape)) for shape in shapes.values()]
    mine = windows(files, partition, layout)
    tracemalloc.start()
    try:
        with FileWeights(files.checkpoint, np.dtype(np.float32), windows=mine) as loader:
            model = [loader(name) for name in mine]
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(model) == len(mine)
    # Stored in 16 bits: what is copied out of the file is half of the largest. Names and windows
    # take less than a twentieth.
    assert sum(sizes) <= kept
    assert peak <= 1.05 * sum(sizes) + max(sizes)


class Reads:
    """Fills arrays from a file, as :class:`llm_numba.runtime.staging.Staging` does on a GPU."""

    def __init__(self):
        self.num_bytes = 0

    def send(self, file, begin, target, stored, convert):
        data = os.pread(file, target.size * stored.itemsize, begin)
        self.num_bytes += len(data)
        target[...] = np.frombuffer(data, stored).reshape(target.shape)

    def wait(self):
        pass


@each_layout
@pytest.mark.parametrize(("family", "ranks"), [("qwen2", 4), ("gpt2", 3)])
def test_what_goes_to_a_gpu_is_read_where_it_lies(family, ranks, layout):
    """In one piece go rows, turned or not; the simulator stands for the GPU."""
    files, tensors = files_of(family), stored(family)
    for rank in range(ranks):
        mine = windows(files, seat(files.config, rank, ranks), layout)
        loader = FileWeights(files.checkpoint, np.dtype(np.float32), None, "sim", mine)
        loader._staging, loader._files = Reads(), {}
        in_pieces = 0
        for name, parts in mine.items():
            turned = name.endswith(TURNED)
            found = loader(name, transpose=turned)
            if not parts:
                continue
            assert kind_of(found) == "sim"
            wanted = expected(tensors[name], parts, turned).astype(np.float32)
            np.testing.assert_array_equal(to_host(found), wanted)
            if all(len(w[-1]) == tensors[name].shape[-1] for w in parts) or len(parts[0]) == 1:
                in_pieces += sum(cut(tensors[name], window).nbytes for window in parts)
        assert loader._staging.num_bytes == in_pieces > 0
        for file in loader._files.values():
            os.close(file)


# -- Random weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "sim"])
@each_layout
def test_random_weights_are_made_in_parts_with_the_bits_of_the_whole(
    tmp_path, monkeypatch, layout, device
):
    files = write_shape(tmp_path, GPT2, monkeypatch)
    whole = RandomWeights(files.checkpoint, np.dtype(np.float32))
    for rank in range(4):
        mine = windows(files, seat(files.config, rank, 4), layout)
        loader = RandomWeights(files.checkpoint, np.dtype(np.float32), None, device, mine)
        for name, parts in mine.items():
            if not parts:
                continue
            turned = name.endswith(TURNED)
            tensor = whole(name, transpose=turned)
            found = to_host(loader(name, transpose=turned))
            wanted = expected(tensor.T if turned else tensor, parts, turned)
            np.testing.assert_array_equal(found, wanted)


def test_a_large_shape_is_never_made_whole(tmp_path, monkeypatch):
    config = GPT2 | {"n_embd": 256, "vocab_size": 2000, "n_layer": 1}
    files = write_shape(tmp_path, config, monkeypatch)
    partition = seat(files.config, 3, 4)
    sizes = [4 * int(np.prod(shape)) for shape in rank_shapes(files.config, partition).values()]
    tracemalloc.start()
    try:
        model = load_model(files, np.dtype(np.float32), LENGTH, partition=partition)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert model.lm_head.shape == (500, 256)
    # A turn of the generator: 2^15 calls of four 32-bit words, in some arrays of 64 bits.
    assert peak <= sum(sizes) + 40 * (8 << 15)


# -- A device -----------------------------------------------------------------------------------


# The simulator takes seconds for each step: one always, a prompt with the slow tests.
ONE_STEP, TWO_STEPS = (tokens(1),), (tokens(3), tokens(1, 1))
ON_DEVICES = [
    pytest.param("sim", "megatron", ONE_STEP),
    *(pytest.param("sim", layout, TWO_STEPS, marks=pytest.mark.slow) for layout in LAYOUTS),
    *(pytest.param("cuda", layout, TWO_STEPS, marks=pytest.mark.gpu) for layout in LAYOUTS),
]


@pytest.mark.parametrize(("device", "layout", "pieces"), ON_DEVICES)
def test_ranks_on_a_device_give_the_logits_of_the_whole_model(device, layout, pieces):
    if device == "cuda" and (problem := gpu_problem()):
        pytest.skip(f"no kernel runs on a GPU here: {problem}")
    files = files_of("qwen2")
    whole, _ = scored(load(files), pieces)

    def read(model):
        return scored(model, pieces, device)

    parts = in_parts(files, 2, read, "float32", layout, device=device)
    for logits, best in parts:
        assert np.abs(logits - whole).max() <= tolerance("float32") * np.abs(whole).max()
        np.testing.assert_array_equal(best, logits.argmax(axis=-1))
        np.testing.assert_array_equal(logits, parts[0][0])
