"""What an SM's tensor cores make of products whose operands are there, in cycles."""

from collections.abc import Iterator

import numpy as np

from llm_numba.bench.machine_cycles import runs_of, taken_on
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.kernels import basics_tensor
from llm_numba.runtime import Launch, has_capability, is_architecture, to_device

WARPS = (4, 8, 16)  # one, two and four for each tensor core
CHAINS = (1, 2, 4, 8)
GROUPS = (1, 2)
_ROUNDS = 64
_SM_80 = (8, 0)


def tensor_cores(repeats: int, device: str = "cuda") -> Iterator[Result]:
    """Multiply by ``mma.sync`` and by ``wgmma``, as far as the GPU has them.

    Parameters
    ----------
    repeats : int
    device : {"cuda", "sim"}
        In the simulator, which has no time, all figures are those of one cycle.

    Yields
    ------
    Result
        ``tensor/latency`` in cycles: of an ``mma.sync`` that waits for the one before. All others
        in FLOPs a cycle of one SM: ``tensor/warps=4/chains=2`` and ``tensor/warpgroups=2``.
    """
    taken = taken_on(device)
    if not has_capability(taken, _SM_80):
        return
    x = to_device(np.ones(2, np.uint16), device)

    def cycles(kernel: object, threads: int, shared_bytes: int = 0) -> list[float]:
        out = to_device(np.zeros(threads, np.float32), device)
        launch = Launch(kernel, (1,), (threads,), (x, _ROUNDS, out, taken), shared_bytes)
        return [max(1.0, float(run[0])) for run in runs_of(launch, taken, repeats)]

    def rate(name: str, what: str, flops: int, found: list[float], **shape: int) -> Result:
        each = [flops / count for count in found]
        return Result(name, what, summarize(each, "FLOPs/cycle", warmup=1), shape)

    products = _ROUNDS * basics_tensor.IN_A_ROUND
    alone = [each / products for each in cycles(basics_tensor.by_warps(1), 32)]
    yield Result("tensor/latency", "mma.sync after mma.sync", summarize(alone, "cycles", warmup=1))
    for warps in WARPS:
        for chains in CHAINS:
            found = cycles(basics_tensor.by_warps(chains), 32 * warps)
            flops = products * chains * warps * basics_tensor.MMA_FLOPS
            name, many = f"tensor/warps={warps}/chains={chains}", "s" * (chains > 1)
            what = f"mma.sync: {warps} warps, {chains} product{many} under way in each"
            yield rate(name, what, flops, found, warps=warps, chains=chains)
    if not is_architecture(taken, basics_tensor.HOPPER[:2]):
        return
    for groups in GROUPS:
        kernel, threads = basics_tensor.multiply_by_warpgroups, 128 * groups
        found = cycles(kernel, threads, basics_tensor.SHARED_BYTES)
        flops = _ROUNDS * basics_tensor.BATCH * groups * basics_tensor.WGMMA_FLOPS
        what = f"wgmma: {groups} warpgroup{'s' * (groups > 1)}"
        yield rate(f"tensor/warpgroups={groups}", what, flops, found, warpgroups=groups)
