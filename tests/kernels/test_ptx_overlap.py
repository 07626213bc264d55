"""Kernels that begin early: which instructions they compile to, on which GPUs, in which order."""

import re

import numpy as np
import pytest
from numba import cuda, float32
from numba.cuda import types

from llm_numba.kernels import ptx, rope_attention
from llm_numba.kernels.gemv import LADDER
from llm_numba.runtime import overlapping
from llm_numba.runtime.offline import (
    assemble,
    compile_to_ptx,
    compiler_problem,
    resources,
    signature_of,
)
from llm_numba.runtime.overlap import begins_early
from llm_numba.simulator import simulate


@cuda.jit
def early(x):
    ptx.release_next_kernel()
    ptx.await_previous_kernel()
    x[cuda.threadIdx.x] += float32(1)


def test_in_the_simulator_they_do_nothing():
    x = np.arange(32, dtype=np.float32)
    simulate(early, 1, 32, (x,))
    np.testing.assert_array_equal(x, np.arange(1, 33))


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_only_gpus_since_90_wait(capability):
    text = compile_to_ptx(early, (types.float32[::1],), capability)
    newer = capability >= (9, 0)
    assert text.count("griddepcontrol.launch_dependents;") == newer
    assert text.count("griddepcontrol.wait;") == newer
    assemble(text, capability)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
def test_an_early_product_has_weights_on_their_way_before_it_waits():
    kinds = {}
    for allowed in (False, True):
        with overlapping(allowed):
            operands = LADDER.operands((1, 64, 4096), np.dtype(np.float32), 0)
            (launch,) = LADDER.steps[-1].plan(**operands)
        text = compile_to_ptx(launch.kernel, signature_of(launch), (9, 0))
        kinds[allowed] = [part.count("ld.global") for part in text.split("griddepcontrol.wait;")]
    assert len(kinds[False]) == 1
    # Two waits, for rows that are shorter than a turn.
    weights, *after = kinds[True]
    assert len(after) == 2
    # A row has two turns of 16 warps: two packets a lane.
    assert weights == 2
    assert sum(after) > 0


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
# Two waits of the one, for rows that are shorter than a turn.
@pytest.mark.parametrize(("step", "rows", "waits"), [("split", 1, 2), ("tensor", 8, 1)])
def test_an_early_product_asks_for_weights_releases_the_next_kernel_and_waits(step, rows, waits):
    """And takes no more registers than there are: it is another kernel than the ladder's."""
    with overlapping():
        operands = LADDER.operands((rows, 64, 4096), np.dtype("bfloat16"), 0)
        (launch,) = LADDER.step(step).plan(**operands)
    text = compile_to_ptx(launch.kernel, signature_of(launch), (9, 0))
    first, *others = text.split("griddepcontrol.launch_dependents;")
    assert len(others) == waits
    assert re.search(r"ld\.global\S*\.v4", first)
    assert not re.search(r"\bmma|\bfma\.rn\.f32", first)
    for each in others:
        instructions = [line.strip() for line in each.splitlines() if line.strip()]
        asked = [line for line in instructions if line[:1].isalpha()]
        assert asked[0] == "griddepcontrol.wait;"
    found = resources(launch, (9, 0))
    assert found.spill_stores == found.spill_loads == 0


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
def test_attention_that_turns_has_the_cache_on_its_way_before_it_waits_for_queries():
    operands = rope_attention.LADDER.operands((64, 1, 4, 1, 128), np.dtype("bfloat16"), 0)
    (launch,) = rope_attention.LADDER.steps[-1].plan(**operands)
    text = compile_to_ptx(launch.kernel, signature_of(launch), (9, 0))
    _, loads, rest = text.split("griddepcontrol.wait;")
    # Four keys, four values, and a lane's cosines and sines; a table's block besides.
    assert loads.count("ld.global.v4") == 4 + 4 + 2 + 2
    assert "griddepcontrol.launch_dependents;" in loads
    # Four queries of two packets, and what the newest position adds.
    assert rest.count("ld.global.v4") >= 4 * 2
    assert "st.global" not in loads
    assert "st.global" in rest


def test_both_forms_of_a_product_give_the_same_bits():
    found = []
    for allowed in (False, True):
        operands = LADDER.operands((3, 20, 2048), np.dtype(np.float32), 0)
        with overlapping(allowed):
            (launch,) = LADDER.steps[-1].plan(**operands)
        assert begins_early_in(launch.kernel) == allowed
        simulate(*launch)
        found.append(operands["out"])
    np.testing.assert_array_equal(*found)


def begins_early_in(kernel):
    with overlapping():
        return begins_early(kernel)
