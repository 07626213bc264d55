"""Loading a stranger's file of kernels where there is no GPU to compile them for."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import cuda
from numba.cuda import decorators, types

from llm_numba.simulator import simulate
from llm_numba.simulator.loading import KernelFileError, as_declared, lazy_signatures, load_file

HEAD = "from numba import cuda, float32, void\n"
BODY = "def scale(x, a):\n    i = cuda.grid(1)\n    if i < x.size:\n        x[i] *= a\n"


@pytest.fixture
def write(tmp_path):
    """Write a Python file and return its path."""

    def write(text: str, name: str = "kernels.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    "decorator",
    ['@cuda.jit("void(float32[:], float32)")',
     "@cuda.jit(void(float32[:], float32))",
     "@cuda.jit((float32[:], float32))",
     '@cuda.jit(["void(float32[:], float32)", "void(float64[:], float64)"], fastmath=True)',
     '@cuda.jit("void(float32[:], float32)", False, cache=True, lto=True)',
     "@cuda.jit", "@cuda.jit(cache=True)", "@cuda.jit(lineinfo=True)"],
)  # fmt: skip
def test_each_way_to_declare_a_kernel_loads_and_runs(write, decorator):
    module = load_file(write(f"{HEAD}\n{decorator}\n{BODY}"))
    x = np.arange(64, dtype=np.float32)
    simulate(module.scale, 2, 32, as_declared(module.scale, (x, 3.0)))
    np.testing.assert_array_equal(x, 3 * np.arange(64))


@pytest.mark.parametrize("spelling", ["from numba.cuda import jit",
                                      "from numba.cuda.decorators import jit"])  # fmt: skip
def test_the_decorator_may_be_imported_by_itself(write, spelling):
    signature = '@jit("void(float32[:], float32)")'
    module = load_file(write(f"{HEAD}{spelling}\n\n{signature}\n{BODY}"))
    assert module.scale.declared == [(types.float32[:], types.float32)]


def test_a_device_function_with_a_signature_can_be_called(write):
    module = load_file(write(
        HEAD
        + '@cuda.jit("float32(float32)", device=True)\ndef twice(x):\n    return x + x\n'
        + "@cuda.jit\ndef kernel(x):\n    x[cuda.grid(1)] = twice(x[cuda.grid(1)])\n"
    ))  # fmt: skip
    x = np.ones(32, np.float32)
    simulate(module.kernel, 1, 32, (x,))
    assert (x == 2).all()


def test_the_decorator_is_itself_again_afterwards(write):
    before = cuda.jit, decorators.jit
    load_file(write(f"{HEAD}@cuda.jit\n{BODY}"))
    assert (cuda.jit, decorators.jit) == before
    with pytest.raises(KernelFileError):
        load_file(write("1 / 0"))
    assert (cuda.jit, decorators.jit) == before
    with pytest.raises(ZeroDivisionError), lazy_signatures():
        raise ZeroDivisionError
    assert (cuda.jit, decorators.jit) == before


def test_nothing_is_left_in_the_folder_nor_on_the_path(write, tmp_path):
    write("FACTOR = 3\n", "beside.py")
    path = list(sys.path)
    module = load_file(write(f"{HEAD}from beside import FACTOR\n@cuda.jit(cache=True)\n{BODY}"))
    sys.modules.pop("beside")
    assert module.FACTOR == 3
    assert sys.path == path
    assert {each.name for each in tmp_path.iterdir()} <= {"kernels.py", "beside.py", "__pycache__"}
    left = [each.name for each in tmp_path.glob("__pycache__/*")]
    assert not any(name.startswith("kernels") for name in left)


def test_a_file_may_load_another(write):
    write(f"{HEAD}@cuda.jit('void(float32[:], float32)')\n{BODY}", "other.py")
    module = load_file(write(
        "from pathlib import Path\nfrom llm_numba.simulator.loading import load_file\n"
        "scale = load_file(Path(__file__).with_name('other.py')).scale\n"
    ))  # fmt: skip
    assert module.scale.declared


def test_a_dataclass_may_name_its_types_in_strings(write):
    module = load_file(write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Shape:\n    rows: int = 2\n"
    ))  # fmt: skip
    assert module.Shape().rows == 2


def test_what_stands_under_main_does_not_run(write):
    module = load_file(write("ran = False\nif __name__ == '__main__':\n    ran = True\n"))
    assert not module.ran


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = 1\n1 / 0\n", ["kernels.py:2:", "ZeroDivisionError"]),
     ("def f():\n    raise ValueError('no')\n\nf()\n", ["kernels.py:2:", "ValueError: no"]),
     ("x = (\n", ["kernels.py:1:", "SyntaxError"]),
     ("import no_such_module\n", ["kernels.py:1:", "no_such_module"]),
     ("raise SystemExit(3)\n", ["kernels.py:1:", "SystemExit"]),
     ("from numba import cuda\ncuda.get_current_device()\n", ["kernels.py:2:", "__main__"])],
)  # fmt: skip
def test_a_file_that_fails_is_told_with_the_line(write, text, words):
    if "get_current_device" in text and cuda.is_available():
        pytest.skip("there is a GPU: nothing fails")
    with pytest.raises(KernelFileError) as raised:
        load_file(write(text))
    for word in words:
        assert word in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KernelFileError, match=re.escape(str(tmp_path / "no.py"))):
        load_file(tmp_path / "no.py")
    with pytest.raises(KernelFileError, match="cannot be read"):
        load_file(tmp_path)


# -- Signatures ---------------------------------------------------------------------------------


@pytest.fixture
def declared(write):
    """Return a kernel declared with signatures."""

    def declare(*signatures: str) -> object:
        return load_file(write(f"{HEAD}@cuda.jit({list(signatures)})\n{BODY}")).scale

    return declare


def test_scalars_become_what_the_signature_says(declared):
    kernel = declared("void(float32[:], float32)")
    x = np.zeros(4, np.float32)
    array, scalar = as_declared(kernel, (x, 0.1))
    assert array is x
    assert (type(scalar), scalar) == (np.float32, np.float32(0.1))


def test_the_first_signature_whose_arrays_fit_is_taken(declared):
    kernel = declared("void(float32[:], float32)", "void(float64[:], float64)")
    _, scalar = as_declared(kernel, (np.zeros(4), 1))
    assert type(scalar) is np.float64


@pytest.mark.parametrize(
    ("signature", "args"),
    [("void(float32[:], float32)", (np.zeros(4), 1.0)),
     ("void(float32[:], float32)", (np.zeros((4, 4), np.float32), 1.0)),
     ("void(float32[:], float32)", (np.zeros(4, np.float32), np.zeros(4, np.float32))),
     ("void(float32[:], float32)", (1.0, 1.0)),
     ("void(float32[:], float32)", (np.zeros(4, np.float32),)),
     ("void(float32[::1], float32)", (np.zeros(8, np.float32)[::2], 1.0))],
)  # fmt: skip
def test_arguments_that_no_signature_takes_are_refused(declared, signature, args):
    with pytest.raises(KernelFileError, match="'scale' is declared for"):
        as_declared(declared(signature), args)


def test_any_layout_fits_where_none_is_asked_for(declared):
    x = np.zeros(8, np.float32)[::2]
    assert as_declared(declared("void(float32[:], float32)"), (x, 1.0))[0] is x


def test_without_a_signature_arguments_stay_as_they_are(write):
    kernel = load_file(write(f"{HEAD}@cuda.jit\n{BODY}")).scale
    args = (np.zeros(4), 1.0)
    assert as_declared(kernel, args) is args
