"""Arrays of the simulated device, and those of CuPy as far as no GPU is needed to tell them."""

import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from llm_numba.errors import DeviceError, KernelArgumentError
from llm_numba.runtime import (
    device,
    empty,
    empty_like,
    is_device_array,
    kernel_view,
    kind_of,
    storage_dtype,
    to_device,
    to_host,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = ["float32", "float16", "bfloat16", "int32", "uint8", "bool"]


@pytest.fixture
def x():
    return to_device(np.arange(12, dtype=np.float32).reshape(3, 4), "sim")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0), (5, 3)])
def test_there_and_back_again(dtype, shape):
    host = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    there = to_device(host, "sim")
    back = to_host(there)
    assert (kind_of(there), kind_of(back)) == ("sim", "host")
    assert there.dtype == back.dtype == host.dtype
    np.testing.assert_array_equal(back, host)


def test_copies_share_no_memory():
    host = np.zeros(4)
    there = to_device(host, "sim")
    back = to_host(there)
    there[:] = 1
    assert not host.any()
    assert not back.any()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[1:],
        lambda x: x[0],
        lambda x: x[::2, 1],
        lambda x: x.T,
        lambda x: x.reshape(-1),
        lambda x: x.view(np.int32),
        lambda x: x.ravel(),
        lambda x: x + 1,
        lambda x: np.exp(x),
        lambda x: x.astype(np.float16),
        lambda x: np.concatenate([np.zeros((1, 4)), x]),
    ],
)
def test_what_is_made_of_a_simulated_array_is_one(view, x):
    assert kind_of(view(x)) == "sim"
    assert is_device_array(view(x))


def test_views_write_into_the_array_itself(x):
    x.reshape(-1)[5] = -1
    assert to_host(x)[1, 1] == -1


def test_order_is_kept():
    host = np.asfortranarray(np.arange(6).reshape(2, 3))
    assert to_device(host, "sim").flags.f_contiguous
    assert to_device(np.arange(6).reshape(2, 3), "sim").flags.c_contiguous
    np.testing.assert_array_equal(to_device(host[:, ::2], "sim"), host[:, ::2])


@pytest.mark.parametrize("value", [3, 2.5, "x", None, [1, 2], np.float32(1)])
def test_what_is_no_array(value):
    assert kind_of(value) is None
    assert not is_device_array(value)


def test_numpy_arrays_lie_on_the_host():
    assert kind_of(np.zeros(3)) == "host"
    assert not is_device_array(np.zeros(3))


def test_arrays_of_cupy_are_known_without_importing_it(monkeypatch):
    class CupyArray:
        pass

    class Other:
        pass

    assert kind_of(Other()) is None
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=CupyArray))
    assert kind_of(CupyArray()) == "cuda"
    assert kind_of(np.zeros(3)) == "host"


# -- New arrays ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_new_floats_are_nan_until_they_are_written(dtype, x):
    new = empty((3, 5), dtype, like=x)
    assert (kind_of(new), new.shape, storage_dtype(new)) == ("sim", (3, 5), dtype)
    assert np.isnan(to_host(new).astype(np.float32)).all()


def test_new_integers_are_minus_one_until_they_are_written(x):
    np.testing.assert_array_equal(empty(4, np.int32, like=x), np.full(4, -1))


@pytest.mark.parametrize("shape", [3, (5, 7), (2, 3, 4)])
def test_new_arrays_are_aligned_as_on_a_gpu(shape, x):
    for _ in range(8):
        assert empty(shape, "bfloat16", like=x).ctypes.data % 256 == 0
        assert to_device(np.zeros(shape, np.uint8), "sim").ctypes.data % 256 == 0


def test_empty_like_takes_shape_dtype_and_device_but_is_contiguous(x):
    new = empty_like(x.T.view(np.int32))
    assert (kind_of(new), new.shape, new.dtype) == ("sim", (4, 3), np.int32)
    assert new.flags.c_contiguous
    assert kind_of(empty_like(np.zeros(3))) == "host"


@pytest.mark.parametrize("call", [lambda: empty(3, "float32", like=[1]), lambda: to_host([1])])
def test_what_is_no_array_is_refused(call):
    with pytest.raises(KernelArgumentError, match="list, which is no array"):
        call()


# -- Number formats -----------------------------------------------------------------------------


def test_a_kernel_sees_bfloat16_as_the_bits_of_it():
    x = to_device(np.array([1.0, -2.0], BFLOAT16), "sim")
    bits = kernel_view(x)
    assert (kind_of(bits), bits.dtype) == ("sim", np.uint16)
    assert bits.tolist() == [0x3F80, 0xC000]
    bits[0] = 0x4040
    assert x[0] == 3


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "bfloat16"])
def test_a_kernel_sees_all_else_as_it_is(dtype):
    x = to_device(np.zeros((2, 3), dtype), "sim")
    assert kernel_view(x) is x
    assert storage_dtype(x) == dtype


def test_bfloat16_is_known_by_its_name():
    assert storage_dtype(np.zeros(2, BFLOAT16)) == "bfloat16"


# -- The choice of a device ---------------------------------------------------------------------


def test_the_environment_asks_for_the_simulator(monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_SIM", "1")
    monkeypatch.setattr(device, "gpu_problem", lambda: None)
    assert kind_of(to_device(np.zeros(2))) == "sim"


@pytest.mark.parametrize("value", [None, "", "0"])
def test_without_a_gpu_and_a_wish_there_is_no_device(value, monkeypatch):
    if value is None:
        monkeypatch.delenv("LLM_NUMBA_SIM", raising=False)
    else:
        monkeypatch.setenv("LLM_NUMBA_SIM", value)
    monkeypatch.setattr(device, "gpu_problem", lambda: "there is no driver")
    with pytest.raises(DeviceError, match="there is no driver") as caught:
        to_device(np.zeros(2))
    assert "LLM_NUMBA_SIM=1" in caught.value.remedy


def test_a_gpu_that_was_asked_for_is_not_replaced_by_the_simulator(monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_SIM", "1")
    monkeypatch.setattr(device, "gpu_problem", lambda: "there is no driver")
    with pytest.raises(DeviceError):
        to_device(np.zeros(2), "cuda")


@pytest.mark.parametrize("name", ["gpu", "cpu", "SIM", ""])
def test_an_unknown_device_is_named_with_the_known_ones(name, monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_SIM", "1")
    with pytest.raises(DeviceError) as caught:
        to_device(np.zeros(2), name)
    assert repr(name) in caught.value.cause
    assert "cuda, sim" in caught.value.remedy
