"""Kernels compiled and assembled without a GPU; and what is said where the compiler is missing."""

import math
import re
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from numba import cuda, float32, int32
from numba.cuda import dispatcher, types

from llm_numba.errors import CompileError, DependencyError
from llm_numba.kernels import ptx
from llm_numba.kernels.softmax_streamed import softmax_streamed
from llm_numba.runtime import Launch, offline, to_device
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.offline import (
    Float64,
    assemble,
    capability_name,
    compile_to_ptx,
    compiler_problem,
    find_float64,
    resources,
    signature_of,
)

CAPABILITIES = [(7, 5), (8, 0), (8, 9), (9, 0), (9, 0, "a"), (10, 0)]
F32 = types.float32


@pytest.fixture
def _compiler(request):
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


def with_compiler(test):
    return pytest.mark.ptx(pytest.mark.usefixtures("_compiler")(test))


@cuda.jit(device=True)
def a_tenth(value):
    return 0.1 * value


@cuda.jit
def tenths(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = a_tenth(x[i])
        y[i] += float32(1)


@cuda.jit
def add(x, amount):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += amount


@cuda.jit
def keep(x):
    buffer = cuda.shared.array(300, int32)
    buffer[cuda.threadIdx.x] = x[0]
    cuda.syncthreads()
    x[0] = buffer[cuda.threadIdx.x ^ 1]


@cuda.jit
def look_up(x, y):
    table = cuda.local.array(32, float32)
    for j in range(32):
        table[j] = x[j]
    for j in range(x.size):
        table[int(x[j]) & 31] += x[j]
    y[0] = table[int(y[0]) & 31]


def crowd(x, y):
    values = cuda.local.array(64, float32)
    for j in range(64):
        values[j] = x[j * cuda.threadIdx.x]
    for k in range(int(x[0])):
        for j in range(64):
            values[j] = values[j] * x[k] + values[(j + 7) % 64]
    for j in range(64):
        y[j * cuda.threadIdx.x] = values[j]


@cuda.jit
def meet(x):
    cuda.cg.this_grid().sync()
    x[0] = 1


def launch(kernel, *args, shared_bytes=0):
    return Launch(kernel, (1,), (32,), args, shared_bytes)


@pytest.fixture
def x():
    return to_device(np.ones(64, np.float32), "sim")


# -- The types that a kernel is compiled for ----------------------------------------------------


def test_types_of_a_launch_are_those_that_numba_would_infer():
    bf16 = np.zeros((2, 3), ml_dtypes.bfloat16)
    args = (np.zeros((2, 3), np.float32), bf16.T, bf16[:, ::2], 1, 1.0, np.float32(1), True)
    assert signature_of(launch(add, *args)) == (
        types.Array(F32, 2, "C"),
        types.Array(types.uint16, 2, "F"),
        types.Array(types.uint16, 2, "A"),
        types.int64,
        types.float64,
        F32,
        types.boolean,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[:, ::2], lambda x: x[0]])
def test_types_of_arrays_agree_with_numbas_own_inference(dtype, view):
    array = view(np.zeros((4, 6), dtype))
    assert signature_of(launch(add, array)) == (add.typeof_pyval(array),)
    simulated = view(to_device(np.zeros((4, 6), dtype), "sim"))
    assert signature_of(launch(add, simulated)) == (add.typeof_pyval(array),)


@pytest.mark.parametrize(
    "value",
    [0, -5, 2**40, 1.5, True, np.int8(1), np.uint64(1), np.float16(1), np.float32(1), np.True_],
)
def test_types_of_scalars_agree_with_numbas_own_inference(value):
    assert signature_of(launch(add, value)) == (add.typeof_pyval(value),)


# -- What comes out -----------------------------------------------------------------------------


@with_compiler
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_capability_is_compiled_and_assembled(capability, x):
    found = resources(launch(add, x, np.float32(1)), capability)
    assert (found.kernel, found.capability) == ("add", capability_name(capability))
    assert found.signature == "array(float32, 1d, C), float32"
    assert 4 <= found.registers <= 32
    assert (found.shared_bytes, found.stack_bytes) == (0, 0)
    assert (found.spill_stores, found.spill_loads, found.float64) == (0, 0, ())


@with_compiler
def test_ptx_is_for_the_capability_that_is_named():
    for capability, target in [((7, 5), "sm_75"), ((9, 0, "a"), "sm_90a"), ((10, 0), "sm_100")]:
        ptx = compile_to_ptx(add, (types.Array(F32, 1, "C"), F32), capability)
        assert f".target {target}\n" in ptx


