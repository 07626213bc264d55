r"""Random numbers to fill weights with, where a model's speed matters and its words do not.

.. math:: w_i = c + (2 b_i - 255) s

:math:`b_i` is one of the random bytes of Philox4x32-10, c the centre and s the step between half
the neighbours: w is spread evenly over 256 values around c, with standard deviation 147.8 s. An odd
number below 256 has eight bits. So with c = 0 and a power of two for s all formats hold the same
number exactly, bfloat16 with its eight bits too: whatever they compute in, all devices have the
same model.

A call of the generator gives 16 bytes, for 16 numbers that are 32 apart: what 32 neighbours in a
warp write together lies side by side.

::

    numbers 0 .. 511   | byte 0 of calls 0 .. 31 | byte 1 of calls 0 .. 31 | ... | byte 15 |
    numbers 512 ..     | byte 0 of calls 32 .. 63 | ...

The key tells one tensor from another, and the calls of one tensor are counted: any of its numbers
can be made by itself, by any thread.

References
----------
Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011 (Philox).
"""

import numpy as np

from llm_numba.reference.sampling import philox4x32

LANES = 32
BYTES = 16  # of a call
# Standard deviation of 2 b - 255 for a random byte b.
SPREAD = ((256**2 - 1) / 3) ** 0.5
# Bounds the memory that the words of one turn take.
_TURN_CALLS = 1 << 15


def fill_random(
    out: np.ndarray,
    key: int,
    step: float,
    centre: float = 0.0,
    *,
    first: int = 0,
    pitch: int | None = None,
) -> np.ndarray:
    """Fill an array with random numbers, in place: with all of a tensor's, or a window of them.

    Parameters
    ----------
    out : float [...]
        C-contiguous; the tensor has less than 2^36 numbers.
    key : int
        Of 64 bits: another key, other numbers.
    step : float
        s: half of what neighbouring values are apart.
    centre : float
        c: their mean.
    first : int
        Which of the tensor's numbers comes first.
    pitch : int, optional
        How many numbers of the tensor a row of `out` begins behind the row before; by default its
        length: then there are no gaps.

    Returns
    -------
    as out
        `out`.
    """
    flat = out.reshape(-1)
    length = out.shape[-1] if pitch is not None and pitch != out.shape[-1] else flat.size
    for row, begin in enumerate(range(0, flat.size, max(1, length))):
        _fill_run(flat[begin : begin + length], first + row * (pitch or 0), key, step, centre)
    return out


def _fill_run(out: np.ndarray, first: int, key: int, step: float, centre: float) -> None:
    """Fill an array [n] with numbers that follow one another."""
    group = LANES * BYTES
    # Turns begin where a group does, but for the first.
    turn = _TURN_CALLS * BYTES
    begin, place = 0, first
    while begin < out.size:
        skipped = place % group
        piece = out[begin : begin + turn - skipped]
        calls = -(-(skipped + piece.size) // group) * LANES
        call = place // group * LANES
        words = philox4x32((np.arange(call, call + calls, dtype=np.uint64), 0, 0, 0), key)
        # [group, call in it, byte of it]; the numbers of a group are in the order [byte, call].
        each = np.stack(words, axis=-1).astype("<u4").view(np.uint8).reshape(-1, LANES, BYTES)
        numbers = each.transpose(0, 2, 1).reshape(-1)[skipped : skipped + piece.size]
        numbers = 2 * numbers.astype(np.int16) - 255
        piece[...] = np.float32(centre) + numbers.astype(np.float32) * np.float32(step)
        begin, place = begin + piece.size, place + piece.size
