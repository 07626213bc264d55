"""Sound checkpoints: one file or shards, every storage format, stacked and transposed weights."""

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_numba import LLM
from llm_numba.models import Checkpoint, load_config, load_model, open_model, reading
from llm_numba.models.gpt2 import gpt2_tensors
from llm_numba.models.weights import FileWeights
from llm_numba.runtime import kind_of, to_host

STORAGE = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}


def numbers(*shape: int, dtype: type = np.float32) -> np.ndarray:
    """Small whole numbers, which every storage format holds exactly."""
    return (np.arange(np.prod(shape)).reshape(shape) % 100 - 50).astype(dtype)


def test_headers_tell_where_each_tensor_is_and_what_it_looks_like(tmp_path: Path):
    save_file(
        {"a": numbers(2, 3), "b": numbers(5, dtype=np.float16)}, tmp_path / "model.safetensors"
    )
    tensors = Checkpoint(tmp_path).tensors
    assert set(tensors) == {"a", "b"}
    assert tensors["a"].path == tmp_path / "model.safetensors"
    assert (tensors["a"].shape, tensors["a"].storage) == ((2, 3), "F32")
    assert (tensors["a"].num_elements, tensors["a"].num_bytes) == (6, 24)
    assert (tensors["b"].num_elements, tensors["b"].num_bytes) == (5, 10)


def test_shards_are_read_as_one_checkpoint(tmp_path: Path, save_sharded):
    shards = [{"a": numbers(2, 3)}, {"b": numbers(4), "c": numbers(1, 1)}]
    save_sharded(tmp_path, shards)
    checkpoint = Checkpoint(tmp_path)
    load = FileWeights(checkpoint, np.dtype(np.float32))
    assert set(checkpoint.tensors) == {"a", "b", "c"}
    for tensors in shards:
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(load(name), tensor)


def test_a_digest_tells_names_shapes_formats_and_numbers_apart(tmp_path: Path, save_sharded):
    tensors = {"a": numbers(2, 3), "b": numbers(4, dtype=np.float16)}
    others = [
        tensors,
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"].T.copy(), "b": tensors["b"]},
        {"a": tensors["a"] + 1, "b": tensors["b"]},
        {"a": tensors["a"], "b": tensors["b"].view(ml_dtypes.bfloat16)},
    ]
    digests = []
    for i, each in enumerate(others):
        (tmp_path / str(i)).mkdir()
        save_file(each, tmp_path / str(i) / "model.safetensors")
        digests.append(Checkpoint(tmp_path / str(i)).digest())
    assert len(set(digests)) == len(others)
    (tmp_path / "files").mkdir()
    save_sharded(tmp_path / "files", [{"b": tensors["b"]}, {"a": tensors["a"]}])
    assert Checkpoint(tmp_path / "files").digest() == digests[0]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_storage_format_is_converted_exactly(tmp_path: Path, storage, dtype):
    stored = numbers(3, 5, dtype=STORAGE[storage])
    save_file({"w": stored}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.tensors["w"].storage == storage
    loaded = FileWeights(checkpoint, np.dtype(dtype))("w")
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, numbers(3, 5))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_for_a_device_are_converted_and_lie_there(tmp_path: Path, dtype):
    save_file({"w": numbers(3, 5)}, tmp_path / "model.safetensors")
    load = FileWeights(Checkpoint(tmp_path), np.dtype(dtype), device="sim")
    loaded = load("w", transpose=True)
    assert (kind_of(loaded), loaded.dtype) == ("sim", np.dtype(dtype))
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(to_host(loaded).astype(np.float32), numbers(3, 5).T)
    assert kind_of(load.place(numbers(2))) == "sim"


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [("BF16", "bfloat16"), ("F16", "float16"), ("F32", "float32"), ("F64", "float64")],
)
def test_a_checkpoint_is_stored_as_most_of_its_numbers_are(tmp_path: Path, storage, dtype):
    """Norms are often stored more finely than the products."""
    tensors = {"norm": numbers(4), "half": numbers(4, dtype=np.float16)}
    tensors["product"] = numbers(5, 5, dtype=STORAGE[storage])
    save_file(tensors, tmp_path / "model.safetensors")
    assert Checkpoint(tmp_path).stored_dtype == dtype


def test_names_are_stacked_along_the_first_axis_in_the_order_given(tmp_path: Path):
    q, k = numbers(4, 3), numbers(2, 3) + 100
    save_file({"k": k, "q": q}, tmp_path / "model.safetensors")
    load = FileWeights(Checkpoint(tmp_path), np.dtype(np.float32))
    stacked = load("q", "k")
    np.testing.assert_array_equal(stacked, np.concatenate([q, k]))
    assert stacked.flags.c_contiguous
    np.testing.assert_array_equal(load("k", "q"), np.concatenate([k, q]))


