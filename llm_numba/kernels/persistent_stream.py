"""How weights come: each warp's list of units, and its ring in shared memory.

::

    unit     u - 1        u            u + 1 ... u + flight       ... u + slots - 1
             used         in use       on their way               only while a meeting lasts

A unit belongs to a warp, and each lane of it copies what it will use itself. So nobody waits for
anybody. A matrix's last units are followed by the next one's first. What the functions count:

=========  =======================================================================================
asked      units that the warp has asked for since the step began, through all matrices
before     units that it had used when this matrix began, counted in the same way; `used` at a
           meeting, where it has not begun the matrix
number     of a unit in this matrix: `before` + `number` is its number in the step
ahead      units that were asked for, and come after those used
turn       a warp's rows are `warps` apart; this one is its n-th
chunk      a row is longer than a unit; this is its n-th
=========  =======================================================================================

Each function below is made for a matrix and the one that follows, whose sizes are constants in it.

How many are on their way is kept low: a multiprocessor's loads are answered in turn, and behind
much that was asked for, a flag or a vector that all blocks wait for comes microseconds late. While
a block waits for others, nothing is used and the ring fills, unit by unit: a look at the counter
is a load like others, and takes about as long as the memory needs for a unit more. When the block
goes on, it finds them there, and while it catches up it asks for a unit for every second one that
it uses.
"""

import functools

from numba import cuda, float32, int32, int64, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.persistent_shape import WARP
from llm_numba.kernels.reduce import warp_sum
from llm_numba.kernels.unrolled import unrolled

# Sums that a lane adds to in turn: one must wait for itself.
_SUMS = 4
# Counters lie in lines of the cache of their own.
FLAG_STRIDE = 32


@cuda.jit(device=True, forceinline=True)
def first_row(rows, block, blocks):
    """Return the first of a block's rows."""
    return rows * block // blocks


