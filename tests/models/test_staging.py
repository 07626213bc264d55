"""Weights of files on their way to a GPU: in pieces, converted, stacked, turned, and complete."""

import gc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_numba.errors import CheckpointError
from llm_numba.models import Checkpoint, load_model, open_model, resolve_model
from llm_numba.models.weights import FileWeights
from llm_numba.runtime import kind_of, staging, to_host

STORAGE = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64}


@pytest.fixture(params=[64, 4096, staging.PIECE_BYTES], ids=["tiny", "small", "usual"])
def _pieces(request, monkeypatch):
    monkeypatch.setattr(staging, "PIECE_BYTES", request.param)


def random(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.gpu
@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_gpu_gets_what_numpy_converts(tmp_path, storage, dtype):
    tensors = {
        name: random(*shape, dtype=STORAGE[storage], seed=seed)
        for seed, (name, shape) in enumerate(
            {"q": (37, 24), "k": (5, 24), "bias": (37,), "one": (1,), "turned": (33, 12)}.items()
        )
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with FileWeights(Checkpoint(tmp_path), np.dtype(dtype), device="cuda") as load:
        stacked, turned = load("q", "k"), load("turned", transpose=True)
        bias, one = load("bias"), load("one")
        stacked_turned = load("turned", "turned", transpose=True)
    expected = [
        np.concatenate([tensors["q"], tensors["k"]]),
        tensors["turned"].T,
        tensors["bias"],
        tensors["one"],
        np.concatenate([tensors["turned"].T] * 2),
    ]
    found = (stacked, turned, bias, one, stacked_turned)
    for array, wanted in zip(found, expected, strict=True):
        assert (kind_of(array), array.dtype) == ("cuda", np.dtype(dtype))
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(to_host(array), wanted.astype(dtype))


@pytest.mark.gpu
@pytest.mark.usefixtures("_pieces")
def test_a_sharded_model_is_that_of_the_host(tiny_checkpoint, save_sharded):
    directory = tiny_checkpoint()
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    save_sharded(directory, [{name: tensor} for name, tensor in tensors.items()])
    here, there = (
        load_model(open_model(directory), np.dtype(np.float32), 64, None, device)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_array_equal(to_host(there.lm_head), here.lm_head)
    for mine, others in zip(here.layers, there.layers, strict=True):
        for name, array in vars(mine).items():
            if array is not None:
                np.testing.assert_array_equal(to_host(getattr(others, name)), array)


@pytest.mark.gpu
@pytest.mark.usefixtures("_pieces")
def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    save_file({"w": random(300, 200)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    load = FileWeights(checkpoint, np.dtype("bfloat16"), device="cuda")
    with pytest.raises(CheckpointError, match=r"ended after 1\d{5} bytes"), load:
        load("w")


@pytest.mark.gpu
def test_an_error_of_the_caller_is_the_one_that_is_seen(tmp_path):
    save_file({"w": random(300, 200)}, tmp_path / "model.safetensors")
    load = FileWeights(Checkpoint(tmp_path), np.dtype("bfloat16"), device="cuda")
    with pytest.raises(KeyError, match="absent"), load:
        [load(name) for name in ("w", "absent")]


@pytest.mark.gpu
@pytest.mark.unsanitised(reason="memory comes from no pool, which this test looks at")
@pytest.mark.parametrize("model", ["storyteller", "random:tiny"])
def test_a_model_takes_the_memory_of_its_weights_at_once(model):
    import cupy

    gc.collect()
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    held, taken = pool.used_bytes(), []
    files = open_model(resolve_model(model))
    loaded = load_model(
        files, np.dtype("bfloat16"), 64, lambda *call: taken.append(pool.total_bytes()), "cuda"
    )
    weights = 2 * sum(info.num_elements for info in files.checkpoint.tensors.values())
    assert len(set(taken)) == 1
    tables = loaded.cos.nbytes + loaded.sin.nbytes
    rounding = 512 * (len(files.checkpoint.tensors) + 2)
    assert weights <= pool.used_bytes() - held <= weights + tables + rounding


def test_a_tensor_begins_where_its_header_says(tmp_path):
    tensors = {"a": random(7, 3), "b": random(5, dtype=np.float16), "c": random(2, 2)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    data = path.read_bytes()
    for name, info in Checkpoint(tmp_path).tensors.items():
        stored = np.frombuffer(data, info.dtype, info.num_elements, info.begin)
        np.testing.assert_array_equal(stored.reshape(info.shape), tensors[name])


def test_a_long_read_is_put_together_from_short_ones(tmp_path, monkeypatch):
    """An operating system may answer a request for many bytes with fewer."""
    (tmp_path / "file").write_bytes(bytes(range(200)))
    real = staging.os.preadv
    monkeypatch.setattr(
        staging.os, "preadv", lambda file, into, begin: real(file, [into[0][:7]], begin)
    )
    buffer = np.zeros(150, np.uint8)
    with (tmp_path / "file").open("rb") as file:
        staging._read(file.fileno(), 20, buffer)
        assert buffer.tolist() == list(range(20, 170))
        with pytest.raises(CheckpointError, match="ended after 200 bytes"):
            staging._read(file.fileno(), 100, buffer)
