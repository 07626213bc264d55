"""A kernel's fingerprint: it changes with all that machine code depends on, and with no more."""

import importlib
import os
import struct
import subprocess
import sys
import types as python_types
from importlib import metadata
from pathlib import Path

import pytest
from cuda import pathfinder
from numba.cuda import types

from llm_numba.kernels import ptx
from llm_numba.kernels.ladder import all_ladders
from llm_numba.runtime import fingerprint as module
from llm_numba.runtime.fingerprint import environment, fingerprint

SIGNATURE = (types.float32[::1], types.int64)

# A kernel, a device function that it calls, and one that this calls in its turn; a factory.
SOURCE = '''
import math
import numpy as np
from numba import cuda, float32
from numba.cuda import libdevice

FACTOR = 3
TABLE = np.arange(4)
PAIR = (1, "two", None)

@cuda.jit(device=True)
def inner(x):
    """Two levels down."""
    return x * float32(2)  # doubled

@cuda.jit(device=True)
def outer(x, power=1):
    total = inner(x)
    return total + math.exp(x) + libdevice.float_as_int(x) + power

def make(width, function):
    @cuda.jit
    def kernel(x, n):
        """What it does."""
        i = cuda.grid(1)
        if i < n and i in (1, 2):
            x[i] = function(x[i]) * FACTOR + width + TABLE[i % 4] + PAIR[0]
    return kernel

kernel = make(8, outer)
'''


def load(source):
    made = python_types.ModuleType("made")
    exec(compile(source, "made.py", "exec"), made.__dict__)
    return made


def key(source=SOURCE, signature=SIGNATURE, capability="90"):
    found = fingerprint(load(source).kernel, signature, capability)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * float32(2)", "x * float32(3)"),
        ("x * float32(2)", "x + float32(2)"),
        ("make(8, outer)", "make(16, outer)"),
        ("make(8, outer)", "make(8.0, outer)"),
        ("make(8, outer)", "make(8, inner)"),
        ("FACTOR = 3", "FACTOR = 4"),
        ("FACTOR = 3", "FACTOR = True + 2.0"),
        ("np.arange(4)", "np.arange(4) + 1"),
        ("np.arange(4)", "np.arange(4).astype(np.int32)"),
        ('"two"', '"three"'),
        ("in (1, 2)", "in (1, 3)"),
        ("power=1", "power=2"),
        ("math.exp", "math.log"),
        ("libdevice.float_as_int", "libdevice.fast_expf"),
        ("@cuda.jit\n", "@cuda.jit(fastmath=True)\n"),
        ("@cuda.jit\n", "@cuda.jit(max_registers=32)\n"),
        ("@cuda.jit\n", "@cuda.jit(launch_bounds=(128, 2))\n"),
        ("@cuda.jit(device=True)\ndef inner", "@cuda.jit(device=True, inline='always')\ndef inner"),
    ],
)
def test_a_change_of_what_the_kernel_does_changes_it(old, new):
    assert SOURCE.count(old) == 1 or old == "@cuda.jit\n"
    assert key(SOURCE.replace(old, new)) != key()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # doubled", "  # or: made twice as large"),
        ("import math\n", "import math\n\n\n"),
        ("Two levels down", "Below"),
        ("What it does", "All of it"),
        ("total", "sum_"),
        ("PAIR = ", "UNUSED = 5\nPAIR = "),
    ],
)
def test_what_only_people_read_does_not(old, new):
    assert old in SOURCE
    assert key(SOURCE.replace(old, new)) == key()


def test_line_numbers_count_where_they_are_asked_for():
    with_lines = SOURCE.replace("@cuda.jit\n", "@cuda.jit(lineinfo=True)\n")
    assert key(with_lines) != key(with_lines.replace("import math\n", "import math\n\n"))


def test_types_of_arguments_and_the_gpu_count():
    keys = {
        key(signature=signature, capability=capability)
        for signature in (SIGNATURE, (types.float32[:], types.int64), SIGNATURE[::-1])
        for capability in ("90", "80")
    }
    assert len(keys) == 6


@pytest.fixture
def fresh_environment():
    environment.cache_clear()
    yield
    environment.cache_clear()


@pytest.mark.usefixtures("fresh_environment")
@pytest.mark.parametrize("package", ["numba", "numba-cuda", "llvmlite", "cuda-core"])
def test_another_version_of_a_compiler_counts(package, monkeypatch):
    before, version = key(), metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version(name) + "1" * (name == package))
    environment.cache_clear()
    assert key() != before


