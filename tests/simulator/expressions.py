"""Small kernels, each one expression, with what the type of the hardware must make of it.

``CASES`` maps a name to (kernel, inputs, result dtype, expected): a kernel takes the inputs and an
output array of as many elements; ``expected`` computes the output with NumPy alone.
"""

import math

import numpy as np
from numba import cuda, float32, int8, int16, int32, int64, uint8, uint32, uint64

RNG = np.random.default_rng(7)
F32 = np.concatenate(
    [
        RNG.standard_normal(200) * 10.0 ** RNG.integers(-6, 7, 200),
        [
            0.0,
            -0.0,
            1.0,
            -1.0,
            np.inf,
            -np.inf,
            np.nan,
            3.4e38,
            -3.4e38,
            1e-45,
            2.0**31,
            -(2.0**63),
        ],
    ]
).astype(np.float32)
F64 = F32.astype(np.float64) * 1.000000123
I32 = np.concatenate([RNG.integers(-(2**31), 2**31, 200), [0, 1, -1, 2**31 - 1, -(2**31)]]).astype(
    np.int32
)
I64 = np.concatenate(
    [RNG.integers(-(2**63), 2**63 - 1, 200), [0, 1, -1, 2**63 - 1, -(2**63)]]
).astype(np.int64)
U32 = I32.view(np.uint32)
SMALL = RNG.integers(-7, 8, len(I32)).astype(np.int32)
NONZERO = np.where(SMALL == 0, 3, SMALL).astype(np.int32)


@cuda.jit
def int32_sum(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] + b[i]


