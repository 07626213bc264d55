"""A whole decoding step in one launch: one block an SM stays, and walks through all layers.

::

    block     embed | qkv | attend | out | gate, up | down | qkv | attend | ... | LM head | argmax
    meet            1     2        3     4          5      6     7
    ring      ======================== weights, without a break =======================>

Between two stages every block needs what all others have computed. In a graph of kernels that is
where one grid drains and the next begins to ask for weights. Here the blocks meet at a counter, and
their rings (:mod:`~llm_numba.kernels.persistent_stream`) fill with the next stages' weights while
they wait.
"""

import functools

from numba import cuda, float32, int64, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import silu
from llm_numba.kernels.gemv_epilogue import inverse_rms
from llm_numba.kernels.persistent_attention import attention
from llm_numba.kernels.persistent_shape import WARP
from llm_numba.kernels.persistent_stream import (
    arrive,
    asker,
    first_row,
    is_closed,
    multiplier,
    share,
    waiter,
)
from llm_numba.kernels.reduce import warp_sum
from llm_numba.kernels.rows import MAX_WARPS
from llm_numba.kernels.sampling_numbers import column_of_ranked, has_finite_maximum, key_of, ranked
from llm_numba.kernels.sampling_parts import LEAST_RANK, max_over_block, max_over_warp
from llm_numba.runtime import starts_together


@cuda.jit(device=True)
def nothing(row, operands):
    """Load nothing beforehand."""
    return float32(0)


@cuda.jit(device=True)
def load_residual(row, operands):
    """Load a number of the residual stream."""
    residual, _ = operands
    return ptx.to_float(residual[row])


@cuda.jit(device=True)
def store_row(row, value, up, loaded, operands):
    """Store a number of q, k or v."""
    _, out = operands
    out[row] = ptx.from_float(out, value)


@cuda.jit(device=True)
def store_residual(row, value, up, loaded, operands):
    """Add a number to the residual stream."""
    _, out = operands
    out[row] = ptx.from_float(out, value + loaded)


@cuda.jit(device=True)
def store_gated(row, gate, up, loaded, operands):
    """Store SiLU of the gate, times up."""
    _, out = operands
    out[row] = ptx.from_float(out, silu(gate) * up)


@cuda.jit(device=True)
def store_logit(row, value, up, loaded, operands):
    """Store a logit, and keep the largest."""
    best, out = operands
    out[row] = value
    best[0] = max(best[0], ranked(key_of(value), row))