def without_names(text):
    """Number the names in PTX in their order: Numba's tell how often it has compiled something."""
    names = {}

    def number(found):
        return str(names.setdefault(found[0], len(names)))

    return re.sub(r"_(?:Z|cudapy_)\w+", number, text)


@cuda.jit(fastmath=True)
def choose(x, y):
    """Do what is done in different ways on different GPUs, by Numba or by us."""
    total = ptx.redux_add_sync(0xFFFFFFFF, int32(cuda.threadIdx.x))
    cuda.atomic.add(y, 0, math.tanh(x[0]) + math.exp(x[1]) / ptx.widen(x[2]))
    y[1] = total


@with_compiler
@pytest.mark.parametrize("capability", CAPABILITIES[1:])
def test_what_numba_hands_to_nvvm_is_the_same_for_every_capability(capability, monkeypatch):
    """A kernel is typed once for all; what comes out is as if it were typed for each."""
    for kernel, signature in [
        (choose, (types.Array(F32, 1, "C"),) * 2),
        (tenths, (types.Array(types.float64, 1, "C"),) * 2),
        (softmax_streamed(2, 1, 2, True, False), None),
    ]:
        if signature is None:
            matrix = types.Array(F32, 2, "C")
            signature = (matrix, types.Array(types.boolean, 2, "C"), F32, matrix)
        device = SimpleNamespace(compute_capability=capability[:2])
        monkeypatch.setattr(dispatcher, "get_current_device", lambda device=device: device)
        options = kernel.targetoptions
        own, _ = cuda.compile_ptx(
            kernel.py_func, signature, cc=capability, fastmath=options["fastmath"],
            opt=options["opt"], launch_bounds=options["launch_bounds"],
        )  # fmt: skip
        once = compile_to_ptx(kernel, signature, capability)
        assert without_names(once) == without_names(own)


@with_compiler
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_element_type_reaches_the_kernel(dtype):
    element = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}[dtype]
    x = to_device(np.zeros(3, dtype), "sim")
    assert resources(launch(keep, x), (9, 0)).signature == f"array({element}, 1d, C)"


@with_compiler
def test_shared_memory_is_static_and_dynamic_together(x):
    assert resources(launch(keep, x), (9, 0)).shared_bytes == 1200
    assert resources(launch(keep, x, shared_bytes=5000), (9, 0)).shared_bytes == 6200


@with_compiler
def test_arrays_that_are_indexed_by_data_lie_on_the_stack(x):
    found = resources(launch(look_up, x, x), (8, 0))
    assert found.stack_bytes == 32 * 4
    assert found.spill_stores == 0


@with_compiler
def test_spills_are_found_and_the_options_of_a_kernel_hold(x):
    free = resources(launch(cuda.jit(crowd), x, x), (8, 0))
    limited = resources(launch(cuda.jit(max_registers=24)(crowd), x, x), (8, 0))
    bounded = resources(launch(cuda.jit(launch_bounds=(1024, 2))(crowd), x, x), (8, 0))
    assert (free.spill_stores, free.spill_loads) == (0, 0)
    assert free.registers > 64
    assert limited.registers <= 24
    assert bounded.registers <= 32
    assert min(limited.spill_stores, limited.spill_loads, bounded.spill_stores) > 0


@with_compiler
def test_fast_mathematics_is_an_option_that_holds(x):
    def divide(x, y):
        y[0] = x[0] / x[1]

    signature = signature_of(launch(None, x, x))
    assert "div.rn.f32" in compile_to_ptx(cuda.jit(divide), signature, (8, 0))
    assert "div.approx.ftz.f32" in compile_to_ptx(
        cuda.jit(fastmath=True)(divide), signature, (8, 0)
    )


@with_compiler
def test_float64_is_found_with_the_line_that_asks_for_it(x):
    found = resources(launch(tenths, x, x), (9, 0)).float64
    line = tenths.py_func.__code__.co_firstlineno + 4
    assert {(item.file, item.line) for item in found} == {(__file__, line)}
    assert any("0d3FB999999999999A" in item.instruction for item in found)  # 0.1


@with_compiler
def test_a_float64_scalar_for_float32_arrays_is_found(x):
    assert resources(launch(add, x, 0.1), (9, 0)).float64
    assert not resources(launch(add, x, np.float32(0.1)), (9, 0)).float64


@with_compiler
def test_what_numba_links_at_the_launch_only_is_left_open(x):
    assert resources(launch(meet, x), (9, 0)).registers > 0


