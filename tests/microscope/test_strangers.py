"""Somebody's own kernel: its file, its arguments, and what can be wrong with both."""

import numpy as np
import pytest

from llm_numba.errors import LaunchError
from llm_numba.microscope import examine_file, is_file
from llm_numba.simulator import OutOfBoundsError, UnsupportedError
from llm_numba.simulator.loading import KernelFileError

KERNEL = """
import numpy as np
from numba import cuda

@cuda.jit
def double(x):
    x[cuda.grid(1)] *= 2

@cuda.jit(device=True)
def helper(x):
    return x

size = 64
"""
EXAMPLE = "def example():\n    return 2, 32, (np.ones(size, np.float32),)\n"


@pytest.fixture
def write(tmp_path):
    """Write a Python file and return its path as text."""

    def write(text, name="kernels.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("target", ["kernels.py:k", "a/b:k", "./k.py", "kernels.py"])
def test_a_path_is_a_file(target):
    assert is_file(target)


@pytest.mark.parametrize("target", ["transpose", "row_sum", "pythonic"])
def test_a_name_is_none(target):
    assert not is_file(target)


def test_the_kernel_runs_with_the_arguments_of_its_file(write):
    target = f"{write(KERNEL + EXAMPLE)}:double"
    examination = examine_file(target)
    (view,) = examination.views
    (launch,) = view.launches
    assert (launch.args[0] == 2).all()
    assert (view.total.global_requests, view.total.global_sectors) == (4, 16)
    assert view.agreement is None
    assert examination.holds
    assert examination.title == target


def test_a_builder_of_the_kernel_s_own_name_goes_before_the_general_one(write):
    own = "def double_example():\n    return 1, 32, (np.ones(32),), 0\n"
    (view,) = examine_file(f"{write(KERNEL + EXAMPLE + own)}:double").views
    assert view.launches[0].grid == (1,)


def test_the_builder_may_stand_in_another_file_or_have_another_name(write):
    kernel = write(KERNEL + EXAMPLE.replace("example", "other"))
    args = write("import numpy as np\ndef build():\n    return 3, 32, [np.ones(96)]\n", "args.py")
    for builder, grid in ((f"{kernel}:other", (2,)), (f"{args}:build", (3,))):
        (view,) = examine_file(f"{kernel}:double", builder).views
        assert view.launches[0].grid == grid


def test_dynamic_shared_memory_is_passed_on(write):
    text = (
        "import numpy as np\nfrom numba import cuda, float32\n"
        "@cuda.jit\ndef turn(x):\n    s = cuda.shared.array(0, float32)\n    t = cuda.threadIdx.x\n"
        "    s[t] = x[t]\n    cuda.syncthreads()\n    x[t] = s[31 - t]\n"
        "def example():\n    return (1,), (32, 1), (np.arange(32, dtype=np.float32),), 128\n"
    )
    (view,) = examine_file(f"{write(text)}:turn").views
    assert (view.launches[0].args[0] == np.arange(32)[::-1]).all()
    assert view.reports[0].shared_bytes == 128


def test_scalars_are_converted_as_the_signature_says(write):
    text = (
        "import numpy as np\nfrom numba import cuda\n"
        '@cuda.jit("void(float64[:], float32)")\ndef put(x, a):\n    x[cuda.grid(1)] = a\n'
        "def example():\n    return 1, 32, (np.zeros(32), 0.1)\n"
    )
    (view,) = examine_file(f"{write(text)}:put").views
    assert (view.launches[0].args[0] == np.float32(0.1)).all()


def test_bfloat16_is_seen_as_its_bits(write):
    text = (
        "import ml_dtypes, numpy as np\nfrom numba import cuda\n"
        '@cuda.jit("void(uint16[:], uint16[:])")\n'
        "def bits(x, y):\n    y[cuda.grid(1)] = x[cuda.grid(1)]\n"
        "def example():\n"
        "    return 1, 32, (np.ones(32, ml_dtypes.bfloat16), np.zeros(32, np.uint16))\n"
    )
    (view,) = examine_file(f"{write(text)}:bits").views
    assert (view.launches[0].args[1] == 0x3F80).all()


# -- What can be wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [("triple", "There is no 'triple' in .*Choose one of double"),
     ("helper", "'helper' in .* is a device function.*double"),
     ("size", "'size' in .* is of type int, and no kernel.*double")],
)  # fmt: skip
def test_what_is_no_kernel_is_refused(write, name, words):
    with pytest.raises(KernelFileError, match=words):
        examine_file(f"{write(KERNEL + EXAMPLE)}:{name}")


def test_a_file_without_kernels_says_so(write):
    with pytest.raises(KernelFileError, match=r"no kernel.*Decorate one with @cuda\.jit"):
        examine_file(write("def f(x):\n    pass\n") + ":f")


def test_a_path_without_a_name_is_refused(write):
    with pytest.raises(KernelFileError, match="names no kernel"):
        examine_file(write(KERNEL + EXAMPLE))


def test_no_builder_is_told_with_how_to_write_one(write):
    with pytest.raises(KernelFileError, match=r"double_example or example.*\(grid, block, args\)"):
        examine_file(f"{write(KERNEL)}:double")


@pytest.mark.parametrize(
    ("builder", "words"),
    [("{0}:build", "There is no function 'build'"), ("{0}:size", "There is no function 'size'"),
     ("{0}", "names no function"), ("nowhere.py:build", "nowhere.py cannot be read")],
)  # fmt: skip
def test_a_builder_that_is_not_there_is_told(write, builder, words):
    path = write(KERNEL + EXAMPLE)
    with pytest.raises(KernelFileError, match=words):
        examine_file(f"{path}:double", builder.format(path))


@pytest.mark.parametrize(
    ("returned", "words"),
    [("None", "returns NoneType"), ("(1, 32)", r"returns \(int, int\)"),
     ("(1, 32, np.ones(3))", r"returns \(int, int, ndarray\)"), ("[1, 32, ()]", "returns list"),
     ("(1, 32, (), 0, 0)", "returns"), ("1 / 0", "fails: ZeroDivisionError")],
)  # fmt: skip
def test_a_builder_that_returns_nonsense_is_told_what_to_return(write, returned, words):
    path = write(f"{KERNEL}def example():\n    return {returned}\n")
    with pytest.raises(KernelFileError, match=words) as raised:
        examine_file(f"{path}:double")
    assert "(grid, block, args)" in raised.value.remedy


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [("1, 32, ()", LaunchError, "was given 0 arguments"),
     ("1, 2048, (np.ones(3),)", LaunchError, "2048"),
     ("'a', 32, (np.ones(3),)", LaunchError, "grid"),
     ("1, 32, (object(),)", UnsupportedError, "object"),
     ("1, 32, (np.ones(3),)", OutOfBoundsError, "kernels.py:7")],
)  # fmt: skip
def test_a_launch_that_cannot_run_is_told(write, returned, error, words):
    path = write(f"{KERNEL}def example():\n    return {returned}\n")
    with pytest.raises(error, match=words):
        examine_file(f"{path}:double")


def test_an_array_that_fits_no_signature_is_refused(write):
    text = KERNEL.replace("@cuda.jit\n", '@cuda.jit("void(float64[:])")\n', 1)
    with pytest.raises(KernelFileError, match="declared for"):
        examine_file(f"{write(text + EXAMPLE)}:double")
