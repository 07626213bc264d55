"""RoPE 16 bytes at a time: alone, and fused with the norm before it and the KV write behind it.

A thread has a *pair of packets*: the components that it turns into one another, half the turning
part apart, so that no thread needs what another has. What does not turn is cut in half as well,
and its packets are paired the same way, with an angle of 0.

::

    head, d turns of D     | p0 | p1 | p2 | p0'| p1'| p2'| p3 | p4 | p3'| p4'|
    thread                   t0   t1   t2   t0   t1   t2   t3   t4   t3   t4
                           |<--- d/2 ---->|<--- d/2 ---->|<- rest/2 ->|

All heads of a token turn by the same angles. So a thread has the same pair of several heads, and
reads cosines and sines once for all of them.

For heads of which both parts are whole packets, twice. Others take the kernels of
:mod:`llm_numba.kernels.rope_heads`.
"""

import functools
from typing import Any

from numba import cuda, float32, int32

from llm_numba.kernels import ptx
from llm_numba.kernels.layernorm_rows import inverse_deviation

# The most numbers of a packet.
_WIDEST = 8
_FULL_WARP = 0xFFFFFFFF


@cuda.jit(device=True)
def _offsets(pair, width, half, length):
    """Return where in a head the two packets of a pair begin."""
    turning = half // width
    if pair < turning:
        return pair * width, half + pair * width
    begin = 2 * half + (pair - turning) * width
    return begin, begin + (length - 2 * half) // 2


