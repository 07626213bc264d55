r"""What not to do: a matrix product whose sums are kept in half precision.

float16 has 11 significant bits. A sum of K products of one sign grows like K, and the distance
between neighbouring float16 numbers grows with it, while the products stay as they were:

::

    sum so far       1 .. 2     16 .. 32    256 .. 512    2048 .. 4096
    float16 has      0.001      0.016       0.25          2             between neighbours
    adding 0.25      is exact   is exact    is exact      is lost

At 512 the distance is 0.5. Adding 0.25 gets half the way, is rounded to the even neighbour, and the
sum stands still; bfloat16, with 8 bits, stands still at 64. Products of both signs err as a random
walk does: more slowly, but each step by up to :math:`2^{-11}`, where float32 has :math:`2^{-24}`.

Half the registers and, on some GPUs, twice the rate are what it is done for. All other kernels here
store in 16 bits and sum in 32.

Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, sections 3.1 and 4.2.
"""

from numba import cuda
from numba.cuda.types import float16


@cuda.jit
def gemm_half_sum(a, w, c):
    """One thread an output, as in ``naive``; each step rounds the sum to 11 bits.

    The fused multiply-add at least does not round the product as well.
    """
    row, column = cuda.grid(2)
    if row < c.shape[0] and column < c.shape[1]:
        total = float16(0)
        for k in range(a.shape[1]):
            total = cuda.fp16.hfma(a[row, k], w[column, k], total)
        c[row, column] = total
