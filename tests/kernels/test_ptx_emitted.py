"""What the instructions make the compiler emit, run on this machine's own processor.

A twin may be right where the instruction is wrong, and only a GPU would tell. But what the
instructions emit is LLVM's intermediate language, which compiles for any processor: so here it
computes as well, and must agree with the twins' other hands, NumPy and ml_dtypes.
"""

import ctypes

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest
from llvmlite import ir
from numba.cuda import types

from llm_numba.kernels import ptx
from llm_numba.kernels.ptx import elements

FLOAT, WORD, HALFWORD = elements.FLOAT, elements.WORD, elements.HALFWORD
POINTERS = {FLOAT: np.float32, WORD: np.int32, HALFWORD: np.uint16}


@pytest.fixture(scope="module")
def host():
    """A compiler for this processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    if not features.get("f16c", True):
        pytest.skip("this processor does not convert float16")
    target = llvm.Target.from_default_triple()
    options = {"cpu": llvm.get_host_cpu_name(), "features": features.flatten()}

    def run(emit, result, *operands):
        """Compute ``result[i] = f(operands[0][i], ...)``, where emit writes the body of f."""
        arrays = [*operands, result]
        kinds = [next(k for k, d in POINTERS.items() if d == a.dtype) for a in arrays]
        module = ir.Module()
        signature = ir.FunctionType(ir.VoidType(), [kind.as_pointer() for kind in kinds])
        function = ir.Function(module, signature, "one")
        builder = ir.IRBuilder(function.append_basic_block())
        *sources, destination = function.args
        builder.store(emit(builder, *map(builder.load, sources)), destination)
        builder.ret_void()
        # The engine takes the machine for its own, so each needs another.
        machine = target.create_target_machine(**options)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
        engine.finalize_object()
        address = engine.get_function_address("one")
        one = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays))(address)
        places = [range(a.ctypes.data, a.ctypes.data + a.nbytes, a.itemsize) for a in arrays]
        for pointers in zip(*places, strict=True):
            one(*pointers)
        return result

    return run


def body_of(intrinsic, *kinds):
    """The function that emits an instruction for operands of some types."""
    signature, codegen = intrinsic._defn(None, *kinds)
    return lambda builder, *operands: codegen(None, builder, signature, operands)


def assert_same_numbers(result, expected):
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    numbers = ~np.isnan(expected)
    word = f"u{expected.dtype.itemsize}"
    np.testing.assert_array_equal(result[numbers].view(word), expected[numbers].view(word))


def floats_of_every_kind():
    """Random bits, all float16 and what lies half way between two, and between two bfloat16."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=12_000, dtype=np.uint64).astype(np.uint32)
    bits[:3000] = bits[:3000] & 0xFFFF0000 | 0x8000
    bits[3000:4000] = bits[3000:4000] & 0xFFFF0000 | 0x7FFF
    bits[4000:4003] = 0x7F800001, 0xFF80FFFF, 0x7F7FFFFF
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = halves[:-1] / 2 + halves[1:] / 2
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 65519, 65520], np.float32)
    return np.concatenate([bits.view(np.float32), halves, between, special])


NOISE = pytest.mark.filterwarnings("ignore:invalid:RuntimeWarning", "ignore:over:RuntimeWarning")


@pytest.fixture
def _as_older_gpus_do(monkeypatch):
    """Emit what stands in for instructions of newer GPUs: this processor has none of those."""
    monkeypatch.setattr(elements, "emit_since", lambda builder, least, newer, older: older())


@NOISE
@pytest.mark.usefixtures("_as_older_gpus_do")
@pytest.mark.parametrize(
    ("kind", "dtype"), [(types.uint16, ml_dtypes.bfloat16), (types.float16, np.float16)], ids=str
)
def test_all_2_byte_elements_are_widened_and_floats_of_every_kind_are_rounded(kind, dtype, host):
    every = np.arange(2**16, dtype=np.uint16)
    for intrinsic in (ptx.to_float, ptx.widen):
        wide = host(body_of(intrinsic, kind), np.empty(2**16, np.float32), every)
        assert_same_numbers(wide, every.view(dtype).astype(np.float32))

    x = floats_of_every_kind()
    array = types.Array(kind, 1, "C")
    emit = body_of(ptx.from_float, array, types.float32)
    # Only the type of the array matters; any value stands for it.
    narrow = host(lambda builder, value: emit(builder, None, value), np.empty(x.size, "u2"), x)
    assert_same_numbers(narrow.view(dtype), x.astype(dtype))


@NOISE
@pytest.mark.usefixtures("_as_older_gpus_do")
def test_words_are_packed_as_they_are_unpacked_the_lower_half_first(host):
    from llm_numba.kernels.ptx import vectors

    words = np.random.default_rng(0).integers(-(2**31), 2**31, size=5000, dtype=np.int32)
    words[:2] = 0x3F804000, 0x40003F80
    for kind, dtype in ((types.uint16, ml_dtypes.bfloat16), (types.float16, np.float16)):
        pairs = words.view(dtype).reshape(-1, 2)
        for place in range(2):
            emitted = host(
                lambda builder, word, kind=kind, place=place: vectors._unpack(builder, kind, word)[
                    place
                ],
                np.empty(words.size, np.float32),
                words,
            )
            assert_same_numbers(emitted, pairs[:, place].astype(np.float32))
        packed = host(
            lambda builder, low, high, kind=kind: vectors._pack(builder, kind, [low, high]),
            np.empty(words.size, np.int32),
            *(np.ascontiguousarray(pairs[:, place].astype(np.float32)) for place in range(2)),
        )
        assert_same_numbers(packed.view(dtype), pairs.ravel())


@NOISE
def test_numbers_are_added_and_compared_in_their_own_type(host):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-(2**31), 2**31, size=(2, 2000), dtype=np.int32)
    a[:500] = b[:500]
    pair = (types.int32, types.int32)
    np.testing.assert_array_equal(host(body_of(ptx.add, *pair), np.empty_like(a), a, b), a + b)
    largest = host(body_of(ptx.maximum, *pair), np.empty_like(a), a, b)
    np.testing.assert_array_equal(largest, np.maximum(a, b))

    special = np.array([0, 1, -1, np.inf, -np.inf, np.nan, 3e38], np.float32)
    a, b = (np.ascontiguousarray(each.ravel()) for each in np.meshgrid(special, special))
    pair = (types.float32, types.float32)
    np.testing.assert_array_equal(host(body_of(ptx.add, *pair), np.empty_like(a), a, b), a + b)
    largest = host(body_of(ptx.maximum, *pair), np.empty_like(a), a, b)
    np.testing.assert_array_equal(largest, np.maximum(a, b))


@pytest.mark.parametrize("place", range(5))
def test_one_item_of_a_tuple_is_replaced(place, host):
    values = [np.arange(8, dtype=np.float32) + 10 * k for k in range(4)]
    new = np.full(8, -1, np.float32)
    kind = types.UniTuple(types.float32, 4)
    emit = body_of(ptx.with_item, kind, types.int64, types.float32)
    for k in range(4):

        def item(builder, *operands, k=k):
            *old, value = operands
            group = ir.Constant(ir.ArrayType(FLOAT, 4), ir.Undefined)
            for position, each in enumerate(old):
                group = builder.insert_value(group, each, position)
            index = ir.Constant(ir.IntType(64), place)
            return builder.extract_value(emit(builder, group, index, value), k)

        found = host(item, np.empty(8, np.float32), *values, new)
        np.testing.assert_array_equal(found, new if k == place else values[k])
