"""RoPE on heads of any length: the steps that come before packets of 16 bytes.

Apart, the norm, the rotation and the KV write are a kernel each, and every number of q and k goes
to memory and back between them. :func:`rope_write_heads` does all three for a head while a warp
has it.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.layernorm_rows import inverse_deviation
from llm_numba.kernels.reduce import WARP, warp_sum


@cuda.jit(device=True)
def _component(shape):
    """Return token, head and component of this thread; a token too many beyond the end."""
    i = cuda.grid(1)
    return i // (shape[1] * shape[2]), i // shape[2] % shape[1], i % shape[2]


@cuda.jit
def rope_naive(x, positions, cos, sin, out):
    """Compute one component in each thread.

    Each reads its own component and the other of its pair: x is read twice, if from the cache the
    second time, 2 or 4 bytes a load.
    """
    token, head, i = _component(x.shape)
    if token >= x.shape[0]:
        return
    half = cos.shape[1]
    value = ptx.to_float(x[token, head, i])
    if i < half:
        other = ptx.to_float(x[token, head, i + half])
        p = positions[token]
        value = value * cos[p, i] - other * sin[p, i]
    elif i < 2 * half:
        other = ptx.to_float(x[token, head, i - half])
        p = positions[token]
        value = value * cos[p, i - half] + other * sin[p, i - half]
    out[token, head, i] = ptx.from_float(out, value)


@cuda.jit(device=True)
def _inverse_of_head(x, token, head, eps):
    """Return 1 / sqrt(mean square + eps) of a head that a warp shares."""
    squares = float32(0)
    for i in range(cuda.threadIdx.x, x.shape[2], WARP):
        value = ptx.to_float(x[token, head, i])
        squares += value * value
    return inverse_deviation(warp_sum(squares), x.shape[2], eps)


@cuda.jit
def norm_heads(x, weight, eps, out):
    """Normalise each head by a warp; x may be a part of each row of something longer."""
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    token, head = row // x.shape[1], row % x.shape[1]
    if token >= x.shape[0]:
        return
    inverse = _inverse_of_head(x, token, head, eps)
    for i in range(cuda.threadIdx.x, x.shape[2], WARP):
        value = ptx.to_float(x[token, head, i]) * inverse * ptx.to_float(weight[i])
        out[token, head, i] = ptx.from_float(out, value)


@cuda.jit
def write_heads(k, v, k_cache, v_cache, slot_mapping):
    """Write one component of k and of v in each thread, to its token's slot."""
    token, head, i = _component(k.shape)
    if token >= k.shape[0]:
        return
    slot = slot_mapping[token]
    if slot >= 0:
        block, row = slot // k_cache.shape[1], slot % k_cache.shape[1]
        k_cache[block, row, head, i] = k[token, head, i]
        v_cache[block, row, head, i] = v[token, head, i]


@cuda.jit(device=True)
def _prepared(qkv, token, head, i, weight, inverse):
    """Read a component, and apply the norm if there is one."""
    value = ptx.to_float(qkv[token, head, i])
    return value * inverse * ptx.to_float(weight[i]) if weight.size > 0 else value


@cuda.jit(device=True)
def _turned_head(qkv, token, head, position, cos, sin, weight, eps, out, row):
    """Normalise and turn a head, and write it to a row of out [..., D]."""
    half, length = cos.shape[1], qkv.shape[2]
    inverse = float32(1)
    if weight.size > 0:
        inverse = _inverse_of_head(qkv, token, head, eps)
    for i in range(cuda.threadIdx.x, half, WARP):
        c, s = cos[position, i], sin[position, i]
        first = _prepared(qkv, token, head, i, weight, inverse)
        second = _prepared(qkv, token, head, i + half, weight, inverse)
        out[row, i] = ptx.from_float(out, first * c - second * s)
        out[row, i + half] = ptx.from_float(out, second * c + first * s)
    for i in range(2 * half + cuda.threadIdx.x, length, WARP):
        value = _prepared(qkv, token, head, i, weight, inverse)
        out[row, i] = ptx.from_float(out, value)


@cuda.jit
def rope_write_heads(
    qkv, positions, cos, sin, q_norm, k_norm, eps, slot_mapping, heads, q, k_cache, v_cache
):
    """Give each head to a warp, which normalises it, turns it and writes it where it belongs.

    q and the caches come as rows [..., D], one for each head of a token or slot. The second
    reading, behind the sum of squares, finds the head in the L1 cache.
    """
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    token, head = row // qkv.shape[1], row % qkv.shape[1]
    if token >= qkv.shape[0]:
        return
    groups = (qkv.shape[1] - heads) // 2
    position, slot = positions[token], slot_mapping[token]
    if head < heads:
        row = token * heads + head
        _turned_head(qkv, token, head, position, cos, sin, q_norm, eps, q, row)
    elif slot >= 0:
        row = slot * groups + head - heads
        if head < heads + groups:
            _turned_head(qkv, token, head, position, cos, sin, k_norm, eps, k_cache, row)
        else:
            for i in range(cuda.threadIdx.x, qkv.shape[2], WARP):
                v_cache[row - groups, i] = qkv[token, head, i]
