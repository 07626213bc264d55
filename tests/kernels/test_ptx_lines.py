"""Words that carry the number of their call: whoever finds the number has the data."""

import numpy as np
import pytest
from numba import cuda, uint32
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import DeadlockError, OutOfBoundsError, RaceError

THREADS = 32


@cuda.jit
def pass_on(x, lines, out):
    """Block 0 sends two words a thread; block 1 takes them when their numbers have come."""
    t = cuda.threadIdx.x
    if cuda.blockIdx.x == 0:
        ptx.store_line(lines, 2 * t, x[2 * t], x[2 * t + 1], uint32(0xFFFFFFFE))
    else:
        missing, low, high = uint32(1), uint32(0), uint32(0)
        while missing != 0:
            low, first, high, second = ptx.load_line(lines, 2 * t)
            missing = (first ^ uint32(0xFFFFFFFE)) | (second ^ uint32(0xFFFFFFFE))
        out[2 * t], out[2 * t + 1] = low, high


def arrays():
    x = np.arange(2 * THREADS, dtype=np.uint32) * np.uint32(0x04010203)
    return x, np.zeros(2 * THREADS, np.uint64), np.zeros_like(x)


def test_words_arrive_with_their_number(device):
    x, lines, out = on_device = [runtime.to_device(each, device) for each in arrays()]
    runtime.launch(pass_on, 2, THREADS, tuple(on_device))
    x, lines, out = map(runtime.to_host, on_device)
    np.testing.assert_array_equal(out, x)
    np.testing.assert_array_equal(lines, x.astype(np.uint64) | np.uint64(0xFFFFFFFE << 32))


@pytest.mark.parametrize("seed", range(3))
def test_words_arrive_whichever_block_runs_first(seed):
    x, lines, out = arrays()
    simulate(pass_on, 2, THREADS, (x, lines, out), schedule="random", seed=seed)
    np.testing.assert_array_equal(out, x)


def test_who_waits_for_words_that_nobody_sends_waits_for_ever():
    @cuda.jit
    def wait(lines):
        number = uint32(0)
        while number == 0:
            _, number, _, _ = ptx.load_line(lines, 0)

    with pytest.raises(DeadlockError):
        simulate(wait, 1, THREADS, (np.zeros(2, np.uint64),))


def test_a_word_orders_nothing_beside_it():
    """Data that was stored before is not there because a word is: it needs a flag."""

    @cuda.jit
    def send(x, lines, out):
        if cuda.threadIdx.x == 0:
            if cuda.blockIdx.x == 0:
                x[0] = 7
                ptx.store_line(lines, 0, uint32(0), uint32(0), uint32(1))
            else:
                number = uint32(0)
                while number == 0:
                    _, number, _, _ = ptx.load_line(lines, 0)
                out[0] = x[0]

    with pytest.raises(RaceError, match="`x`"):
        simulate(send, 2, THREADS, arrays())


def test_lines_are_aligned():
    @cuda.jit
    def store(lines):
        ptx.store_line(lines, 1, uint32(0), uint32(0), uint32(1))

    with pytest.raises(OutOfBoundsError, match="a 16-byte access"):
        simulate(store, 1, 1, (np.zeros(4, np.uint64),))


def test_operands_of_wrong_types_are_refused_with_what_would_be_right():
    words = types.uint32[::1]
    with pytest.raises(TypingError, match="load_line takes a C-contiguous array of uint64"):
        ptx.load_line._defn(None, words, types.int64)
    with pytest.raises(TypingError, match="store_line takes a C-contiguous array of uint64"):
        ptx.store_line._defn(None, words, types.int64, *[types.uint32] * 3)


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
def test_they_compile_to_what_they_say(capability):
    kinds = (types.uint32[::1], types.uint64[::1], types.uint32[::1])
    text = compile_to_ptx(pass_on, kinds, capability)
    assert text.count("st.relaxed.sys.global.v2.b64") == 1
    assert text.count("ld.relaxed.sys.global.v2.b64") == 1
    assemble(text, capability)