@cuda.jit
def int32_sum_kept_in_32_bits(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = int32(a[i] + b[i])


@cuda.jit
def uint32_product(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = uint32(a[i] * b[i])


@cuda.jit
def int64_product(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * b[i] + int64(7)


@cuda.jit
def signed_and_unsigned(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = int64(a[i]) + uint64(b[i])


@cuda.jit
def narrow(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = int8(a[i]) + 1000 * int16(b[i]) + 100000 * uint8(a[i])


@cuda.jit
def floor_division(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] // b[i] * 100 + a[i] % b[i]


@cuda.jit
def shifts_and_bits(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = ((a[i] >> 3) ^ (b[i] << 5)) & ~(a[i] | 9)


@cuda.jit
def float_literal_is_float64(a, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * 0.1


@cuda.jit
def float32_literal(a, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * float32(0.1)


@cuda.jit
def fused(a, b, out):
    """NVVM makes one instruction of a product and a sum: it rounds once."""
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * a[i] - b[i]


@cuda.jit
def quotient(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] / b[i]


@cuda.jit
def to_int32(a, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = int32(a[i])


@cuda.jit
def to_int64(a, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = int64(a[i])


@cuda.jit
def to_float32(a, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = float32(a[i])


@cuda.jit
def square_root(a, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = math.sqrt(a[i])


@cuda.jit
def smaller_and_larger(a, b, out):
    """The hardware's min and max prefer a number to NaN."""
    i = cuda.grid(1)
    if i < out.size:
        out[i] = min(a[i], b[i]) - max(a[i], b[i])


@cuda.jit
def bit_counts(a, out):
    i = cuda.grid(1)
    if i < out.size:
        x = uint32(a[i])
        out[i] = cuda.popc(x) + 100 * cuda.clz(x) + 10000 * cuda.ffs(x)


@cuda.jit
def reversed_bits(a, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = cuda.brev(uint32(a[i]))


def _fused(a, b):
    wide = a.astype(np.float64)
    return (wide * wide - b.astype(np.float64)).astype(np.float32)


def _saturated(x, dtype):
    """Convert as the GPU does (PTX ISA, `cvt`): towards zero, to the nearest end out of range.

    NaN becomes zero if both types have 32 bits, else the lowest number.
    """
    info = np.iinfo(dtype)
    nothing = 0 if info.bits == 32 and x.dtype == np.float32 else info.min
    number = [nothing if math.isnan(v) else v for v in x.tolist()]
    return np.array(
        [
            info.min if v <= info.min else info.max if v >= info.max else math.trunc(v)
            for v in number
        ],
        dtype,
    )


def _lengths(x):
    bits = [f"{v:032b}" for v in x.view(np.uint32).tolist()]
    counts = [
        b.count("1") + 100 * (32 if "1" not in b else b.index("1"))
        + 10000 * (0 if "1" not in b else 32 - b.rindex("1"))
        for b in bits
    ]  # fmt: skip
    return np.array(counts)


def _python(function, *arrays):
    return np.array([function(*map(int, each)) for each in zip(*arrays, strict=True)], np.int64)


def _wrapped(value):
    return (value + 2**63) % 2**64 - 2**63


_ROLLED = np.roll(F32, 3)
CASES = {
    "int32 + int32 is int64": (
        int32_sum, (I32, np.roll(I32, 1)), np.int64, lambda a, b: _python(lambda x, y: x + y, a, b)
    ),
    "a cast wraps to 32 bits": (
        int32_sum_kept_in_32_bits, (I32, np.roll(I32, 1)), np.int64,
        lambda a, b: (a + b).astype(np.int64),
    ),
    "uint32 wraps": (uint32_product, (U32, np.roll(U32, 1)), np.uint32, lambda a, b: a * b),
    "int64 wraps": (
        int64_product, (I64, np.roll(I64, 1)), np.int64,
        lambda a, b: _python(lambda x, y: _wrapped(x * y + 7), a, b),
    ),
    "int64 with uint64 is int64": (
        signed_and_unsigned, (I32, np.roll(U32, 1)), np.int64,
        lambda a, b: _python(lambda x, y: x + y, a, b),
    ),
    "narrow integers": (
        narrow, (I32, np.roll(I32, 1)), np.int64,
        lambda a, b: a.astype(np.int8).astype(np.int64) + 1000 * b.astype(np.int16).astype(np.int64)
        + 100000 * a.astype(np.uint8).astype(np.int64),
    ),
    "floor division and remainder": (
        floor_division, (I32, NONZERO), np.int64,
        lambda a, b: _python(lambda x, y: x // y * 100 + x % y, a, b),
    ),
    "shifts and bits": (
        shifts_and_bits, (I32, np.roll(I32, 1)), np.int64,
        lambda a, b: _python(lambda x, y: ((x >> 3) ^ (y << 5)) & ~(x | 9), a, b),
    ),
    "a float literal is float64": (
        float_literal_is_float64, (F32,), np.float64, lambda a: a.astype(np.float64) * 0.1
    ),
    "a wrapped literal is float32": (
        float32_literal, (F32,), np.float32, lambda a: a * np.float32(0.1)
    ),
    "a product feeds a difference": (fused, (F32, _ROLLED), np.float32, _fused),
    "float32 division": (quotient, (F32, _ROLLED), np.float32, lambda a, b: a / b),
    "float64 division": (quotient, (F64, np.roll(F64, 3)), np.float64, lambda a, b: a / b),
    "float32 to int32": (to_int32, (F32,), np.int32, lambda a: _saturated(a, np.int32)),
    "float32 to int64": (to_int64, (F32,), np.int64, lambda a: _saturated(a, np.int64)),
    "float64 to int32": (to_int32, (F64,), np.int32, lambda a: _saturated(a, np.int32)),
    "int64 to float32": (to_float32, (I64,), np.float32, lambda a: a.astype(np.float32)),
    "float64 to float32": (to_float32, (F64,), np.float32, lambda a: a.astype(np.float32)),
    "square root, float32": (square_root, (np.abs(F32),), np.float32, np.sqrt),
    "min and max": (
        smaller_and_larger, (F32, _ROLLED), np.float32,
        lambda a, b: np.fmin(a, b) - np.fmax(a, b),
    ),
    "popc, clz, ffs": (bit_counts, (I32,), np.int64, _lengths),
    "brev": (
        reversed_bits, (I32,), np.uint32,
        lambda a: np.array([int(f"{v:032b}"[::-1], 2) for v in a.view(np.uint32).tolist()],
                           np.uint32),
    ),
}  # fmt: skip


# -- Warps: the output is a function of all 32 lanes ----------------------------------------------


@cuda.jit
def exchanges(x, out):
    t = cuda.grid(1)
    lane = cuda.laneid
    full = 0xFFFFFFFF
    value = x[t]
    out[0, t] = cuda.shfl_sync(full, value, (lane * 7) % 32)
    out[1, t] = cuda.shfl_up_sync(full, value, 3)
    out[2, t] = cuda.shfl_down_sync(full, value, 5)
    out[3, t] = cuda.shfl_xor_sync(full, value, 9)
    out[4, t] = cuda.ballot_sync(full, value > 0)
    out[5, t] = cuda.all_sync(full, value > -100)
    out[6, t] = cuda.any_sync(full, value > 90)
    out[7, t] = cuda.match_any_sync(full, value % 5)
    mask, same = cuda.match_all_sync(full, value // 200)
    out[8, t] = mask
    out[9, t] = same
    if lane % 3 == 0:
        out[10, t] = cuda.activemask()
        out[11, t] = cuda.shfl_sync(0x49249249, value, 0)


def exchanged(x):
    """Compute :func:`exchanges` lane by lane."""
    out = np.zeros((12, len(x)), np.int64)
    for start in range(0, len(x), 32):
        warp = x[start : start + 32].tolist()
        for lane, own in enumerate(warp):
            equal = [(other % 5) == (own % 5) for other in warp]
            same = len({other // 200 for other in warp}) == 1
            column = [
                warp[lane * 7 % 32],
                warp[lane - 3] if lane >= 3 else own,
                warp[lane + 5] if lane + 5 < 32 else own,
                warp[lane ^ 9],
                _bits(other > 0 for other in warp),
                all(other > -100 for other in warp),
                any(other > 90 for other in warp),
                _bits(equal),
                -1 if same else 0,
                same,
                _bits(other % 3 == 0 for other in range(32)) & 0xFFFFFFFF if lane % 3 == 0 else 0,
                warp[0] if lane % 3 == 0 else 0,
            ]
            out[:, start + lane] = column
    return out


def _bits(flags):
    word = sum(1 << place for place, flag in enumerate(flags) if flag)
    return word - 2**32 if word >= 2**31 else word


@cuda.jit
def atomics(x, out):
    i = cuda.grid(1)
    if i < x.size:
        cuda.atomic.add(out, 0, x[i])
        cuda.atomic.sub(out, 1, x[i])
        cuda.atomic.max(out, 2, x[i])
        cuda.atomic.min(out, 3, x[i])
        cuda.atomic.and_(out, 4, x[i])
        cuda.atomic.or_(out, 5, x[i])
        cuda.atomic.xor(out, 6, x[i])
        cuda.atomic.add(out, 7 + x[i] % 3, 1)


def updated(x):
    """Compute :func:`atomics` with Python's integers, wrapped."""
    numbers = x.tolist()
    out = [sum(numbers), -sum(numbers), max(0, *numbers), min(0, *numbers)]
    out += [0, np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x)]
    out += [sum(n % 3 == r for n in numbers) for r in range(3)]
    return np.array([(int(n) + 2**31) % 2**32 - 2**31 for n in out], np.int32)


def assert_same_bits(left, right):
    """Assert that two arrays are equal bit for bit, but for which NaN it is."""
    assert left.dtype == right.dtype
    width = f"u{left.dtype.itemsize}"
    both_nan = (left != left) & (right != right)
    np.testing.assert_array_equal(
        np.where(both_nan, 0, left.view(width)), np.where(both_nan, 0, right.view(width))
    )