@pytest.mark.usefixtures("fresh_environment")
def test_another_file_of_nvvm_another_driver_and_a_setting_of_numbas_count(monkeypatch, tmp_path):
    keys = {key()}
    environment.cache_clear()
    monkeypatch.setattr(module, "_library", lambda name: f"{tmp_path / name} 17 4")
    keys.add(key())
    environment.cache_clear()
    monkeypatch.setattr(module, "_driver_version", lambda: 14000)
    keys.add(key())
    environment.cache_clear()
    monkeypatch.setenv("NUMBA_OPT", "1")
    keys.add(key())
    assert len(keys) == 4


def library(build):
    """As much of a shared library as tells its build: two segments, the second one of notes."""
    notes = b"\x04\0\0\0\x04\0\0\0\x01\0\0\0GNU\0\0\0\0\0"  # one of another kind
    notes += b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + build
    header = struct.pack("<6s26xQ14xHH6x", b"\x7fELF\x02\x01", 64, 56, 2)
    code = struct.pack("<II6Q", 1, 5, 0, 0, 0, 176, 176, 1)
    return header + code + struct.pack("<II6Q", 4, 4, 176, 0, 0, len(notes), len(notes), 4) + notes


def test_a_compiler_is_known_by_its_build_wherever_it_lies(tmp_path, monkeypatch):
    found = {}
    for place, data in {
        "a": library(b"\n" * 20),
        "copy of a": library(b"\n" * 20),
        "b": library(b"b" * 20),
        "none": library(b"")[:-16],
        "another none": library(b"")[:-16],
        "short": b"\x7fELF",
    }.items():
        path = tmp_path / place
        path.write_bytes(data)
        loaded = python_types.SimpleNamespace(abs_path=str(path))
        monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", lambda name, it=loaded: it)
        found[place] = module._library("nvJitLink")
    assert found["a"] == f"nvJitLink {'0a' * 20}" == found["copy of a"]
    assert len(set(found.values())) == len(found) - 1


def test_the_nvvm_that_numba_finds_counts(tmp_path, monkeypatch):
    (tmp_path / "libnvvm.so").write_bytes(library(b"v" * 20))
    monkeypatch.setattr(module, "get_cudalib", lambda name: str(tmp_path / f"lib{name}.so"))
    assert module._library("nvvm") == f"nvvm {'76' * 20}"


def test_a_compiler_that_is_not_there_is_said_to_be_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "get_cudalib", lambda name: str(tmp_path / name))
    assert module._library("nvvm") == "nvvm unknown"


INTRINSIC = """
from numba.cuda.extending import intrinsic
from helpers import emit

@intrinsic
def twice(typing_context, value):
    def codegen(context, builder, signature, args):
        return emit(builder, args[0])
    return value(value), codegen
"""
USES_INTRINSIC = """
import {name}
from numba import cuda

@cuda.jit
def kernel(x, n):
    x[n] = {name}.twice(x[n])
"""


