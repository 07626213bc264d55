"""Products that leave 8 bits a number, against the reference in float64.

A scale is the largest of its block over the format's largest, computed in float32. A number is off
by half a step of the format, which is a scale of int8, and of e4m3 1/16 of the number or half of
2^-9 of a scale; and by what its block's largest is off.
"""

import ml_dtypes
import numpy as np
import pytest
from gemm_cases import exact, numbers
from numba import cuda, float32
from numba.cuda import types

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_quantised import BLOCK, FORMATS, gemm_quantised, plan_quantised
from llm_numba.runtime import empty, is_architecture, to_device, to_host
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem, resources
from llm_numba.simulator import simulate

OWN = {"gelu": 2.0**-13}  # error of an activation
NEAR = 1e-5  # of float32 sums of some hundred products


def placed(array, device):
    return None if array is None else to_device(array, device)


def check(device, M, N, K, dtype, activation, biased, form):
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    bias = numbers(N, dtype=dtype) if biased else None
    there = [placed(each, device) for each in (x, weight, bias)]
    if not is_architecture(there[0], (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")
    codes, scales = map(to_host, gemm_quantised(*there, activation=activation, form=form))
    truth = reference.linear(exact(x), exact(weight), exact(bias), activation=activation)
    values = (codes.view(ml_dtypes.float8_e4m3fn) if form == "e4m3" else codes).astype(np.float64)
    assert np.abs(values).max() <= FORMATS[form][1]
    blocks = truth.reshape(M, -1, BLOCK)
    own = OWN.get(activation, 0)
    np.testing.assert_allclose(
        scales, np.abs(blocks).max(axis=-1) / FORMATS[form][1], rtol=NEAR * np.sqrt(K) + own
    )
    steps = scales.astype(np.float64)[:, :, None]
    half = np.maximum(np.abs(blocks) / 16, steps * 2**-10) if form == "e4m3" else steps / 2
    error = np.abs(values.reshape(blocks.shape) * steps - blocks)
    near = NEAR * FORMATS[form][1] * steps + own * np.abs(blocks)
    assert (error <= (1 + 1e-3) * half + near).all()


@pytest.mark.parametrize(
    ("M", "N", "activation", "biased", "form", "dtype"),
    [
        (9, 256, "silu_mul", True, "e4m3", "float16"),
        pytest.param(70, 384, "gelu", True, "e4m3", "bfloat16", marks=pytest.mark.slow),
        pytest.param(9, 256, "silu_mul", False, "int8", "float16", marks=pytest.mark.slow),
        pytest.param(3, 512, "silu_mul", True, "e4m3", "float16", marks=pytest.mark.slow),
        pytest.param(130, 640, None, False, "int8", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_blocks_have_the_scale_of_their_largest(M, N, activation, biased, form, dtype, device):
    """Two blocks a tile and one, and a tile of which half is not there."""
    check(device, M, N, 72, dtype, activation, biased, form)


@pytest.mark.slow
def test_a_block_of_zeros_is_zeros(device):
    x, weight = numbers(3, 16, dtype="float16"), numbers(256, 16, dtype="float16")
    x[1] = 0
    x, weight = to_device(x, device), to_device(weight, device)
    if not is_architecture(x, (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")
    codes, scales = map(to_host, gemm_quantised(x, weight, form="int8"))
    assert not codes[1].any()
    assert not scales[1].any()
    assert (np.abs(codes[[0, 2]].reshape(2, 2, BLOCK)).max(axis=-1) == 127).all()


def test_rows_that_are_no_whole_blocks_are_refused():
    x, weight = (to_device(np.zeros((n, 16), np.float16), "sim") for n in (3, 192))
    for options, named in [
        ({}, "192 columns, no multiple of 128"),
        ({"activation": "silu_mul"}, "96 columns"),
        ({"form": "e5m2"}, "'form' is 'e5m2'"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            gemm_quantised(x, weight, **options)


# -- Two numbers as two bytes -------------------------------------------------------------------


def narrowing(narrow):
    @cuda.jit
    def kernel(x, out):
        i = cuda.grid(1)
        out[i] = narrow(x[i], float32(-1) * x[i])

    return kernel


NARROWED = np.float32([0, 0.3, 0.5, 1.5, 2.5, 100.4, 127, 17, 19, 2**-9, 2**-10, 0.0014])


@pytest.mark.parametrize("narrow", [ptx.to_e4m3_pair, ptx.to_int8_pair], ids=["e4m3", "int8"])
def test_two_numbers_are_rounded_to_the_nearest(narrow):
    out = np.zeros(len(NARROWED), np.uint16)
    simulate(narrowing(narrow), 1, len(NARROWED), (NARROWED, out))
    form = ml_dtypes.float8_e4m3fn if narrow is ptx.to_e4m3_pair else np.int8
    pairs = out.view(np.uint8).reshape(-1, 2).view(form)
    rounded = np.rint(NARROWED) if form is np.int8 else NARROWED
    np.testing.assert_array_equal(pairs[:, 0], rounded.astype(form))
    np.testing.assert_array_equal(pairs[:, 1], (-rounded).astype(form))


def test_what_is_too_large_is_the_largest():
    x, out = np.float32([449, 1e9, np.inf, np.nan]), np.zeros(4, np.uint16)
    simulate(narrowing(ptx.to_e4m3_pair), 1, 4, (x, out))
    low = out.view(np.uint8)[::2].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(low, [448, 448, 448, np.nan])


@pytest.mark.gpu
@pytest.mark.parametrize("narrow", [ptx.to_e4m3_pair, ptx.to_int8_pair], ids=["e4m3", "int8"])
def test_two_numbers_are_rounded_alike_on_a_gpu(narrow):
    from llm_numba.runtime import has_capability, launch

    x = np.linspace(-127, 127, 10007, dtype=np.float32)[: 39 * 256]
    there = to_device(x, "cuda")
    if not has_capability(there, (8, 9)):
        pytest.skip("this GPU has no e4m3")
    out, expected = empty((len(x),), "uint16", like=there), np.zeros(len(x), np.uint16)
    launch(narrowing(narrow), 39, 256, (there, out))
    simulate(narrowing(narrow), 39, 256, (x, expected))
    np.testing.assert_array_equal(to_host(out), expected)


# -- What is compiled ---------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_a_pair_is_one_conversion_of_e4m3():
    signature = types.float32[::1], types.uint16[::1]
    text = compile_to_ptx(narrowing(ptx.to_e4m3_pair), signature, (8, 9))
    assert "cvt.rn.satfinite.e4m3x2.f32" in text
    assemble(text, (8, 9))
    text = compile_to_ptx(narrowing(ptx.to_int8_pair), signature, (7, 5))
    assert text.count("cvt.rni.s32.f32") == 2
    assemble(text, (7, 5))


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(("activation", "form"), [("gelu", "e4m3"), ("silu_mul", "int8")])
def test_sums_stay_in_registers(activation, form):
    M, N, K = 128, 256, 64
    columns = N // 2 if activation == "silu_mul" else N
    x, weight, bias = (to_device(np.zeros(s, np.float16), "sim") for s in ((M, K), (N, K), (N,)))
    out = to_device(np.zeros((M, columns), FORMATS[form][0]), "sim")
    halves, scales = out.view("float16"), empty((M, columns // BLOCK), "float32", like=x)
    (launch,) = plan_quantised(x, weight, out, halves, scales, bias, activation, form)
    taken = resources(launch, (9, 0, "a"))
    assert (taken.stack_bytes, taken.spill_stores, taken.float64) == (0, 0, ())


@pytest.mark.gpu
@pytest.mark.parametrize("activation", [None, "gelu", "silu_mul"])
@pytest.mark.parametrize("form", FORMATS)
def test_large_shapes_on_a_gpu(activation, form):
    check("cuda", 1000, 1280, 4088, "bfloat16", activation, True, form)