@with_compiler
def test_an_instruction_that_a_capability_lacks_is_refused():
    ptx = compile_to_ptx(add, (types.Array(F32, 1, "C"), F32), (8, 0))
    redux = ptx.replace("ret;", "redux.sync.add.s32 %r1, %r1, 0xffffffff;\n\tret;")
    assemble(redux, (8, 0))
    with pytest.raises(CompileError, match=r"compute capability 7\.5.*redux"):
        assemble(redux.replace("sm_80", "sm_75"), (7, 5))


@with_compiler
def test_numba_believes_in_the_capability_only_while_it_compiles(monkeypatch):
    def device():
        raise AssertionError("nobody has a GPU here")

    monkeypatch.setattr(dispatcher, "get_current_device", device)
    compile_to_ptx(tenths, (types.Array(F32, 1, "C"),) * 2, (9, 0))
    assert dispatcher.get_current_device is device
    with pytest.raises(Exception, match="Failed in cuda mode"):
        compile_to_ptx(tenths, (types.unicode_type, F32), (9, 0))
    assert dispatcher.get_current_device is device


# -- Reading PTX --------------------------------------------------------------------------------

PTX = """
.visible .entry kernel(.param .f64 kernel_param_0)
{
	.reg .f64 	%fd<4>;
	.loc	2 17 0
	ld.param.f64 	%fd1, [kernel_param_0];
	.loc	1 12 5, function_name $L__info_string0, inlined_at 2 18 3
	@%p1 bra 	$L__BB0_2;
	@!%p3 cvt.rn.f32.f64 	%f1, %fd1;
$L__BB0_2:
	add.f32 	%f1, %f2, %f3; // no add.f64 here
	ret;
}
	.file	1 "/home/me/kernels/helper.py"
	.file	2 "/home/me/kernels/main.py"
"""


def test_instructions_in_float64_are_told_from_declarations_and_comments():
    assert find_float64(PTX) == (
        Float64("ld.param.f64 %fd1, [kernel_param_0];", "/home/me/kernels/main.py", 17),
        Float64("@!%p3 cvt.rn.f32.f64 %f1, %fd1;", "/home/me/kernels/helper.py", 12),
    )


def test_without_line_information_the_instruction_must_do():
    bare = "\n".join(line for line in PTX.splitlines() if ".loc" not in line)
    assert {(item.file, item.line) for item in find_float64(bare)} == {(None, None)}


# -- Capabilities -------------------------------------------------------------------------------


def test_a_block_may_have_what_its_capability_gives():
    kib = [LIMITS[capability[:2]].block_shared_bytes // 1024 for capability in CAPABILITIES]
    assert kib == [64, 163, 99, 227, 227, 227]


def test_capabilities_are_written_as_nvidia_does():
    assert [*map(capability_name, CAPABILITIES)] == ["7.5", "8.0", "8.9", "9.0", "9.0a", "10.0"]


# -- Without the compiler -----------------------------------------------------------------------


def test_without_nvvm_the_extra_that_has_it_is_named(monkeypatch):
    def compiled(*args, **options):
        raise RuntimeError('Failure finding "libnvvm.so": No such file')

    monkeypatch.setattr(offline.compiler, "_compile_pyfunc_with_fixup", compiled)
    with pytest.raises(DependencyError, match="not installed") as caught:
        compile_to_ptx(add, (), (9, 0))
    assert "llm-numba[ptx]" in caught.value.remedy


def test_other_failures_of_the_compiler_pass_through(monkeypatch):
    def compiled(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(offline.compiler, "_compile_pyfunc_with_fixup", compiled)
    with pytest.raises(RuntimeError, match="out of memory"):
        compile_to_ptx(add, (), (9, 0))


def test_without_ptxas_the_extra_that_has_it_is_named(monkeypatch):
    monkeypatch.setattr("cuda.pathfinder.find_nvidia_binary_utility", lambda name: None)
    with pytest.raises(DependencyError, match="ptxas") as caught:
        assemble("", (9, 0))
    assert "llm-numba[ptx]" in caught.value.remedy


@pytest.mark.parametrize("missing", [None, "NVVM is not installed."])
def test_the_problem_is_told_without_an_error(missing, monkeypatch):
    def compiled(*args):
        if missing:
            raise DependencyError(missing, "Install it.")

    monkeypatch.setattr(offline, "compile_to_ptx", compiled)
    monkeypatch.setattr(offline, "assemble", lambda *args: "")
    assert compiler_problem.__wrapped__() == (missing and "NVVM is not installed. Install it.")
