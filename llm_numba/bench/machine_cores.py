"""The host's processor, one core and all of them: what a GPU's speed is compared with.

BLAS takes its number of threads from the environment when it is loaded, so each number is a process
of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from llm_numba import variables
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize

_SIZE = 4096
_MEGABYTES = 400.0
_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_MEASURE = """
import json, sys, time
import numpy as np
from llm_numba.bench.bandwidth import weight_bandwidth

size, megabytes, repeats = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
a, b = np.random.default_rng(0).random((2, size, size), np.float32)
products = []
for _ in range(1 + repeats):
    begin = time.perf_counter()
    a @ b
    products.append(2e-12 * size**3 / (time.perf_counter() - begin))
print(json.dumps([products[1:], weight_bandwidth(megabytes, repeats, 1)]))
"""


def cores(repeats: int) -> Iterator[Result]:
    """Multiply two matrices, and read one, with NumPy on one core and on all.

    Parameters
    ----------
    repeats : int
        At most three are made: a product takes a core some seconds.

    Yields
    ------
    Result
        ``cores/one/product`` in TFLOP/s of float32, ``cores/one/read`` in GB/s; ``cores/all/..``.
    """
    count = min(repeats, 3)
    for key, threads in (("one", 1), ("all", len(os.sched_getaffinity(0)))):
        limits = dict.fromkeys(_VARIABLES, str(threads))
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(_SIZE), str(_MEGABYTES), str(count)],
            env=variables.passed_on() | limits, check=True, capture_output=True, text=True,
        )  # fmt: skip
        products, reads = json.loads(done.stdout)
        what, shape = f"NumPy, {threads} core{'s' * (threads > 1)}", {"cores": threads}
        yield Result(
            f"cores/{key}/product", f"{what}: a product of {_SIZE} x {_SIZE}",
            summarize(products, "TFLOP/s", warmup=1), shape | {"M": _SIZE},
        )  # fmt: skip
        yield Result(
            f"cores/{key}/read", f"{what}: reading a matrix", summarize(reads, "GB/s", warmup=1),
            shape | {"megabytes": _MEGABYTES},
        )  # fmt: skip