@cuda.jit(device=True)
def _load_turn(cos, sin, position, pair, width, c, s):
    """Read the cosines and sines of a pair; of what does not turn, 1 and 0."""
    half = cos.shape[1]
    if pair * width < half:
        begin = position * half + pair * width
        for quarter in range(width // 4):
            cosines = ptx.load16(cos, begin + 4 * quarter)
            sines = ptx.load16(sin, begin + 4 * quarter)
            for e in range(4):
                c[4 * quarter + e] = cosines[e]
                s[4 * quarter + e] = sines[e]
    else:
        for e in range(width):
            c[e] = float32(1)
            s[e] = float32(0)


@cuda.jit(device=True)
def _turn(width, k, c, s, first, second):
    """Turn the pair of head k of those that a thread holds."""
    for e in range(width):
        at = k * width + e
        one, other = first[at], second[at]
        first[at] = one * c[e] - other * s[e]
        second[at] = other * c[e] + one * s[e]


@cuda.jit(device=True)
def _normalise(width, k, weight, inverse, low, high, first, second):
    """Apply a norm to the pair of head k; without a weight there is none."""
    if weight.size > 0:
        a, b = ptx.load16(weight, low), ptx.load16(weight, high)
        for e in range(width):
            first[k * width + e] *= inverse * a[e]
            second[k * width + e] *= inverse * b[e]


@cuda.jit(device=True)
def _sum_over_head(width, k, first, second):
    """Add up the squares of head k, of which blockDim.x neighbours have a pair each."""
    squares = float32(0)
    for at in range(k * width, (k + 1) * width):
        squares += first[at] * first[at] + second[at] * second[at]
    distance = cuda.blockDim.x >> 1
    while distance > 0:
        squares += cuda.shfl_xor_sync(_FULL_WARP, squares, distance)
        distance >>= 1
    return squares


@cuda.jit(device=True)
def _store_pair(out, begin, low, high, k, first, second):
    """Round and store the pair of head k of those that a thread holds."""
    width = ptx.items16(out)
    a, b = ptx.zeros16(out), ptx.zeros16(out)
    for e in range(width):
        a = ptx.with_item(a, e, first[k * width + e])
        b = ptx.with_item(b, e, second[k * width + e])
    ptx.store16(out, begin + low, a)
    ptx.store16(out, begin + high, b)


@functools.cache
def vectorised(held: int) -> Any:
    """Make the kernel whose threads hold a pair of so many heads.

    Parameters
    ----------
    held : int

    Returns
    -------
    dispatcher
    """
    numbers = _WIDEST * held

    @cuda.jit
    def rope_vectorised(x, positions, cos, sin, out):
        """Load and store 16 bytes at a time; all loads of a thread are under way at once."""
        first = cuda.local.array(numbers, float32)
        second = cuda.local.array(numbers, float32)
        c = cuda.local.array(_WIDEST, float32)
        s = cuda.local.array(_WIDEST, float32)
        token = cuda.blockIdx.x * cuda.blockDim.z + cuda.threadIdx.z
        if token >= x.shape[0]:
            return
        heads, length, width = x.shape[1], x.shape[2], ptx.items16(x)
        low, high = _offsets(cuda.threadIdx.x, width, cos.shape[1], length)
        head = cuda.blockIdx.y * (held * cuda.blockDim.y) + cuda.threadIdx.y
        begin, apart = (token * heads + head) * length, cuda.blockDim.y * length
        for k in range(held):
            if head + k * cuda.blockDim.y < heads:
                a = ptx.load16(x, begin + k * apart + low)
                b = ptx.load16(x, begin + k * apart + high)
                for e in range(width):
                    first[k * width + e] = a[e]
                    second[k * width + e] = b[e]
        _load_turn(cos, sin, positions[token], cuda.threadIdx.x, width, c, s)
        for k in range(held):
            if head + k * cuda.blockDim.y < heads:
                _turn(width, k, c, s, first, second)
                _store_pair(out, begin + k * apart, low, high, k, first, second)

    return rope_vectorised


@functools.cache
def fused(held: int) -> Any:
    """Make the kernel that normalises, turns and writes a token's heads, so many a thread.

    Parameters
    ----------
    held : int

    Returns
    -------
    dispatcher
    """
    numbers = _WIDEST * held

    @cuda.jit
    def rope_write_vectorised(
        qkv, positions, cos, sin, q_norm, k_norm, eps, slot_mapping, heads, q, k_cache, v_cache
    ):
        """Read q, k and v once, and leave each number where attention will look for it.

        A head lies in the registers of at most 32 neighbours of one warp, the sum of its squares
        is a few shuffles away. So no thread leaves early, and who has no pair adds zeros.
        """
        first = cuda.local.array(numbers, float32)
        second = cuda.local.array(numbers, float32)
        c = cuda.local.array(_WIDEST, float32)
        s = cuda.local.array(_WIDEST, float32)
        token = cuda.blockIdx.x * cuda.blockDim.z + cuda.threadIdx.z
        end, length, width = qkv.shape[1], qkv.shape[2], ptx.items16(qkv)
        pair, groups = cuda.threadIdx.x, (end - heads) // 2
        low, high = _offsets(pair, width, cos.shape[1], length)
        head = cuda.blockIdx.y * (held * cuda.blockDim.y) + cuda.threadIdx.y
        begin, apart = (token * end + head) * length, cuda.blockDim.y * length
        if token >= qkv.shape[0] or pair * 2 * width >= length:
            end = 0
        for k in range(held):
            if head + k * cuda.blockDim.y < end:
                a = ptx.load16(qkv, begin + k * apart + low)
                b = ptx.load16(qkv, begin + k * apart + high)
                for e in range(width):
                    first[k * width + e] = a[e]
                    second[k * width + e] = b[e]
            else:
                for e in range(width):
                    first[k * width + e] = float32(0)
                    second[k * width + e] = float32(0)
        slot = int32(-1)
        if end > 0:
            slot = slot_mapping[token]
            _load_turn(cos, sin, positions[token], pair, width, c, s)
        for k in range(held):
            this = head + k * cuda.blockDim.y
            if q_norm.size > 0 or k_norm.size > 0:
                squares = _sum_over_head(width, k, first, second)
                inverse = inverse_deviation(squares, length, eps)
                if this < min(end, heads):
                    _normalise(width, k, q_norm, inverse, low, high, first, second)
                elif this < min(end, heads + groups):
                    _normalise(width, k, k_norm, inverse, low, high, first, second)
            if this < min(end, heads + groups):
                _turn(width, k, c, s, first, second)
            if this < min(end, heads):
                row = token * heads + this
                _store_pair(q, row * length, low, high, k, first, second)
            elif this < end and slot >= 0:
                row = slot * groups + this - heads
                if this < heads + groups:
                    _store_pair(k_cache, row * length, low, high, k, first, second)
                else:
                    row -= groups
                    _store_pair(v_cache, row * length, low, high, k, first, second)

    return rope_write_vectorised
