r"""What fused attention on tensor cores is made of: rows, scores, powers and outputs as fragments.

A warp owns 16 rows of the tile, or twice 16. Its scores are the sums of a product, and its powers
the left operand of the next. In the fragments of :mod:`~llm_numba.kernels.ptx.tensor` both lie with
the same lanes, so that nothing has to move:

::

    lane 4 g + t                   keys 0 .. 7               keys 8 .. 15
                                   2t      2t+1              2t+8    2t+9
    scores, C of two products
        row g                      c0      c1                c0'     c1'
        row g + 8                  c2      c3                c2'     c3'
                                   \______/                  \______/
    powers, A of one product           rounded, two in a word
        row g                      a0                        a2
        row g + 8                  a1                        a3

The 16 keys are the numbers along k of the second product. What it wants on the right are two
neighbours along k in a word. Those of a value lie in two rows of the tile, one below the other:
``ldmatrix`` brings them together where it transposes.

*Padding.* Rows of the tiles are D numbers and 16 bytes more, an odd number of 16 bytes. So eight
rows begin in eight different groups of four banks, and every fragment lies at a fixed distance from
the first: the compiler writes it into the instruction.
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, float32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.attention_staging import THREADS
from llm_numba.kernels.reduce import FULL_WARP, WARP
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one, reference_point
from llm_numba.kernels.unrolled import unrolled

FRAGMENT = 16  # rows of A, and numbers along k, of one product
COLUMNS = 8  # of B
PACKET = 8  # numbers in 16 bytes
LAST_LANE = WARP - 1  # a mask, from which the compiler sees that no lane is below 0
_ACROSS = 8  # threads that copy a row
_TOGETHER = THREADS // _ACROSS


class Shape(NamedTuple):
    """What is known of a block when its kernel is compiled.

    Attributes
    ----------
    head_dim : int
        D, a multiple of 16.
    rows : int
        Of the tile of queries: 16 for each warp, or twice as many.
    keys : int
        Of a tile of keys, a multiple of 16.
    """

    head_dim: int
    rows: int
    keys: int

    @property
    def pitch(self) -> int:
        """Numbers from row to row in shared memory."""
        return self.head_dim + PACKET

    @property
    def fragments(self) -> int:
        """Of 16 rows, that a warp has."""
        return self.rows // (THREADS // WARP) // FRAGMENT

    @property
    def score_columns(self) -> int:
        """Products side by side that make the scores of 16 rows."""
        return self.keys // COLUMNS

    @property
    def output_columns(self) -> int:
        """Products side by side that make the outputs of 16 rows."""
        return self.head_dim // COLUMNS


@functools.cache
def bringing(shape: Shape, rows: int) -> Any:
    """Make the device function that begins to copy rows of a matrix, and closes the group.

    Parameters
    ----------
    shape : Shape
    rows : int
        How many; a multiple of 16.

    Returns
    -------
    device function
        ``bring(tile, at, matrix, sources)``; zeros where the source of a row is -1.
    """
    D, PITCH, STEP = shape.head_dim, shape.pitch, _ACROSS * PACKET

    @cuda.jit(device=True, forceinline=True)
    def bring(tile, at, matrix, sources):
        """Copy 16 rows at a time: eight threads a row, 16 bytes each."""
        row, column = cuda.threadIdx.x // _ACROSS, cuda.threadIdx.x % _ACROSS * PACKET
        for k in range(0, rows, _TOGETHER):
            source = sources[row + k]
            for d in range(0, D, STEP):
                if column + d < D:
                    place, packet = at + (row + k) * PITCH, column + d
                    ptx.cp_async16_or_zeros(
                        tile, place + packet, matrix, source * D + packet, source >= 0
                    )
        ptx.cp_async_commit()

    return bring


@cuda.jit(device=True, forceinline=True)
def aim_rows(pitch):
    """Return where the row begins, counted from the first of 16, that the lane names.

    Of queries, that are A; and of values, which are transposed.
    """
    lane = cuda.threadIdx.x & LAST_LANE
    return lane % 16 * pitch + lane // 16 * PACKET


@cuda.jit(device=True, forceinline=True)
def aim_keys(pitch):
    """Return the same for keys: both halves along k of eight rows come first."""
    lane = cuda.threadIdx.x & LAST_LANE
    return lane % 8 * pitch + lane // 16 * (8 * pitch) + lane // 8 % 2 * PACKET


@functools.cache
def scoring(shape: Shape) -> Any:
    """Make the device function that multiplies a warp's queries by a tile of keys.

    Parameters
    ----------
    shape : Shape

    Returns
    -------
    device function
        ``score(0, (tile, q_at, k_at, part, scores))`` with uint32 ``part [fragments, 4]`` to work
        with, and float32 ``scores [fragments * score_columns, 4]``.
    """
    PITCH, DOWN, ACROSS = shape.pitch, shape.fragments, shape.score_columns

    @cuda.jit(device=True, forceinline=True)
    def sixteen_keys(n, operands):
        """Multiply 16 components of the queries by those of 16 keys."""
        tile, k_at, part, scores = operands
        k0, k1, k2, k3 = ptx.ldmatrix_x4(tile, k_at + n * FRAGMENT * PITCH)
        for i in range(DOWN):
            a = part[i, 0], part[i, 1], part[i, 2], part[i, 3]
            multiply(tile, a, (k0, k1), scores, i * ACROSS + 2 * n)
            multiply(tile, a, (k2, k3), scores, i * ACROSS + 2 * n + 1)

    all_keys = unrolled(shape.keys // FRAGMENT, sixteen_keys)

    @cuda.jit(device=True, forceinline=True)
    def sixteen_components(step, operands):
        """Add what 16 components give."""
        tile, q_at, k_at, part, scores = operands
        for i in range(DOWN):
            four = ptx.ldmatrix_x4(tile, q_at + i * FRAGMENT * PITCH + step * FRAGMENT)
            for e in range(4):
                part[i, e] = four[e]
        all_keys(0, (tile, k_at + step * FRAGMENT, part, scores))

    return unrolled(shape.head_dim // FRAGMENT, sixteen_components)


@functools.cache
def mixing(shape: Shape) -> Any:
    """Make the device function that adds powers times values to a warp's outputs.

    Parameters
    ----------
    shape : Shape

    Returns
    -------
    device function
        ``mix(0, (tile, v_at, part, powers, total))`` with ``total [fragments * output_columns,
        4]``; the others as of :func:`scoring`.
    """
    PITCH, DOWN = shape.pitch, shape.fragments
    OF_SCORES, OF_OUTPUTS = shape.score_columns, shape.output_columns

    @cuda.jit(device=True, forceinline=True)
    def sixteen_components(n, operands):
        """Add 16 powers times 16 components of their values."""
        tile, v_at, part, total = operands
        v0, v1, v2, v3 = ptx.ldmatrix_x4_trans(tile, v_at + n * FRAGMENT)
        for i in range(DOWN):
            a = part[i, 0], part[i, 1], part[i, 2], part[i, 3]
            multiply(tile, a, (v0, v1), total, i * OF_OUTPUTS + 2 * n)
            multiply(tile, a, (v2, v3), total, i * OF_OUTPUTS + 2 * n + 1)

    all_components = unrolled(shape.head_dim // FRAGMENT, sixteen_components)

    @cuda.jit(device=True, forceinline=True)
    def sixteen_keys(step, operands):
        """Round the powers of 16 keys where they are, and multiply their values by them."""
        tile, v_at, part, powers, total = operands
        for i in range(DOWN):
            for later in range(2):
                j = i * OF_SCORES + 2 * step + later
                part[i, 2 * later] = ptx.round_pair(tile, powers[j, 0], powers[j, 1])
                part[i, 2 * later + 1] = ptx.round_pair(tile, powers[j, 2], powers[j, 3])
        all_components(0, (tile, v_at + step * FRAGMENT * PITCH, part, total))

    return unrolled(shape.keys // FRAGMENT, sixteen_keys)


@cuda.jit(device=True, forceinline=True)
def multiply(form, a, b, sums, j):
    """Add a product of fragments to four sums of an array."""
    four = ptx.mma_16x8x16(form, a, b, (sums[j, 0], sums[j, 1], sums[j, 2], sums[j, 3]))
    for e in range(4):
        sums[j, e] = four[e]


@cuda.jit(device=True, forceinline=True)
def clear(sums):
    """Set sums to zero."""
    for j in range(len(sums)):
        for e in range(4):
            sums[j, e] = float32(0)


@cuda.jit(device=True, forceinline=True)
def scale_all(scores, scale):
    """Scale. The product is rounded before anything is subtracted from it.

    See :func:`~llm_numba.kernels.softmax_logits.masked_logit`.
    """
    for j in range(len(scores)):
        for e in range(4):
            scores[j, e] = libdevice.fmul_rn(scores[j, e], scale)


@functools.cache
def hiding(shape: Shape) -> Any:
    """Make the device function that takes out what a query does not see.

    Parameters
    ----------
    shape : Shape

    Returns
    -------
    device function
        ``hide(0, (scores, positions, row, key, window))`` with the lane's first row and key.
    """
    ACROSS = shape.score_columns

    @cuda.jit(device=True, forceinline=True)
    def of_row(r, operands):
        """Hide later keys, and those before the window, from one row."""
        scores, positions, row, key, window = operands
        i, lower = r // 2, r % 2
        after = positions[row + i * FRAGMENT + lower * 8] - key
        for j in range(ACROSS):
            for e in range(2):
                if after < j * COLUMNS + e or after >= j * COLUMNS + e + window:
                    scores[i * ACROSS + j, 2 * lower + e] = MINUS_INFINITY

    return unrolled(2 * shape.fragments, of_row)


@functools.cache
def softmaxing(shape: Shape) -> Any:
    """Make the device function that turns scores into powers, by the online rule.

    Parameters
    ----------
    shape : Shape

    Returns
    -------
    device function
        ``softmax(0, (scores, tops, sums, total))`` with what is known of the lane's rows so far:
        the largest score, this lane's part of the sum, and the outputs.
    """
    OF_SCORES, OF_OUTPUTS = shape.score_columns, shape.output_columns

    @cuda.jit(device=True, forceinline=True)
    def of_row(r, operands):
        """Do so for one row."""
        scores, tops, sums, total = operands
        i, first = r // 2, r % 2 * 2
        top = tops[r]
        for j in range(i * OF_SCORES, (i + 1) * OF_SCORES):
            top = max(top, max(scores[j, first], scores[j, first + 1]))
        top = larger_of_quad(top)
        base = reference_point(top)
        factor = ptx.exp2(tops[r] - base)
        tops[r] = top
        sums[r] *= factor
        for j in range(i * OF_OUTPUTS, (i + 1) * OF_OUTPUTS):
            total[j, first] *= factor
            total[j, first + 1] *= factor
        for j in range(i * OF_SCORES, (i + 1) * OF_SCORES):
            for e in range(first, first + 2):
                scores[j, e] = ptx.exp2(scores[j, e] - base)
                sums[r] += scores[j, e]

    return unrolled(2 * shape.fragments, of_row)


@functools.cache
def storing(shape: Shape) -> Any:
    """Make the device function that divides a warp's outputs by their sums, and stores them.

    Parameters
    ----------
    shape : Shape

    Returns
    -------
    device function
        ``store(tile, row, total, sums, out, sources)`` with the warp's first row. Its queries were
        there, which nobody else reads, and 16-byte packets are put together in their place.
    """
    D, PITCH, ACROSS = shape.head_dim, shape.pitch, shape.output_columns
    ROWS, PACKETS = shape.fragments * FRAGMENT, shape.head_dim // PACKET

    @cuda.jit(device=True, forceinline=True)
    def put_row(r, operands):
        """Round one row's outputs, two neighbours of eight."""
        tile, at, total, sums = operands
        i, lower = r // 2, r % 2
        inverse = inverse_or_one(sum_of_quad(sums[r]))
        for j in range(ACROSS):
            low, high = total[i * ACROSS + j, 2 * lower], total[i * ACROSS + j, 2 * lower + 1]
            place = at + (i * FRAGMENT + lower * 8) * PITCH + j * COLUMNS
            ptx.store_pair(tile, place, low * inverse, high * inverse)

    put_rows = unrolled(2 * shape.fragments, put_row)

    @cuda.jit(device=True, forceinline=True)
    def store(tile, row, total, sums, out, sources):
        """Store rows that exist."""
        lane = cuda.threadIdx.x & LAST_LANE
        put_rows(0, (tile, (row + lane // 4) * PITCH + lane % 4 * 2, total, sums))
        cuda.syncwarp()
        for n in range(lane, ROWS * PACKETS, WARP):
            source, packet = sources[row + n // PACKETS], n % PACKETS * PACKET
            if source >= 0:
                values = ptx.load16(tile, (row + n // PACKETS) * PITCH + packet)
                ptx.store16(out, source * D + packet, values)

    return store


@cuda.jit(device=True, forceinline=True)
def larger_of_quad(value):
    """Find the largest value of the four lanes of a row."""
    for distance in (1, 2):
        value = max(value, cuda.shfl_xor_sync(FULL_WARP, value, distance))
    return value


@cuda.jit(device=True, forceinline=True)
def sum_of_quad(value):
    """Add the values of the four lanes of a row."""
    for distance in (1, 2):
        value = ptx.add(value, cuda.shfl_xor_sync(FULL_WARP, value, distance))
    return value