@cuda.jit(device=True)
def arrive(flags, number):
    """Say that this block has written what it owes to a stage."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        ptx.add_release(flags, number * FLAG_STRIDE, int32(1))


@cuda.jit(device=True)
def is_closed(meeting):
    """Tell all threads whether blocks are missing at a meeting; the counters may overflow."""
    flags, number, arrivals = meeting
    missing = int32(0)
    if cuda.threadIdx.x == 0:
        missing = int32(arrivals - ptx.load_acquire(flags, number * FLAG_STRIDE))
    return cuda.syncthreads_or(int32(missing > 0)) != 0


@functools.cache
def share(shape, columns):
    """Make the function that finds a warp's rows of a matrix.

    Parameters
    ----------
    shape : Shape
    columns : int
        K.

    Returns
    -------
    device function
        Takes how many rows the matrix has, and where it begins in the arena; returns where the
        lane's first packet is, and how many rows the warp has.
    """
    warps, blocks, width = shape.warps, shape.blocks, shape.width

    @cuda.jit(device=True)
    def find(rows, base):
        """Find them."""
        lane, warp = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
        first = first_row(rows, cuda.blockIdx.x, blocks) + warp
        last = first_row(rows, cuda.blockIdx.x + 1, blocks)
        at = int64(base) + int64(first) * columns + lane * width
        return at, uint32(max(0, last - first + warps - 1) // warps)

    return find


@functools.cache
def asker(shape, matrix, following):
    """Make the function that asks for units of a matrix, and of the one that follows.

    Parameters
    ----------
    shape : Shape
    matrix, following : Matrix
        The second is the same again where none follows.

    Returns
    -------
    device function
        Takes a stream, the number of a unit of the matrix, and `asked`. Makes a group of copies
        in any case: so the number of groups tells which unit has arrived. A stream is a tuple:
        ring, arena, the warp's :func:`share` of the matrix and of the following one.
    """
    units = shape.units(matrix)
    ask_here, ask_there = _ask_for(shape, _as_read(matrix)), _ask_for(shape, _as_read(following))

    @cuda.jit(device=True)
    def ask(stream, number, asked):
        """Begin to copy a unit into its slot, if there is such a unit."""
        ring, arena, here, there = stream
        if number < units:
            ask_here(ring, arena, here, number, asked)
        else:
            ask_there(ring, arena, there, uint32(number - units), asked)
        ptx.cp_async_commit()

    return ask


def _as_read(matrix):
    """Forget the number of rows where it changes nothing: fewer functions to compile."""
    return matrix if matrix.copies > 1 else matrix._replace(rows=0)


@functools.cache
def _ask_for(shape, matrix):
    """Make the function that begins to copy a unit of a matrix, if the warp has such a row.

    In unsigned arithmetic of 32 bits, which costs a fraction of Python's.
    """
    columns, width, unit, packets = matrix.columns, shape.width, shape.unit, shape.packets
    line, ring_size, is_whole = WARP * width, shape.slots * unit, columns % unit == 0
    slots, of_row, chunks = (
        uint32(shape.slots), uint32(shape.chunks(matrix) * matrix.copies),
        uint32(shape.chunks(matrix)),
    )  # fmt: skip
    turn_step, copy_step = uint32(shape.warps * columns), uint32(matrix.rows * columns)

    @cuda.jit(device=True)
    def ask_for(ring, arena, share_of_warp, number, asked):
        """Begin to copy it."""
        begin, turns = share_of_warp
        turn, rest = uint32(number // of_row), uint32(number % of_row)
        if turn < turns:
            copy, chunk = uint32(rest // chunks), uint32(rest % chunks)
            lane, warp = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
            column = int32(chunk * uint32(unit))
            at = begin + int64(uint32(turn * turn_step + copy * copy_step)) + column
            slot = int32(uint32(asked % slots))
            to = int32(warp * ring_size + slot * unit + lane * width)
            for p in range(packets):
                if is_whole or column + p * line + lane * width < columns:
                    ptx.cp_async16(ring, to + p * line, arena, at + p * line)

    return ask_for


@functools.cache
def waiter(shape, matrix, following):
    """Make the function that waits at a meeting and asks for weights meanwhile.

    Parameters
    ----------
    shape : Shape
    matrix, following : Matrix

    Returns
    -------
    device function
        Takes a meeting (flags, a number, and how many arrivals it takes), a stream, `used`, and
        `asked`; returns the new `asked`.
    """
    ask, looks_a_unit = asker(shape, matrix, following), shape.looks
    # Neither more than the ring holds, nor more than there is of the two matrices.
    most = min(shape.slots, shape.units(matrix) + shape.units(following))

    @cuda.jit(device=True)
    def wait(meeting, stream, used, asked):
        """Look at the counter, then ask for a unit, until all have come."""
        looks = 0
        while is_closed(meeting):
            looks += 1
            ahead = uint32(asked - used)
            if ahead < most and looks % looks_a_unit == 0:
                ask(stream, ahead, asked)
                asked = uint32(asked + uint32(1))
        return asked

    return wait


@functools.cache
def multiplier(shape, matrix, following):
    """Make the function that multiplies a row of a matrix.

    Parameters
    ----------
    shape : Shape
    matrix, following : Matrix

    Returns
    -------
    device function
        Takes a stream, the vector, the number of the row's first unit, `before`, and `asked`. The
        vector lies in *planes* of four numbers of each packet: so the 16 bytes that a warp's lanes
        load at once lie side by side, and no two lanes meet in a bank. Returns the product, in each
        lane, and the new `asked`.
    """
    chunks, unit, width = shape.chunks(matrix), shape.unit, shape.width
    slots, ring_size = uint32(shape.slots), shape.slots * shape.unit
    take_unit = keeper(shape, matrix, following)
    multiply_packets = _packet_multiplier(shape, matrix.columns)

    @cuda.jit(device=True)
    def multiply(stream, vector, number, before, asked):
        """Multiply a row unit by unit, and ask for those that come later."""
        lane, warp = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
        total = cuda.local.array(_SUMS, float32)
        for i in range(_SUMS):
            total[i] = float32(0)
        for chunk in range(chunks):
            unit_number = uint32(number + chunk)
            asked = take_unit(stream, unit_number, before, asked)
            slot = int32(uint32(uint32(before + unit_number) % slots))
            here = int32(warp * ring_size + slot * unit + lane * width)
            column = int32(chunk * unit + lane * width)
            multiply_packets(0, (stream[0], here, vector, column, total))
        return warp_sum((total[0] + total[1]) + (total[2] + total[3])), asked

    return multiply


@functools.cache
def _packet_multiplier(shape, columns):
    """Make the function that multiplies a lane's packets of a unit."""
    width, unit, quads = shape.width, shape.unit, shape.width // 4
    line, plane, is_whole = WARP * width, columns // quads, columns % unit == 0

    @cuda.jit(device=True, forceinline=True)
    def multiply_packet(p, operands):
        """Multiply packet p of the lane's."""
        ring, here, vector, column, total = operands
        if is_whole or column + p * line < columns:
            weights = ptx.load16(ring, here + p * line)
            for q in range(quads):
                x = ptx.load16(vector, q * plane + (column + p * line) // quads)
                for e in range(4):
                    total[p % _SUMS] += weights[q * 4 + e] * x[e]

    return unrolled(shape.packets, multiply_packet)


@functools.cache
def keeper(shape, matrix, following):
    """Make the function that keeps units coming, and waits for the one to be used now.

    Parameters
    ----------
    shape : Shape
    matrix, following : Matrix

    Returns
    -------
    device function
        Takes a stream, the unit's number in the matrix, `before`, and `asked`; returns the new
        `asked`.
    """
    ask, flight, slots = asker(shape, matrix, following), shape.flight, shape.slots
    last = shape.units(matrix) + shape.units(following)

    @cuda.jit(device=True)
    def take_unit(stream, number, before, asked):
        """Ask for a unit if few are on their way, or at every second one if there is a slot."""
        coming = uint32(asked - before)
        ahead = int32(coming - number)
        late = number % uint32(2) == 1 and ahead < slots
        if (ahead <= flight or late) and coming < last:
            ask(stream, coming, asked)
            asked, ahead = uint32(asked + uint32(1)), ahead + 1
        # Those behind it may be on their way still: as many as an instruction can name.
        if ahead > 3:
            ptx.cp_async_wait(3)
        elif ahead > 2:
            ptx.cp_async_wait(2)
        elif ahead > 1:
            ptx.cp_async_wait(1)
        else:
            ptx.cp_async_wait(0)
        return asked

    return take_unit
