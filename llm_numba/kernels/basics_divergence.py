"""What it costs when the lanes of a warp go different ways.

A warp has one instruction at a time. Where its lanes part, it goes one way with some of them while
the others wait, then the next way. Whether *warps* go different ways does not matter to any of
them.

::

    group 1, 2 paths      lanes 0 1 0 1 0 1 ...      each warp goes both ways
    group 32, 2 paths     warps 0 0 0 ... 1 1 1 ...  each warp goes one way

All paths are equally long, so the cycles of `paths` paths over those of one are how many ways a
warp went.

Source: "CUDA C++ Programming Guide", SIMT architecture.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx

IN_A_ROUND = 32


@cuda.jit
def part(paths, group, rounds, out, taken):
    """Let each group of lanes go one of several ways, in turn; each is as many multiply-adds."""
    t = cuda.threadIdx.x
    mine = t // group % paths
    x = float32(t)
    cuda.syncthreads()
    begin = ptx.cycles()
    for path in range(paths):
        if mine == path:
            for _ in range(rounds):
                for _ in range(IN_A_ROUND):
                    x = x * float32(0.5) + float32(1)
    out[t] = x
    cuda.syncthreads()
    if t == 0:
        taken[0] = ptx.cycles() - begin
