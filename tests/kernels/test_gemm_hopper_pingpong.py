"""Products whose consumers take turns, against the reference in float64; planted mistakes are found.

The bounds on the errors are derived in ``gemm_cases``. Each planted mistake is a line changed.
"""

from pathlib import Path

import numpy as np
import pytest
from gemm_cases import U, assert_gated, assert_near, numbers

from llm_numba.kernels import gemm_hopper_pingpong as pingpong_file
from llm_numba.kernels.gemm_hopper_epilogue import GATED, epilogue
from llm_numba.kernels.gemm_hopper_pieces import Tile
from llm_numba.kernels.gemm_hopper_pingpong import SQUARE, pingpong, plan_pingpong, shared_bytes
from llm_numba.kernels.gemm_hopper_stored import BY_ENGINE
from llm_numba.runtime import is_architecture, launch_all, to_device, to_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import DeadlockError, RaceError, SimulationError

CUT_OFF = 2 * U
LITTLE = Tile(64, 64, 2)  # stages are used again and again
TALL = Tile(128, 64, 3)
WIDE = Tile(64, 256, 4)
FORMAT = "float16"


def operands(M, N, K, dtype=FORMAT):
    return numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype), np.full((M, N), np.nan, dtype)


def multiply(tile, M, N, K, kernel=None, blocks=1, **options):
    """Multiply in the simulator; a block of its own for each tile would leave nobody to take turns."""
    x, weight, out = operands(M, N, K)
    (launch,) = plan_pingpong(x, weight, out, tile)
    launch = launch._replace(grid=(blocks,), kernel=kernel or launch.kernel)
    simulate(*launch, explain=False, **options)
    assert_near(out, x, weight, u=CUT_OFF)


# -- What it computes -----------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [LITTLE, TALL], ids=["little", "tall"])
@pytest.mark.parametrize(
    ("M", "N", "K", "blocks"),
    [
        (1, 8, 8, 1),  # one tile: the second consumer has none
        (130, 72, 328, 1),  # slabs that no number of stages divides
        (200, 136, 8, 2),  # one slab a tile
        (70, 320, 136, 1),  # an odd number of tiles
    ],
)
def test_consumers_take_turns(tile, M, N, K, blocks):
    multiply(tile, M, N, K, blocks=blocks)


@pytest.mark.parametrize("tile", [LITTLE, TALL], ids=["little", "tall"])
@pytest.mark.parametrize("seed", range(2))
def test_they_are_right_in_any_order(tile, seed):
    multiply(tile, M=70, N=136, K=136, schedule="random", seed=seed)
