"""Epilogues of the Hopper product against the reference in float64, and what is compiled of them.

The bounds on the errors are derived in ``gemm_cases``. Tiles are those of the engine: a tile of 256
columns is what a shape of a few dozen rows and columns is multiplied in, too.
"""

import numpy as np
import pytest
from gemm_cases import U, assert_gated, assert_near, numbers
from planting import changed

from llm_numba.errors import DeviceError, KernelArgumentError
from llm_numba.kernels import gemm_hopper as hopper
from llm_numba.kernels import gemm_hopper_epilogue as epilogue_file
from llm_numba.kernels import gemm_hopper_fused as fused_file
from llm_numba.kernels import gemm_hopper_residual as residual_file
from llm_numba.kernels.gemm_hopper_epilogue import GATED
from llm_numba.kernels.gemm_hopper_fused import gemm_fused, plan_fused
from llm_numba.kernels.gemm_hopper_pieces import Tile
from llm_numba.kernels.gemm_hopper_plans import COLUMN_TIME
from llm_numba.kernels.gemm_hopper_stored import BY_ENGINE
from llm_numba.runtime import is_architecture, launch_all, to_device, to_host
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem, resources, signature_of
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import DeadlockError, RaceError, SimulationError

CUT_OFF = 2 * U
OWN = {"gelu": 2.0**-13}  # error of an activation, where the engine stores halves of it
ACTIVATIONS = [None, "gelu", "gelu_tanh", "silu", GATED]


def operands(M, N, K, dtype, activation=None, biased=True, added=True, stored=None):
    columns = N // 2 if activation == GATED else N
    return {
        "x": numbers(M, K, dtype=dtype),
        "weight": numbers(N, K, dtype=dtype),
        "bias": numbers(N, dtype=dtype) if biased else None,
        "residual": numbers(M, columns, dtype=stored or dtype) if added else None,
        "out": np.full((M, columns), np.nan, stored or dtype),
    }


def placed(given, device):
    return {name: None if a is None else to_device(a, device) for name, a in given.items()}


