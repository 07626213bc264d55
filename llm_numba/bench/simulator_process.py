"""One kernel in one simulator, in a process of its own.

::

    python -m llm_numba.bench.simulator_process ours saxpy/4096 REPEATS RESULT.npy

Which simulator ``numba.cuda`` means is decided while it is imported, by ``NUMBA_ENABLE_CUDASIM``;
and a first call is the first of its process only. Prints seconds as JSON, and leaves the kernel's
result in a file.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_numba.bench.simulator_kernels import Case, case

SEED = 3


def run(simulator: str, name: str, repeats: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Time the first call and the calls after it.

    Parameters
    ----------
    simulator : {"ours", "numba"}
    name : str
        Of a case.
    repeats : int
        Calls after the first.

    Returns
    -------
    result : ndarray
        What the kernel wrote in its first call.
    seconds : dict
        ``first``, and lists: ``again`` and, for ours, ``explained``.
    """
    chosen = case(name)
    call = _ours(chosen) if simulator == "ours" else _numba(chosen)
    arguments = chosen.arguments(np.random.default_rng(SEED))
    seconds: dict[str, Any] = {"first": _time(call, arguments)}
    result = arguments[chosen.output].copy()
    seconds["again"] = [_time(call, arguments) for _ in range(repeats)]
    if simulator == "ours":
        explained = _ours(chosen, explain=True)
        explained(arguments)
        seconds["explained"] = [_time(explained, arguments) for _ in range(repeats)]
    return result, seconds


def _ours(chosen: Case, explain: bool = False) -> Callable[[tuple[Any, ...]], object]:
    from llm_numba.simulator import simulate

    return lambda arguments: simulate(
        chosen.kernel, chosen.grid, chosen.block, arguments, explain=explain
    )


def _numba(chosen: Case) -> Callable[[tuple[Any, ...]], object]:
    return lambda arguments: chosen.kernel[chosen.grid, chosen.block](*arguments)


def _time(call: Callable[[tuple[Any, ...]], object], arguments: tuple[Any, ...]) -> float:
    begin = time.perf_counter()
    call(arguments)
    return time.perf_counter() - begin


if __name__ == "__main__":
    simulator, name, repeats, path = sys.argv[1:]
    result, seconds = run(simulator, name, int(repeats))
    np.save(path, result)
    print(json.dumps(seconds))
