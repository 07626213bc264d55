"""Wrong arguments of launchers: each error names the argument, what it is, and what it must be."""

import fractions
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks
from llm_numba.runtime import to_device


def simulated(shape=(3, 4), dtype="float32"):
    return to_device(np.zeros(shape, dtype), "sim")


def refusal(check, *arguments, **options):
    with pytest.raises(KernelArgumentError) as caught:
        check(*arguments, **options)
    assert repr(arguments[0]) in caught.value.cause
    return caught.value


# -- Arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "needs"),
    [
        ((3, 4), "float32", {}),
        ((3, 4), "bfloat16", {"ndim": 2}),
        ((3, 4), "float16", {"ndim": (1, 2), "shape": (3, 4)}),
        ((0, 4), "float32", {"shape": (None, 4)}),
        ((), "float32", {"ndim": 0, "shape": ()}),
        ((7,), "int32", {"dtype": "int32"}),
        ((7,), "int32", {"dtype": ("int64", "int32")}),
        ((7,), "uint8", {"dtype": None}),
    ],
)
def test_right_arrays_pass(shape, dtype, needs):
    checks.array("x", simulated(shape, dtype), **needs)


@pytest.mark.parametrize(
    ("value", "needs", "got", "must"),
    [
        (simulated(), {"ndim": 1}, "has 2 axes (shape (3, 4))", "have 1 axis"),
        (simulated(), {"ndim": (1, 3)}, "has 2 axes (shape (3, 4))", "have 1 or 3 axes"),
        (simulated((5,)), {"ndim": 2}, "has 1 axis (shape (5,))", "have 2 axes"),
        (simulated(()), {"ndim": 1}, "has 0 axes (shape ())", "have 1 axis"),
        (simulated(), {"shape": (3, 5)}, "has shape (3, 4)", "have shape (3, 5)"),
        (simulated(), {"shape": (4, None)}, "has shape (3, 4)", "have shape (4, any)"),
        (simulated(), {"shape": (12,)}, "has shape (3, 4)", "have shape (12,)"),
        (simulated((5,)), {"shape": (None, 5)}, "has shape (5,)", "have shape (any, 5)"),
        (simulated(dtype="float64"), {}, "dtype float64", "dtype float32 or float16 or bfloat16"),
        (simulated(dtype="bfloat16"), {"dtype": "int32"}, "dtype bfloat16", "dtype int32"),
        (simulated(dtype="uint16"), {}, "has dtype uint16", "float32 or float16 or bfloat16"),
        (simulated().T, {}, "has strides (4, 16) bytes for shape (4, 3)", "be C-contiguous"),
        (simulated()[:, ::2], {}, "has strides (16, 8) bytes for shape (3, 2)", "be C-contiguous"),
        (simulated()[:, 1:], {}, "has strides (16, 4) bytes for shape (3, 3)", "be C-contiguous"),
        ([1.0, 2.0], {}, "is of type list", "be a CuPy array"),
        (None, {}, "is of type NoneType", "be a CuPy array"),
        (3.0, {}, "is of type float", "be a CuPy array"),
        (np.float32(3), {}, "is of type float32", "be a CuPy array"),
    ],
)
def test_wrong_arrays_are_named_with_what_they_are_and_must_be(value, needs, got, must):
    error = refusal(checks.array, "weight", value, **needs)
    assert got in error.cause
    assert must in error.remedy


def test_gaps_are_allowed_on_request():
    checks.array("x", simulated().T, contiguous=False)


@pytest.mark.parametrize("wish", [None, "0"])
def test_the_hosts_memory_is_refused(wish, monkeypatch):
    monkeypatch.delenv("LLM_NUMBA_SIM", raising=False)
    if wish is not None:
        monkeypatch.setenv("LLM_NUMBA_SIM", wish)
    error = refusal(checks.array, "x", np.zeros(3, np.float32))
    assert "host's memory" in error.cause
    assert "to_device" in error.remedy


