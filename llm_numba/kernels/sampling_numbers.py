r"""Numbers of the sampler: ordered keys, weights in fixed point, bins, random bits.

**Keys.** The bits of a float, read as an integer, are in the order of the floats as long as they
are positive; of negative ones the magnitude bits must be flipped. So a search for the k-th largest
logit, or for the logit at which a sum is reached, is a search over 32 bits, and exact.

**Weights.** Token j of a row with the largest logit m weighs :math:`w_j = 2^{z_j}`,
:math:`z_j = (x_j - m) \log_2 e / T`, at most 1. Sums of float32 depend on their order, and blocks
come in any. Sums of integers do not: weights are counted in units of :math:`2^{-40}`. V of them
stay below :math:`2^{63}` while V is below :math:`2^{23}`, and what is lost to rounding is less
than V units: a part in :math:`2^{23}` of a vocabulary of 128k, the step of a float32. Tokens less
than one unit heavy are never drawn.

**Bins.** A weight is a float, and its upper bits are a histogram's bins: the exponent, an octave
each, and four bits of the mantissa, 16 bins an octave. What a token weighs inside its octave is 16
bits of the mantissa, to 2^-16 of itself, and 32 bits hold the sum of a block's tokens.

Source of the generator: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

import math

from numba import cuda, float32, int32, int64, uint32, uint64
from numba.cuda import libdevice

from llm_numba.kernels import ptx

# Above the key of +inf, 0x7F800000: NaN counts as the largest, as in NumPy.
NAN_KEY = 0x7FFFFFFF
INFINITY_KEY = 0x7F800000
LEAST_KEY = -NAN_KEY - 1

# Below this temperature a token is not drawn: the most likely one is taken.
GREEDY_BELOW = float32(1e-5)

UNIT_BITS = 40
LOWEST = float32(2.0**-UNIT_BITS)
OCTAVE_BITS = 4  # 16 bins an octave
BINS = 768  # of which 15 to 655 are used; a multiple of the threads of a block
UNIFORM_BITS = 24

_UNITS = float32(2.0**UNIT_BITS)
_BELOW_TWO = 0x3FFFFFFF  # the largest float below 2, as bits
_MANTISSA = 0x7FFFFF
_IMPLICIT = 0x800000
_BIN_SHIFT = 23 - OCTAVE_BITS
_WEIGHT_SHIFT = 8  # of 24 bits of the mantissa 16 are added up
WEIGHT_BITS = 15  # a weight of 1 is as many bits
LOG2_E = float32(math.log2(math.e))
_INDEX_BITS = 0xFFFFFFFF
_MASK32 = uint64(0xFFFFFFFF)


@cuda.jit(device=True)
def key_of(value):
    """Return an int32 in the order of float32; of both zeros the same, of NaN the largest."""
    if value != value:
        return int32(NAN_KEY)
    bits = libdevice.float_as_int(value + float32(0))  # -0 + 0 is +0
    return int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@cuda.jit(device=True)
def value_of(key):
    """Return the float32 of a key."""
    return libdevice.int_as_float(int32(key ^ ((key >> 31) & 0x7FFFFFFF)))


@cuda.jit(device=True)
def ranked(key, column):
    """Join key and column to one int64: larger keys first, then smaller columns."""
    return (int64(key) << 32) | (_INDEX_BITS - column)


@cuda.jit(device=True)
def key_of_ranked(rank):
    """Return the key of a :func:`ranked` pair."""
    return int32(rank >> 32)


@cuda.jit(device=True)
def has_finite_maximum(rank):
    """Tell whether a row's largest logit is finite, which NaN is not."""
    key = key_of_ranked(rank)
    return key > -INFINITY_KEY - 1 and key < INFINITY_KEY


@cuda.jit(device=True)
def column_of_ranked(rank):
    """Return the column of a :func:`ranked` pair."""
    return _INDEX_BITS - (rank & _INDEX_BITS)


@cuda.jit(device=True)
def weigher_of(rank, temperature, min_p):
    """Return what weighs a row's logits: the largest, octaves a logit, the lowest weight kept."""
    return value_of(key_of_ranked(rank)), LOG2_E / temperature, max(min_p, LOWEST)


@cuda.jit(device=True)
def weight_of(value, weigher):
    """Return the weight of a logit, float32, at most 1."""
    return ptx.exp2((value - weigher[0]) * weigher[1])


@cuda.jit(device=True)
def units(weight):
    """Return a weight in units of 2^-40, as int64."""
    return int64(weight * _UNITS)


@cuda.jit(device=True)
def bin_of(weight):
    """Return the bin of a weight from 2^-40 to 1; larger weights have smaller bins."""
    # Unsigned, and no wider than it must be: an index that might be negative costs more.
    below = uint32(int32(_BELOW_TWO) - libdevice.float_as_int(weight))
    return uint32(below >> uint32(_BIN_SHIFT))


@cuda.jit(device=True)
def above_bin(index):
    """Return a weight: those above it, and no others, have smaller bins."""
    return libdevice.int_as_float(int32(_BELOW_TWO - (index << _BIN_SHIFT)))


@cuda.jit(device=True)
def units_in_bin(weight):
    """Return a weight in units of its octave: int32, from 2^15 to 2^16."""
    mantissa = (libdevice.float_as_int(weight) & _MANTISSA) | _IMPLICIT
    return int32((mantissa + (1 << (_WEIGHT_SHIFT - 1))) >> _WEIGHT_SHIFT)


@cuda.jit(device=True)
def units_of_bin(total, index):
    """Turn what a bin holds by :func:`units_in_bin` into units of 2^-40."""
    return (int64(total) << (UNIT_BITS - WEIGHT_BITS)) >> (index >> OCTAVE_BITS)


@cuda.jit(device=True)
def part_of(total, share):
    """Return floor(total * share / 2^24) of int64, without a product of more than 63 bits."""
    low = total & ((1 << UNIFORM_BITS) - 1)
    return (total >> UNIFORM_BITS) * share + ((low * share) >> UNIFORM_BITS)


@cuda.jit(device=True)
def uniform_bits(seed, stream, position):
    """Hash (seed; position, stream) to 24 random bits, the first word's upper ones."""
    words = philox4x32(uint64(position) & _MASK32, uint64(stream) & _MASK32, seed)
    return int64(words[0] >> uint64(32 - UNIFORM_BITS))


@cuda.jit(device=True)
def philox4x32(position, stream, seed):
    """Run the ten rounds of Philox4x32 on the counter (position, stream, 0, 0).

    All uint64, of which the counter's and the result's hold 32 bits: the product of two words is
    whole, and nothing wraps that should not.
    """
    c0, c1, c2, c3 = position, stream, uint64(0), uint64(0)
    k0, k1 = seed & _MASK32, seed >> uint64(32)
    for _ in range(10):
        product0, product1 = uint64(0xD2511F53) * c0, uint64(0xCD9E8D57) * c2
        c0 = (product1 >> uint64(32)) ^ c1 ^ k0
        c1 = product1 & _MASK32
        c2 = (product0 >> uint64(32)) ^ c3 ^ k1
        c3 = product0 & _MASK32
        k0 = (k0 + uint64(0x9E3779B9)) & _MASK32
        k1 = (k1 + uint64(0xBB67AE85)) & _MASK32
    return c0, c1, c2, c3
