r"""Norms of rows that lie in memory: the steps before anything is fused.

.. math:: y = \frac{x - \mu}{\sqrt{\frac1N \sum_j (x_j - \mu)^2 + \epsilon}} \odot \gamma + \beta

LayerNorm as it stands; RMSNorm takes the mean :math:`\mu` for zero and has no :math:`\beta`. One
kernel serves both: a bias of length 0 says that it is RMSNorm, and all threads agree on that.

The variance is the mean of squared distances from the mean, in a pass of its own. The famous
formula that saves the pass, :math:`\mathrm{E}[x^2] - \mathrm{E}[x]^2`, subtracts two numbers that
are nearly equal when the mean is large: at mean :math:`10^4` and variance 1 float32 has no digit
of the difference.

Source: Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983.
"""

from numba import cuda, float32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import activate
from llm_numba.kernels.reduce import WARP, warp_sum


@cuda.jit(device=True)
def inverse_deviation(squares, length, eps):
    """Return 1 / sqrt(mean + eps) of a sum of squares.

    GPUs have an instruction for that, right to two units in the last place; a square root and a
    division, each rounded as IEEE 754 has it, are thirty.
    """
    return libdevice.rsqrtf(squares / float32(length) + eps)


@cuda.jit(device=True)
def normed(value, mean, inverse, weight, bias, column):
    """Return a number of the row as the norm has it."""
    value = (value - mean) * inverse * ptx.to_float(weight[column])
    if bias.size > 0:
        value += ptx.to_float(bias[column])
    return value


@cuda.jit
def norm_naive(x, weight, bias, eps, out):
    """Normalise one row in each thread, in three passes: mean, variance, result.

    Right, and slow. Neighbouring threads read numbers that stand a whole row apart, so a warp's
    request for 32 float32 touches 32 sectors of 32 bytes where 4 would do; of 2-byte numbers, 32
    where 2 would do. Each sector holds what the thread needs next, but by then the other warps
    have driven it out of the cache.
    """
    row = cuda.grid(1)
    if row >= x.shape[0]:
        return
    length = x.shape[1]
    mean = float32(0)
    if bias.size > 0:
        for j in range(length):
            mean += ptx.to_float(x[row, j])
        mean /= float32(length)
    squares = float32(0)
    for j in range(length):
        distance = ptx.to_float(x[row, j]) - mean
        squares += distance * distance
    inverse = inverse_deviation(squares, length, eps)
    for j in range(length):
        value = normed(ptx.to_float(x[row, j]), mean, inverse, weight, bias, j)
        out[row, j] = ptx.from_float(out, value)


@cuda.jit
def norm_warp(x, weight, bias, eps, out):
    """Normalise one row in each warp: neighbours read neighbours, shuffles add their sums up.

    A request is 4 sectors of float32, all of them used. There is no shared memory and no barrier,
    so warps that share a block need not know of each other.
    """
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row >= x.shape[0]:
        return
    length = x.shape[1]
    mean = float32(0)
    if bias.size > 0:
        for j in range(cuda.threadIdx.x, length, WARP):
            mean += ptx.to_float(x[row, j])
        mean = warp_sum(mean) / float32(length)
    squares = float32(0)
    for j in range(cuda.threadIdx.x, length, WARP):
        distance = ptx.to_float(x[row, j]) - mean
        squares += distance * distance
    inverse = inverse_deviation(warp_sum(squares), length, eps)
    for j in range(cuda.threadIdx.x, length, WARP):
        value = normed(ptx.to_float(x[row, j]), mean, inverse, weight, bias, j)
        out[row, j] = ptx.from_float(out, value)


@cuda.jit
def add_rows(x, residual, total):
    """Add to the residual stream: what comes before the norm while nothing is fused."""
    row = cuda.blockIdx.x
    for j in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
        value = ptx.to_float(x[row, j]) + ptx.to_float(residual[row, j])
        total[row, j] = ptx.from_float(total, value)


@cuda.jit
def activate_rows(out, activation):
    """Apply an activation in place: what follows the norm while nothing is fused."""
    row = cuda.blockIdx.x
    for j in range(cuda.threadIdx.x, out.shape[1], cuda.blockDim.x):
        out[row, j] = ptx.from_float(out, activate(ptx.to_float(out[row, j]), activation))