@pytest.fixture
def _forgotten(tmp_path):
    """Leave no module of this test behind: another test may look for its own by that name."""
    yield
    for name, found in list(sys.modules.items()):
        if str(getattr(found, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(
    ("changed", "counts"),
    [("intrinsics.py", True), ("helpers.py", True), ("deeper.py", True), ("others.py", False)],
)
def test_the_files_beside_an_intrinsic_that_it_imports_count(
    changed, counts, tmp_path, monkeypatch
):
    files = {
        "intrinsics.py": INTRINSIC,
        "helpers.py": "import deeper\n\ndef emit(builder, x):\n    return deeper.add(builder, x)\n",
        "deeper.py": "def add(builder, x):\n    return builder.add(x, x)\n",
        "others.py": "import intrinsics\n",
    }
    found = []
    for number, line in enumerate(["", "X = 1\n"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text + line * (name == changed))
        monkeypatch.syspath_prepend(folder)
        for name in files:
            monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
        found.append(key(USES_INTRINSIC.format(name="intrinsics")))
    assert (found[0] != found[1]) == counts


def test_of_the_instructions_files_a_kernel_counts_what_it_needs():
    names = {each.stem for each in module._imported_beside(Path(ptx.tensor.__file__))}
    assert names == {"elements", "formats"}
    assert module._sources(Path(ptx.tensor.__file__)) != module._sources(Path(ptx.special.__file__))


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize("name", ["helpers_of_mine", "quopri"])
def test_a_module_of_ones_own_counts_even_under_the_name_of_pythons(name, tmp_path, monkeypatch):
    found = []
    for step in (1, 2):
        folder = tmp_path / str(step)
        folder.mkdir()
        text = f"from numba import cuda\nSTEP = {step}\ndef plain(x):\n    return x + {step}\n"
        (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, name, raising=False)
        module._is_standard.cache_clear()
        twice = USES_INTRINSIC.format(name=name).replace("twice(x[n])", "plain(x[n])")
        found += [key(twice), key(twice.replace(f"{name}.plain(x[n])", f"{name}.STEP"))]
    module._is_standard.cache_clear()
    assert len(set(found)) == 4


@pytest.mark.parametrize("name", ["math", "operator", "collections", "builtins", "json"])
def test_pythons_own_modules_are_known_as_such(name):
    assert module._is_standard(importlib.import_module(name).__name__)


def test_functions_that_call_themselves_and_each_other_end():
    source = """
from numba import cuda

@cuda.jit(device=True)
def even(n):
    return True if n == 0 else odd(n - 1)

@cuda.jit(device=True)
def odd(n):
    return False if n == 0 else even(n - {step})

@cuda.jit
def kernel(x, n):
    x[n] = even(n)
"""
    assert key(source.format(step=1)) == key(source.format(step=1)) != key(source.format(step=2))


def test_the_order_of_a_named_tuples_fields_counts():
    """The kernel and the values are the same; which of them it means is not."""
    source = """
from collections import namedtuple
from numba import cuda

TILE = namedtuple("Tile", "{fields}")(8, 16)

@cuda.jit
def kernel(x, n):
    x[n] = TILE.rows
"""
    orders = [source.format(fields=fields) for fields in ("rows columns", "columns rows")]
    assert key(orders[0]) == key(orders[0]) != key(orders[1])


def test_a_kernel_whose_device_function_may_have_been_compiled_with_another_global_has_none():
    """As in a notebook whose first cell was run again: the function is the old one, in part."""
    source = SOURCE.replace("float32(2)  #", "float32(FACTOR)  #")
    made = load(source)
    first = fingerprint(made.kernel, SIGNATURE, "90")
    assert first == fingerprint(made.kernel, SIGNATURE, "90") == key(source)
    made.FACTOR = 4
    again = made.make(8, made.outer)
    assert fingerprint(again, SIGNATURE, "90") is None
    made.FACTOR = 3
    assert fingerprint(again, SIGNATURE, "90") == first


@pytest.mark.parametrize("value", ["object()", "[object()]", "{1: iter(())}"])
def test_a_kernel_that_names_what_nobody_knows_has_none(value):
    source = SOURCE.replace("FACTOR = 3", f"FACTOR = {value}")
    assert fingerprint(load(source).kernel, SIGNATURE, "90") is None


def test_every_kernel_of_every_ladder_has_one_of_its_own():
    kernels = {
        k for ladder in all_ladders().values() for step in ladder.steps for k in step.kernels
    }
    found = {}
    for kernel in kernels:
        mine = fingerprint(kernel, SIGNATURE, "90")
        assert mine is not None, kernel.py_func.__qualname__
        found.setdefault(mine, []).append(kernel)
    for alike in found.values():
        assert len({kernel.py_func.__code__ for kernel in alike}) == 1


PRINT = """
from numba.cuda import types
from llm_numba.kernels import gemv, softmax
from llm_numba.runtime.fingerprint import fingerprint

kernels = (*gemv.LADDER.steps[-1].kernels, *softmax.LADDER.steps[-1].kernels)
# In no order: a step's kernels may come from a set.
print(*sorted(str(fingerprint(kernel, (types.float32[::1],), "90")) for kernel in kernels))
"""


def test_another_process_finds_the_same():
    environment_of = {
        seed: os.environ
        | {"PYTHONHASHSEED": seed, "PYTHONMALLOC": how, "PYTHONPATH": os.pathsep.join(sys.path)}
        for seed, how in (("1", "pymalloc"), ("2", "malloc"))
    }
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PRINT], env=env, capture_output=True, text=True, check=True
        ).stdout
        for env in environment_of.values()
    }
    assert len(outputs) == 1
    assert "None" not in outputs.pop()