def test_biases_are_stacked_too(tmp_path: Path):
    save_file({"a": numbers(4), "b": numbers(2)}, tmp_path / "model.safetensors")
    load = FileWeights(Checkpoint(tmp_path), np.dtype(np.float32))
    np.testing.assert_array_equal(load("a", "b"), np.concatenate([numbers(4), numbers(2)]))


def test_transposed_tensors_are_transposed_one_by_one_and_contiguous(tmp_path: Path):
    a, b = numbers(3, 4), numbers(3, 2)
    save_file({"a": a, "b": b}, tmp_path / "model.safetensors")
    load = FileWeights(Checkpoint(tmp_path), np.dtype(np.float32))
    stacked = load("a", "b", transpose=True)
    np.testing.assert_array_equal(stacked, np.concatenate([a.T, b.T]))
    assert stacked.flags.c_contiguous


def test_a_file_is_reopened_once_enough_was_read_so_that_its_pages_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ten tensors of 24 bytes; each open file serves two, the second of which passes 32."""
    tensors = {f"t{i}": numbers(2, 3) + i for i in range(10)}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    opened, open_file = [], reading.open_safetensors
    monkeypatch.setattr(reading, "REOPEN_AFTER_BYTES", 32)
    monkeypatch.setattr(
        reading, "open_safetensors", lambda path: opened.append(path) or open_file(path)
    )
    load = FileWeights(checkpoint, np.dtype(np.float32))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(load(name), tensor)
    assert opened == [tmp_path / "model.safetensors"] * 5


@pytest.mark.parametrize("sharded", [False, True], ids=["single file", "sharded"])
def test_progress_grows_tensor_by_tensor_to_the_total(tiny_checkpoint, save_sharded, sharded):
    directory = tiny_checkpoint()
    single = directory / "model.safetensors"
    tensors = load_file(single)
    if sharded:
        names = sorted(tensors)
        single.unlink()
        save_sharded(
            directory,
            [{n: tensors[n] for n in names[:4]}, {n: tensors[n] for n in names[4:]}],
        )
    calls: list[tuple[str, int, int]] = []
    LLM(directory, progress=lambda *call: calls.append(call))

    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    total = sum(sizes.values())
    assert sorted(name for name, _, _ in calls) == sorted(tensors)
    done = 0
    for name, done_bytes, total_bytes in calls:
        done += sizes[name]
        assert (done_bytes, total_bytes) == (done, total)
    assert done == total


def test_a_sharded_model_gives_the_logits_of_the_same_model_in_one_file(
    tiny_dir: Path, tiny_checkpoint, save_sharded
):
    directory = tiny_checkpoint()
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    save_sharded(directory, [{name: tensor} for name, tensor in tensors.items()])
    token_ids = [256, 65, 66, 67]
    np.testing.assert_array_equal(LLM(directory).logits(token_ids), LLM(tiny_dir).logits(token_ids))


def test_tensors_that_a_model_may_leave_aside_are_left_aside(tiny_dir: Path, tiny_checkpoint):
    directory = tiny_checkpoint()
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = np.full((272, 32), np.nan, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.full(4, np.nan, np.float32)
    save_file(tensors, directory / "model.safetensors")
    np.testing.assert_array_equal(LLM(directory).logits([1, 2]), LLM(tiny_dir).logits([1, 2]))


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2_is_read_with_and_without_its_prefix_and_with_its_masks(tiny_checkpoint, prefix):
    directory = tiny_checkpoint("gpt2")
    (directory / "config.json").write_text(
        '{"architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_layer": 1, "n_head": 2, '
        '"vocab_size": 272, "n_positions": 32}'
    )
    shapes = gpt2_tensors(load_config(directory), prefix)
    rng = np.random.default_rng(0)
    tensors = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    tensors[f"{prefix}h.0.attn.bias"] = np.ones((1, 1, 32, 32), np.float32)
    tensors[f"{prefix}h.0.attn.masked_bias"] = np.float32([-1e4])
    save_file(tensors, directory / "model.safetensors")
    model = load_model(open_model(directory), np.dtype(np.float32), 32)
    layer = f"{prefix}h.0"
    np.testing.assert_array_equal(
        model.layers[0].qkv.weight, tensors[f"{layer}.attn.c_attn.weight"].T
    )
    np.testing.assert_array_equal(
        model.layers[0].down.weight, tensors[f"{layer}.mlp.c_proj.weight"].T
    )
    assert LLM(directory).logits([1, 2, 3]).shape == (3, 272)


def test_loading_takes_at_most_a_fifth_more_memory_than_the_weights(tiny_checkpoint):
    """Python's own count of what it and NumPy allocate; mapped pages of the file are not in it."""
    directory = tiny_checkpoint(
        hidden_size=128, intermediate_size=352, num_hidden_layers=6, vocab_size=512
    )
    files = open_model(directory)
    weights = 4 * sum(info.num_elements for info in files.checkpoint.tensors.values())
    tracemalloc.start()
    try:
        model = load_model(files, np.dtype(np.float32), num_positions=96)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert model.config.num_layers == 6
    assert weights <= kept
    assert peak <= 1.2 * weights
