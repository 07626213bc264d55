"""Several ranks, one model: how programs that run side by side exchange arrays."""

from llm_numba.parallel.alone import Alone
from llm_numba.parallel.communicator import Communicator, Transfer
from llm_numba.parallel.mesh import Mesh
from llm_numba.parallel.partition import Partition, Seat, balanced_stages
from llm_numba.parallel.threads import run_ranks
from llm_numba.parallel.world import end_world
from llm_numba.reference.rank_sums import Reduction

__all__ = [
    "Alone",
    "Communicator",
    "Mesh",
    "Partition",
    "Reduction",
    "Seat",
    "Transfer",
    "balanced_stages",
    "end_world",
    "run_ranks",
]