@functools.cache
def _bringer(shape, columns, normed):
    """Make the functions that load a vector into registers and put it into shared memory."""
    threads, width, quads = shape.warps * WARP, shape.width, shape.width // 4
    packets, plane = columns // width, columns // quads
    held = -(-packets // threads)

    @cuda.jit(device=True)
    def load(source, first, words):
        """Load the thread's packets, all of them before the first is used."""
        for h in range(held):
            j = min(cuda.threadIdx.x + h * threads, packets - 1)
            packet = ptx.load_raw16(source, first + j * width)
            for i in range(4):
                words[4 * h + i] = packet[i]

    @cuda.jit(device=True)
    def put(source, words, weights, vector):
        """Put the thread's packets into the planes; return the sum of their squares."""
        square = float32(0)
        for h in range(held):
            j, n = cuda.threadIdx.x + h * threads, 4 * h
            if j < packets:
                raw = (words[n], words[n + 1], words[n + 2], words[n + 3])
                values = ptx.widen_raw16(source, raw)
                factors = values
                if normed:
                    raw = (weights[n], weights[n + 1], weights[n + 2], weights[n + 3])
                    factors = ptx.widen_raw16(source, raw)
                for q in range(quads):
                    quad = ptx.zeros16(vector)
                    for e in range(4):
                        value = values[4 * q + e]
                        if normed:
                            square += value * value
                            value *= factors[4 * q + e]
                        quad = ptx.with_item(quad, e, value)
                    ptx.store16(vector, q * plane + 4 * j, quad)
        return square

    return load, put, 4 * held


@functools.cache
def taker(shape, matrix, following, normed):
    """Make the function that brings a vector into shared memory, when all blocks have written it.

    Parameters
    ----------
    shape : Shape
    matrix, following : Matrix
    normed : bool
        Whether the vector is multiplied by a norm's weights, which are loaded before the meeting.

    Returns
    -------
    device function
        Takes a meeting, a stream, the vector in memory, (norms, which of them, eps), where the
        vector goes and where partial sums do, `used`, and `asked`: see
        :mod:`~llm_numba.kernels.persistent_stream`. Returns the factor that normalises the vector,
        or 1, and the new `asked`.
    """
    warps, columns = shape.warps, matrix.columns
    load, put, words_held = _bringer(shape, columns, normed)
    wait = waiter(shape, matrix, following)

    @cuda.jit(device=True)
    def take(meeting, stream, source, norm, vector, partial, used, asked):
        """Wait for the vector, and take it."""
        words = cuda.local.array(words_held, uint32)
        weights = cuda.local.array(words_held, uint32)
        if normed:
            load(norm[0], norm[1] * columns, weights)
        asked = wait(meeting, stream, used, asked)
        load(source, 0, words)
        square = put(source, words, weights, vector)
        factor = float32(1)
        if normed:
            square = warp_sum(square)
            if cuda.threadIdx.x % WARP == 0:
                partial[cuda.threadIdx.x // WARP] = square
        cuda.syncthreads()
        if normed:
            total = float32(0)
            for w in range(warps):
                total += partial[w]
            factor = inverse_rms(total, columns, norm[2])
        return factor, asked

    return take


@functools.cache
def stage(shape, matrix, following, finish, prepare=nothing, normed=False):
    """Make the function that waits for a vector, and multiplies it by a block's rows of a matrix.

    Parameters
    ----------
    shape : Shape
    matrix, following : Matrix
    finish : device function
        Takes a row's number, its product, that of its up, what `prepare` returned, and operands.
    prepare : device function
        Takes a row's number and operands, before the row is multiplied: what it loads is there
        when the product is.
    normed : bool

    Returns
    -------
    device function
        Takes what :func:`taker`'s function takes, and operands of `finish`; returns how many units
        were asked for then.
    """
    take = taker(shape, matrix, following, normed)
    multiply = multiplier(shape, matrix, following)
    chunks, turns, rows = shape.chunks(matrix), shape.turns(matrix), matrix.rows
    gated, warps, blocks = matrix.copies == 2, shape.warps, shape.blocks

    @cuda.jit(device=True)
    def run(meeting, stream, source, norm, vector, partial, before, asked, operands):
        """Wait, multiply the warp's rows, and finish each."""
        factor, asked = take(meeting, stream, source, norm, vector, partial, before, asked)
        lane, warp = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
        first = first_row(rows, cuda.blockIdx.x, blocks) + warp
        last = first_row(rows, cuda.blockIdx.x + 1, blocks)
        number = 0
        for turn in range(turns):
            row, loaded, up = first + turn * warps, float32(0), float32(0)
            if lane == 0 and row < last:
                loaded = prepare(row, operands)
            value, asked = multiply(stream, vector, number, before, asked)
            number += chunks
            if gated:
                up, asked = multiply(stream, vector, number, before, asked)
                number += chunks
            if lane == 0 and row < last:
                finish(row, value * factor, up * factor, loaded, operands)
        return asked

    return run


@functools.cache
def chooser(shape):
    """Make the function that finds the largest logit of all blocks.

    Parameters
    ----------
    shape : Shape
    """
    last, blocks = shape.flags - 1, shape.blocks

    @cuda.jit(device=True)
    def choose(largest, ranks, best, flags, everybody, epoch, out):
        """Hand over the block's largest; the first block has that of all, and counts the step."""
        rank = max_over_block(largest[0], ranks)
        if cuda.threadIdx.x == 0:
            best[cuda.blockIdx.x] = rank
        arrive(flags, last)
        if cuda.blockIdx.x == 0:
            while is_closed((flags, last, everybody)):
                pass
            rank = int64(LEAST_RANK)
            for b in range(cuda.threadIdx.x % WARP, blocks, WARP):
                rank = max(rank, best[b])
            rank = max_over_warp(rank)
            if cuda.threadIdx.x == 0:
                out[0] = column_of_ranked(rank) if has_finite_maximum(rank) else -1
                epoch[0] += 1

    return choose


@functools.cache
def layer_walker(shape):
    """Make the function that walks through a layer.

    Parameters
    ----------
    shape : Shape

    Returns
    -------
    device function
        Takes the layer's number, its place in the arena (`base`), the warp's shares of its first
        matrix (`here`) and of what comes after the layer, the counts `before` and `asked`, and what
        the kernel has; returns the new `asked`.
    uint32
        Units that a warp has of a layer.
    """
    qkv_matrix, out_matrix, gate_matrix, down_matrix = shape.matrices
    project = stage(shape, qkv_matrix, out_matrix, store_row, normed=True)
    project_out = stage(shape, out_matrix, gate_matrix, store_residual, load_residual)
    gate_and_up = stage(shape, gate_matrix, down_matrix, store_gated, normed=True)
    # Behind the last layer comes the LM head, which reads as many columns.
    project_down = stage(shape, down_matrix, qkv_matrix, store_residual, load_residual)
    attend = attention(shape, waiter(shape, out_matrix, gate_matrix))
    at_out, at_gate, at_down = shape.places[1:]
    used = [shape.units(matrix) for matrix in shape.matrices]
    to_out, to_gate, to_down = (uint32(each) for each in used[:3])
    out_rows, gate_rows, down_rows = out_matrix.rows, gate_matrix.rows, down_matrix.rows
    share_of_out, share_of_gate, share_of_down = (
        share(shape, matrix.columns) for matrix in shape.matrices[1:]
    )

    @cuda.jit(device=True)
    def walk(
        layer, ring, arena, base, here, after, before, asked, vector, partial,
        norms, eps, flags, rounds, results, attending,
    ):  # fmt: skip
        """Walk through a layer; return how many units were asked for then."""
        r, middle, qkv, attended, inner = results
        arrivals, everybody, groups = rounds
        flag, norm = 5 * layer, (norms, 2 * layer, eps)
        out_share = share_of_out(out_rows, base + at_out)
        gate_share = share_of_gate(gate_rows, base + at_gate)
        down_share = share_of_down(down_rows, base + at_down)
        stream, meeting = (ring, arena, here, out_share), (flags, flag, arrivals)
        asked = project(meeting, stream, r, norm, vector, partial, before, asked, (r, qkv))
        arrive(flags, flag + 1)
        before = uint32(before + to_out)
        stream, meeting = (ring, arena, out_share, gate_share), (flags, flag + 1, everybody)
        asked = attend(meeting, stream, qkv, layer, vector, attended, before, asked, attending)
        meeting = (flags, flag + 2, groups)
        asked = project_out(
            meeting, stream, attended, norm, vector, partial, before, asked, (r, middle)
        )
        arrive(flags, flag + 3)
        before = uint32(before + to_gate)
        stream, meeting = (ring, arena, gate_share, down_share), (flags, flag + 3, everybody)
        norm = (norms, 2 * layer + 1, eps)
        asked = gate_and_up(
            meeting, stream, middle, norm, vector, partial, before, asked, (r, inner)
        )
        arrive(flags, flag + 4)
        before = uint32(before + to_down)
        stream, meeting = (ring, arena, down_share, after), (flags, flag + 4, everybody)
        asked = project_down(
            meeting, stream, inner, norm, vector, partial, before, asked, (middle, r)
        )
        arrive(flags, flag + 5)
        return asked

    return walk, uint32(sum(used))


@functools.cache
def persistent_kernel(shape):
    """Make the kernel for a model and a grid.

    Parameters
    ----------
    shape : Shape
    """
    walk, units_of_layer = layer_walker(shape)
    qkv_matrix, head = shape.matrices[0], shape.head
    ask, to_logits = (
        asker(shape, qkv_matrix, qkv_matrix),
        stage(shape, head, head, store_logit, normed=True),
    )
    choose, share_of_row = chooser(shape), share(shape, shape.hidden)
    at_first = min(shape.flight, shape.units(qkv_matrix))
    head_size, layer_size = shape.vocabulary * shape.hidden, shape.layer_size
    E, V, layers, threads = shape.hidden, shape.vocabulary, shape.layers, shape.warps * WARP
    blocks, kv_heads, qkv_rows, room = (
        shape.blocks, shape.kv_heads, qkv_matrix.rows, shape.room
    )  # fmt: skip

    @starts_together
    @cuda.jit(launch_bounds=(threads, 1))
    def decode_step(
        arena, embedding, norms, cos, sin, k_cache, v_cache, table, token, position, slot,
        eps, scale, flags, done, epoch, r, middle, qkv, attended, inner,
        piece_maxima, piece_sums, piece_mixed, best, logits, out,
    ):  # fmt: skip
        """Decode a token: the embedding's row, all layers, the logits, and the largest of them."""
        ring = cuda.shared.array(0, arena.dtype)
        vector = cuda.shared.array(room, float32)
        partial = cuda.shared.array(MAX_WARPS, float32)
        ranks = cuda.shared.array(MAX_WARPS, int64)
        largest = cuda.local.array(1, int64)
        round_of, base, before, asked = epoch[0] + 1, int64(head_size), uint32(0), uint32(0)
        everybody, arrivals = round_of * blocks, round_of
        results = (r, middle, qkv, attended, inner)
        attending = (
            cos, sin, k_cache, v_cache, table, position[0], slot[0], scale,
            piece_maxima, piece_sums, piece_mixed, done,
        )  # fmt: skip
        here = share_of_row(qkv_rows, base)
        for _ in range(at_first):
            ask((ring, arena, here, here), asked, asked)
            asked = uint32(asked + uint32(1))
        if cuda.blockIdx.x == 0:
            for i in range(cuda.threadIdx.x, E, threads):
                r[i] = embedding[token[0], i]
            arrive(flags, 0)
        for layer in range(layers):
            next_base = base + layer_size
            after = share_of_row(qkv_rows, next_base)
            if layer + 1 == layers:
                after = share_of_row(V, 0)
            asked = walk(
                layer, ring, arena, base, here, after, before, asked, vector, partial,
                norms, eps, flags, (arrivals, everybody, round_of * kv_heads), results, attending,
            )  # fmt: skip
            here, base, arrivals = after, next_base, everybody
            before = uint32(before + units_of_layer)
        largest[0] = LEAST_RANK
        to_logits(
            (flags, 5 * layers, everybody), (ring, arena, here, here), r,
            (norms, 2 * layers, eps), vector, partial, before, asked, (largest, logits),
        )  # fmt: skip
        choose(largest, ranks, best, flags, everybody, epoch, out)

    return decode_step