def test_the_hosts_memory_will_do_where_the_environment_asks_for_the_simulator(monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_SIM", "1")
    checks.array("x", np.zeros(3, np.float32))
    with pytest.raises(KernelArgumentError):
        checks.array("x", np.zeros(3))


class OnGpu:
    """As much of a CuPy array as the checks look at."""

    dtype, ndim, shape = np.dtype(np.float32), 1, (3,)
    flags = SimpleNamespace(c_contiguous=True)

    def __init__(self, ordinal):
        self.device = SimpleNamespace(id=ordinal)


@pytest.fixture
def _cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=OnGpu))


@pytest.mark.usefixtures("_cupy")
@pytest.mark.parametrize(
    ("first", "second", "got", "must"),
    [
        (OnGpu(0), simulated(), "is on the simulated device", "be on GPU 0"),
        (simulated(), OnGpu(0), "is on GPU 0", "be on the simulated device"),
        (OnGpu(0), OnGpu(1), "is on GPU 1", "be on GPU 0"),
    ],
)
def test_arrays_of_one_launch_share_a_device(first, second, got, must):
    checks.array("x", first)
    error = refusal(checks.array, "out", second, like=first)
    assert got in error.cause
    assert must in error.remedy


@pytest.mark.usefixtures("_cupy")
def test_arrays_on_one_device_pass():
    checks.array("out", OnGpu(1), like=OnGpu(1))
    checks.array("out", simulated(), like=simulated((5,)))


# -- Names and numbers --------------------------------------------------------------------------


def test_a_choice_is_one_of_the_names():
    checks.choice("step", "tiled", ("naive", "tiled"))


@pytest.mark.parametrize("value", ["Tiled", "", None, 1, ["tiled"], np.zeros(2)])
def test_another_choice_is_named_with_those_there_are(value):
    error = refusal(checks.choice, "step", value, iter(["naive", "tiled"]))
    assert repr(value) in error.cause
    assert "naive, tiled" in error.remedy


@pytest.mark.parametrize(
    "value", [2, -0.5, np.float32(2), np.int8(3), ml_dtypes.bfloat16(2), fractions.Fraction(1, 2)]
)
def test_real_numbers_pass_as_python_floats(value):
    checked = checks.number("scale", value, finite=True)
    assert type(checked) is float
    assert checked == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("-inf")])
def test_numbers_that_are_not_finite_pass_unless_refused(value):
    np.testing.assert_equal(checks.number("scale", value), float(value))
    error = refusal(checks.number, "scale", value, finite=True)
    assert str(value) in error.cause
    assert "finite" in error.remedy


@pytest.mark.parametrize(
    "value",
    [None, "1", True, np.True_, 1j, np.complex64(1), [1], np.ones(1), simulated((1,))],
    ids=repr,
)
def test_what_is_no_real_number_is_refused(value):
    assert "real number" in refusal(checks.number, "eps", value).remedy
    assert "integer" in refusal(checks.integer, "size", value).remedy


@pytest.mark.parametrize("value", [0.0, -1, float("nan")])
def test_a_least_value_holds_for_nan_too(value):
    assert "at least 0.5" in refusal(checks.number, "eps", value, at_least=0.5).remedy
    assert checks.number("eps", 0.5, at_least=0.5) == 0.5


@pytest.mark.parametrize("value", [0, 5, np.int64(7), np.uint8(3), 2**31 - 1])
def test_integers_pass_as_python_integers(value):
    checked = checks.integer("size", value)
    assert type(checked) is int
    assert checked == value


@pytest.mark.parametrize("value", [1.0, np.float32(2), fractions.Fraction(4, 2)])
def test_whole_floats_are_no_integers(value):
    assert "integer" in refusal(checks.integer, "size", value).remedy


@pytest.mark.parametrize("value", [-1, 2**31])
def test_integers_stay_within_32_bits_unless_told_otherwise(value):
    error = refusal(checks.integer, "size", value)
    assert str(value) in error.cause
    assert "from 0 to 2147483647" in error.remedy
    assert checks.integer("size", value, at_least=-1, at_most=2**31) == value