def _skip_unless_hopper(array):
    if not is_architecture(array, (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")


def check(device, activation=None, **options):
    """Multiply, and compare: every number is written, for it was NaN before."""
    given = operands(activation=activation, **options)
    there = placed(given, device)
    _skip_unless_hopper(there["x"])
    y = to_host(gemm_fused(**there, activation=activation))
    x, weight, bias, residual = (given[name] for name in ("x", "weight", "bias", "residual"))
    stored = given["out"].dtype
    if activation == GATED:
        assert_gated(y, x, weight, bias, residual, stored=stored, u=CUT_OFF)
    else:
        own = OWN.get(activation, 0) if stored == x.dtype else 0
        assert_near(y, x, weight, bias, activation, residual, stored, CUT_OFF, own)


# -- What is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "M", "N", "dtype"),
    [
        ("gelu", 70, 264, "bfloat16"),
        ("silu", 9, 267, "float16"),
        (GATED, 66, 272, "bfloat16"),
        (GATED, 5, 266, "float16"),
        pytest.param("gelu_tanh", 3, 16, "float16", marks=pytest.mark.slow),
        pytest.param(None, 65, 8, "bfloat16", marks=pytest.mark.slow),
        pytest.param(GATED, 1, 2, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_all_operands_at_once(activation, M, N, dtype, device):
    """Rows of C that the copy engine addresses, and rows that it does not."""
    check(device, activation, M=M, N=N, K=72, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "biased", "added"),
    [(None, True, False), (None, False, True), ("silu", False, False), (GATED, True, False)],
)
def test_what_is_not_asked_for_is_not_there(activation, biased, added, device):
    check(device, activation, M=7, N=48, K=16, dtype="bfloat16", biased=biased, added=added)


@pytest.mark.parametrize("N", [72, *(pytest.param(N, marks=pytest.mark.slow) for N in (22, 25))])
def test_the_result_of_halves_may_be_float32(N, device):
    """Threads store it: the rooms hold halves, whether or not the engine can address such rows."""
    check(device, "gelu", M=9, N=N, K=40, dtype="bfloat16", stored="float32")


@pytest.mark.slow
def test_the_result_may_go_where_the_residual_is(device):
    given = operands(66, 72, 40, "bfloat16")
    there = placed(given, device)
    _skip_unless_hopper(there["x"])
    there["out"] = there["residual"]
    y = to_host(gemm_fused(**there))
    assert_near(y, given["x"], given["weight"], given["bias"], None, given["residual"], u=CUT_OFF)


@pytest.mark.parametrize(
    ("columns", "N"),
    [(128, 136), *(pytest.param(n, n + 8, marks=pytest.mark.slow) for n in (160, 256))],
)
def test_a_residual_that_the_engine_brings(columns, N, device):
    """One stage behind a tile's slabs and two, two tiles a block, and boxes over the edges."""
    tile = Tile(128, columns, 2)
    given = operands(130, N, 72, "bfloat16", biased=False)
    there = placed(given, device)
    _skip_unless_hopper(there["x"])
    (launch,) = plan_fused(**there, tile=tile)
    launch_all((launch,))
    y = to_host(there["out"])
    assert_near(y, given["x"], given["weight"], residual=given["residual"], u=CUT_OFF)


def test_a_residual_that_the_engine_cannot_address_is_read_by_threads(device):
    given = operands(9, 72, 40, "float16")
    there = placed(given, device)
    _skip_unless_hopper(there["x"])
    longer = placed({"longer": np.zeros(2 + given["residual"].size, "float16")}, device)["longer"]
    there["residual"] = longer[2:].reshape(given["residual"].shape)
    there["residual"][...] = placed(given, device)["residual"]
    launch_all(plan_fused(**there))
    y = to_host(there["out"])
    assert_near(y, *(given[n] for n in ("x", "weight", "bias")), None, given["residual"], u=CUT_OFF)


def simulate_little_tiles():
    given = operands(130, 136, 72, "bfloat16", biased=False)
    (launch,) = plan_fused(**given, tile=Tile(128, 128, 2))
    simulate(*launch)
    x, weight, _, residual, out = given.values()
    assert_near(out, x, weight, residual=residual, u=CUT_OFF)


@pytest.mark.parametrize(
    ("text", "instead", "error"),
    [
        ("while not ptx.mbarrier_test(full, stage, turn & 1):", "if False:", RaceError),
        ("(full, stage, 2 * BOX * boxes)", "(full, stage, 2 * BOX)", SimulationError),
        pytest.param(
            *("while not ptx.mbarrier_test(free, stage, turn & 1 ^ 1):", "if False:"),
            SimulationError,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("set_free(free, count + (i - 1) // PER_STAGE)", "pass"),
            DeadlockError,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["not awaited", "bytes", "no place", "not freed"],
)
def test_a_mistake_in_bringing_the_residual_is_found(text, instead, error, monkeypatch):
    scope = changed(residual_file, (text, instead))
    monkeypatch.setattr(epilogue_file, "bringing", scope["bringing"])
    monkeypatch.setattr(epilogue_file, "reading_slabs", scope["reading"])
    monkeypatch.setattr(fused_file, "epilogue", epilogue_file.epilogue.__wrapped__)
    with pytest.raises(error):
        simulate_little_tiles()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", GATED])
def test_many_tiles(activation, device):
    """More tiles than blocks: rooms and stages are used again, and columns lie in two tiles."""
    check(device, activation, M=300, N=1040, K=72, dtype="bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["silu", GATED])
def test_it_is_right_in_any_order(activation):
    given = operands(70, 144, 72, "float16", activation)
    out = given.pop("out")
    (launch,) = plan_fused(**given, out=out, activation=activation)
    simulate(*launch, explain=False, schedule="random", seed=1)
    x, weight, bias, residual = given.values()
    if activation == GATED:
        assert_gated(out, x, weight, bias, residual, u=CUT_OFF)
    else:
        own = OWN.get(activation, 0)
        assert_near(out, x, weight, bias, activation, residual, u=CUT_OFF, own=own)


def test_without_an_epilogue_it_is_the_plain_product():
    given = placed(operands(9, 16, 8, "bfloat16", biased=False, added=False), "sim")
    (fused,) = plan_fused(**given, tile=hopper.LARGE)
    (stored,) = hopper.LADDER.step("stored").plan(given["x"], given["weight"], given["out"])
    assert fused.kernel is stored.kernel is hopper.specialised("bfloat16", hopper.LARGE, BY_ENGINE)
    assert (fused.grid, fused.block, fused.shared_bytes) == (
        stored.grid,
        stored.block,
        stored.shared_bytes,
    )


@pytest.mark.parametrize(
    ("columns", "activation", "M", "N"),
    [
        (224, None, 9, 240),
        pytest.param(160, "gelu", 130, 168, marks=pytest.mark.slow),
        pytest.param(224, GATED, 66, 464, marks=pytest.mark.slow),
        pytest.param(160, GATED, 9, 336, marks=pytest.mark.slow),
    ],
)
def test_tiles_that_are_no_whole_boxes(columns, activation, M, N, device):
    """Columns that two boxes have in common, and a second tile of less than a box."""
    given = operands(M, N, 72, "bfloat16", activation)
    there = placed(given, device)
    _skip_unless_hopper(there["x"])
    (tile,) = (each for each in COLUMN_TIME if each.columns == columns)
    launch_all(plan_fused(**there, activation=activation, tile=tile))
    y = to_host(there["out"])
    x, weight, bias, residual, _ = given.values()
    if activation == GATED:
        assert_gated(y, x, weight, bias, residual, u=CUT_OFF)
    else:
        own = OWN.get(activation, 0)
        assert_near(y, x, weight, bias, activation, residual, u=CUT_OFF, own=own)


# -- What cannot be ---------------------------------------------------------------------------


def test_wrong_arguments_are_named(monkeypatch):
    given = placed(operands(4, 16, 8, "bfloat16"), "sim")
    for changes, named in [
        ({"bias": given["bias"][:8]}, "'bias' has shape"),
        ({"residual": given["residual"][:, :8]}, "'residual' has shape"),
        ({"activation": "relu"}, "'activation' is 'relu'"),
        ({"x": given["x"][:, :4].copy(), "weight": given["weight"][:, :4].copy()}, "no multiple"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            gemm_fused(**(given | changes))
    monkeypatch.setattr(hopper, "is_architecture", lambda array, capability: False)
    with pytest.raises(DeviceError, match=r"compute capability 9\.0"):
        gemm_fused(**given)


# -- What is compiled -------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    ("activation", "N", "tile"),
    [
        *(("gelu", 256, tile) for tile in COLUMN_TIME),
        (None, 256, hopper.LARGE),
        ("gelu", 258, hopper.LARGE),
        (GATED, 256, hopper.LARGE),
        (GATED, 258, hopper.LARGE),
    ],
)
def test_sums_stay_in_registers(activation, N, tile):
    given = placed(operands(128, N, 64, "bfloat16", activation), "sim")
    (launch,) = plan_fused(**given, activation=activation, tile=tile)
    taken = resources(launch, (9, 0, "a"))
    assert (taken.stack_bytes, taken.spill_stores, taken.float64) == (0, 0, ())


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_a_residual_that_threads_read_is_sent_for_while_its_tile_is_multiplied():
    given = placed(operands(128, 256, 64, "bfloat16"), "sim")
    (launch,) = plan_fused(**given, activation="gelu")
    text = compile_to_ptx(launch.kernel, signature_of(launch), (9, 0, "a"))
    assert text.index("prefetch.global.L2") < text.index("wgmma.mma_async")


# -- On a GPU: large and odd ---------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("M", "N", "K"), [(1, 2, 8), (127, 514, 4088), (4095, 1032, 136)])
def test_large_and_odd_shapes_on_a_gpu(M, N, K, activation):
    check("cuda", activation, M=M, N=N, K=K, dtype="bfloat16")
    check("cuda", activation, M=M, N=N, K=K, dtype="float16", biased=False)
