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

from numba import cuda, float32, int32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.layernorm_rows import inverse_deviation
from llm_numba.kernels.packets import widened
from llm_numba.runtime import starts_early

# The most numbers of a packet.
_WIDEST = 8
_FULL_WARP = 0xFFFFFFFF


@cuda.jit(device=True)
def _offsets(pair, width, half, length):
    """Return where in a head the two packets of a pair begin."""
    low, apart = pair * width, half
    if low >= half:  # not one of those that turn, which fill low < half and half <= high < 2 half
        low += half
        apart = (length >> 1) - half
    return low, low + apart


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
def _store_pair(out, begin, low, high, a, b):
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
    words = 4 * held

    @cuda.jit
    def rope_vectorised(x, positions, cos, sin, out):
        """Load and store 16 bytes at a time; all loads of a thread are under way at once."""
        first = cuda.local.array(words, uint32)
        second = cuda.local.array(words, uint32)
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
                one = ptx.load_raw16(x, begin + k * apart + low)
                other = ptx.load_raw16(x, begin + k * apart + high)
                for w in range(4):
                    first[4 * k + w] = one[w]
                    second[4 * k + w] = other[w]
        _load_turn(cos, sin, positions[token], cuda.threadIdx.x, width, c, s)
        for k in range(held):
            if head + k * cuda.blockDim.y < heads:
                p, q = widened(x, first, k), widened(x, second, k)
                a, b = ptx.zeros16(out), ptx.zeros16(out)
                for e in range(width):
                    a = ptx.with_item(a, e, p[e] * c[e] - q[e] * s[e])
                    b = ptx.with_item(b, e, q[e] * c[e] + p[e] * s[e])
                _store_pair(out, begin + k * apart, low, high, a, b)

    return rope_vectorised


@cuda.jit(device=True)
def _widen(array, words, numbers):
    """Make the numbers of a packet."""
    values = ptx.widen_raw16(array, words)
    for e in range(ptx.items16(array)):
        numbers[e] = values[e]


@cuda.jit(device=True)
def _squares(array, a, b):
    """Add up the squares of two packets."""
    one, other = ptx.widen_raw16(array, a), ptx.widen_raw16(array, b)
    total = float32(0)
    for e in range(ptx.items16(array)):
        total += one[e] * one[e] + other[e] * other[e]
    return total


@cuda.jit(device=True)
def _normalise(weight, inverse, low, high, width, first, second):
    """Apply a norm to a pair; without a weight there is none."""
    if weight.size > 0:
        a, b = ptx.load16(weight, low), ptx.load16(weight, high)
        for e in range(width):
            first[e] *= inverse * a[e]
            second[e] *= inverse * b[e]


@cuda.jit(device=True)
def _turn(cos, sin, begin, width, first, second):
    """Turn a pair by angles that are read four at a time, as there are few registers left."""
    for quarter in range(width // 4):
        c = ptx.load16(cos, begin + 4 * quarter)
        s = ptx.load16(sin, begin + 4 * quarter)
        for e in range(4):
            one, other = first[4 * quarter + e], second[4 * quarter + e]
            first[4 * quarter + e] = one * c[e] - other * s[e]
            second[4 * quarter + e] = other * c[e] + one * s[e]


@cuda.jit(device=True)
def _sum_of_lanes(value):
    """Add over the blockDim.x neighbours that share a head, a power of two, for each of them."""
    distance = cuda.blockDim.x >> 1
    while distance > 0:
        value += cuda.shfl_xor_sync(_FULL_WARP, value, distance)
        distance >>= 1
    return value


@starts_early
@cuda.jit
def rope_write_vectorised(
    qkv, positions, cos, sin, q_norm, k_norm, eps, slot_mapping, heads, queries, k_cache, v_cache
):
    """Read q, k and v once, and leave each number where attention will look for it.

    A head lies in the registers of at most 32 neighbours in one warp, so the sum of its squares
    is a few shuffles away. No thread may leave before them: who has no pair adds zeros. Until the
    sum is known a packet stays in 4 registers; all threads that an SM has room for are needed.
    """
    ptx.release_next_kernel()
    ptx.await_previous_kernel()
    first = cuda.local.array(_WIDEST, float32)
    second = cuda.local.array(_WIDEST, float32)
    token = cuda.blockIdx.x * cuda.blockDim.z + cuda.threadIdx.z
    head = cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y
    pair, length, width, half = cuda.threadIdx.x, qkv.shape[2], ptx.items16(qkv), cos.shape[1]
    groups = (qkv.shape[1] - heads) // 2
    exists = token < qkv.shape[0] and head < qkv.shape[1] and 2 * width * pair < length
    low, high = _offsets(pair, width, half, length)
    a = b = (uint32(0), uint32(0), uint32(0), uint32(0))
    slot, position = int32(0), int32(0)
    if exists:
        position = positions[token]
        if head >= heads:
            slot = slot_mapping[token]
        begin = (token * qkv.shape[1] + head) * length
        a, b = ptx.load_raw16(qkv, begin + low), ptx.load_raw16(qkv, begin + high)
    inverse = float32(1)
    if q_norm.size > 0 or k_norm.size > 0:
        inverse = inverse_deviation(_sum_of_lanes(_squares(qkv, a, b)), length, eps)
    if not exists or slot < 0:
        return
    if head >= heads + groups:
        begin = (slot * groups + head - heads - groups) * length
        ptx.store_raw16(v_cache, begin + low, a)
        ptx.store_raw16(v_cache, begin + high, b)
        return
    _widen(qkv, a, first)
    _widen(qkv, b, second)
    if head < heads:
        _normalise(q_norm, inverse, low, high, width, first, second)
    else:
        _normalise(k_norm, inverse, low, high, width, first, second)
    if pair * width < half:
        _turn(cos, sin, position * half + pair * width, width, first, second)
    y, z = ptx.zeros16(qkv), ptx.zeros16(qkv)
    for e in range(width):
        y = ptx.with_item(y, e, first[e])
        z = ptx.with_item(z, e, second[e])
    if head < heads:
        _store_pair(queries, (token * heads + head) * length, low, high, y, z)
    else:
        _store_pair(k_cache, (slot * groups + head - heads) * length, low, high, y, z)
