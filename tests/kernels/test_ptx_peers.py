"""Arrays at an address, and flags that threads of all GPUs may read."""

import re

import numpy as np
import pytest
from numba import cuda, int32
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import OutOfBoundsError

THREADS = 32


@cuda.jit
def fetch(x, addresses, out):
    t = cuda.threadIdx.x
    out[t] = ptx.at_address(x, addresses[t % 3])[t // 3]


def address_of(array):
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def test_each_thread_finds_the_array_at_its_address(device):
    values = np.arange(24.0).reshape(4, 6)
    memory, out = runtime.to_device(values, device), runtime.to_device(np.zeros(18), device)
    addresses = np.array([address_of(memory[row]) for row in (2, 0, 3)])
    args = (memory[1], runtime.to_device(addresses, device), out)
    runtime.launch(fetch, 1, 18, args)
    np.testing.assert_array_equal(runtime.to_host(out).reshape(6, 3).T, values[[2, 0, 3]])


@cuda.jit
def fetch_some(x, addresses, out):
    t = cuda.threadIdx.x
    words = ptx.load_raw16_or_zeros(ptx.at_address(x, addresses[t]), 4, t != 1)
    ptx.store_raw16(out, 4 * t, words)


def test_packets_of_arrays_at_several_addresses_are_loaded_where_there_are_any(device):
    values = np.arange(32, dtype=np.float32).reshape(4, 8)
    memory, out = runtime.to_device(values, device), runtime.to_device(np.ones(12, "f4"), device)
    addresses = np.array([address_of(memory[row]) for row in (2, 0, 3)])
    runtime.launch(fetch_some, 1, 3, (memory[1], runtime.to_device(addresses, device), out))
    expected = [values[2, 4:], np.zeros(4), values[3, 4:]]
    np.testing.assert_array_equal(runtime.to_host(out).reshape(3, 4), expected)


@pytest.mark.parametrize("beyond", [-8, 24 * 8 - 40])
def test_an_address_outside_the_allocation_is_refused(beyond):
    memory = np.arange(24.0).reshape(4, 6)
    addresses = memory.ctypes.data + np.array([0, 8, beyond])
    with pytest.raises(OutOfBoundsError, match="an address for an array like `x`"):
        simulate(fetch, 1, 18, (memory[1], addresses, np.zeros(18)))


@cuda.jit
def hand_over(flags, addresses, x, out):
    """Each block takes a row from the block before it, adds 1, and passes it on."""
    block, t = cuda.blockIdx.x, cuda.threadIdx.x
    if block > 0 and t == 0:
        while ptx.load_acquire_system(flags, block - 1) == 0:
            pass
    cuda.syncthreads()
    out[block, t] = x[t] if block == 0 else out[block - 1, t] + 1
    cuda.syncthreads()
    if t == 0:
        ptx.store_release_system(ptx.at_address(flags, addresses[0]), block, int32(1))


def test_flags_for_all_gpus_are_flags_for_the_blocks_of_one(device):
    arrays = np.zeros(4, np.int32), np.zeros(1, np.int64), np.arange(THREADS), np.zeros((4, 32))
    flags, addresses, x, out = (runtime.to_device(each, device) for each in arrays)
    addresses[0] = address_of(flags)
    runtime.launch(hand_over, 4, THREADS, (flags, addresses, x, out))
    expected = np.arange(4)[:, None] + np.arange(THREADS)
    np.testing.assert_array_equal(runtime.to_host(out), expected)


def test_operands_of_wrong_types_are_refused_with_what_would_be_right():
    wide, strided = types.int64[::1], types.int32[::2]
    with pytest.raises(TypingError, match="load_acquire_system takes a C-contiguous array of int"):
        ptx.load_acquire_system._defn(None, wide, types.int64)
    with pytest.raises(TypingError, match="store_release_system takes a C-contiguous array of in"):
        ptx.store_release_system._defn(None, wide, types.int64, types.int32)
    with pytest.raises(TypingError, match="at_address takes a C-contiguous array and int64"):
        ptx.at_address._defn(None, strided, types.int64)
    with pytest.raises(TypingError, match="at_address takes a C-contiguous array and int64"):
        ptx.at_address._defn(None, wide, types.float64)


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
def test_they_compile_to_what_they_say(capability):
    kinds = (types.int32[::1], types.int64[::1], types.int64[::1], types.float64[:, ::1])
    text = compile_to_ptx(hand_over, kinds, capability)
    assert "ld.acquire.sys.global.u32" in text
    assert text.count("st.release.sys.global.u32") == 1
    assemble(text, capability)
    # Before sm_100 the compiler takes what lies at an address for global memory; then a load asks.
    is_known = capability < (10, 0)
    kinds = (types.float64[::1], types.int64[::1], types.float64[::1])
    text = compile_to_ptx(fetch, kinds, capability)
    assert len(re.findall(r"\bld\.global\.[ubf]64", text)) == 1 + is_known
    assert len(re.findall(r"\bld\.[ubf]64", text)) == 1 - is_known
