"""A turn: what a warp does while it multiplies one slab, and in which order.

The work is the same in both orders. A slab has ``slab / 16`` steps along K. In each a warp loads
the fragments of the step after it, and multiplies its own. Somewhere in the turn it asks for a slab
further on; and near the end stands the barrier, behind which the next slab may be read.

::

    bunched       LL CCCCCCCCCCCC MMMMML MMMMML MMM | LMMMMMMM       M  multiplications
    interleaved   MLMLMLMCMCMCMMLM LMLMCMCMCMLMLMCM | MMMMLMLMLM     L  loads of fragments
                                                                     C  copies of another slab
                                                                     |  barrier

*Bunched.* A thread asks for all of its packets at once, with six instructions for each: a sum of 64
bits, a choice for what lies beyond K, an address. Meanwhile it does not multiply, nor does the
other warp of its scheduler, which left the same barrier and is at the same place. The steps that
follow are a loop. Where it begins, the assembler cannot tell what was loaded before it from what
was loaded by the turn before; so all of it must have arrived.

*Interleaved.* A tensor core takes six cycles for an instruction, and a scheduler issues one in each
cycle: five are to give away. If all steps stand in a straight line, with a share of the copies in
each, the assembler finds a gap for everything else. In the instructions of a slab it writes down
how many cycles must pass before a warp's next one. For slabs of 64 of the largest tile these are
975 in sum where all is bunched, and 777 where it is interleaved. 128 multiplications are 768.

Source: NVIDIA, "CUTLASS", "Efficient GEMM in CUDA" (software pipelining); figures of the assembled
kernels are of ``ptxas`` 13.2 for sm_90.
"""

import functools
from typing import Any

from numba import cuda

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_tensorcore_pieces import multiplying, swizzled
from llm_numba.kernels.gemm_tensorcore_staged import bringing, copying
from llm_numba.kernels.gemm_tensorcore_tiles import FRAGMENT, Tile
from llm_numba.kernels.unrolled import unrolled


@functools.cache
def loading(tile: Tile) -> Any:
    """Make the device function that loads a warp's fragments, those of A and those of W.

    Parameters
    ----------
    tile : Tile

    Returns
    -------
    device function
        ``load(tiles, stage, aims, step, parts)``: `aims` and `parts` are pairs, A's and W's.
    """
    _, _, _, load_a, load_w = swizzled(tile)

    @cuda.jit(device=True, forceinline=True)
    def load(tiles, stage, aims, step, parts):
        """Load fragments of A and of W."""
        load_a(tiles, stage, aims[0], step, parts[0])
        load_w(tiles, stage, aims[1], step, parts[1])

    return load


@functools.cache
def bunched(tile: Tile) -> Any:
    """Make the device function of a turn that asks for all packets, and then multiplies.

    Parameters
    ----------
    tile : Tile

    Returns
    -------
    device function
        ``turn(0, (tiles, here, after, free, sources, aims, parts, others, total))``: multiplies the
        slab in stage `here`, brings another into stage `free`, and waits for that in `after`.
        `parts` are the fragments of the first step, at the beginning and at the end.
    """
    LAST_STEP, UNDER_WAY = tile.slab // FRAGMENT - 1, tile.stages - 2
    bring, load, multiply = bringing(tile), loading(tile), multiplying(tile)

    @cuda.jit(device=True, forceinline=True)
    def turn(_, operands):
        """Load, bring, and two steps at a time; the barrier is before the last."""
        tiles, here, after, free, sources, aims, parts, others, total = operands
        load(tiles, here, aims, 1, others)
        bring(tiles, free, sources)
        for step in range(2, LAST_STEP, 2):
            multiply(0, (tiles, parts[0], parts[1], total))
            load(tiles, here, aims, step, parts)
            multiply(0, (tiles, others[0], others[1], total))
            load(tiles, here, aims, step + 1, others)
        multiply(0, (tiles, parts[0], parts[1], total))
        ptx.cp_async_wait(UNDER_WAY)
        cuda.syncthreads()
        load(tiles, after, aims, 0, parts)
        multiply(0, (tiles, others[0], others[1], total))

    return turn


@functools.cache
def interleaved(tile: Tile) -> Any:
    """Make the device function of a turn whose steps are alike, in a straight line.

    Parameters
    ----------
    tile : Tile

    Returns
    -------
    device function
        As :func:`bunched`'s.
    """
    STEPS, UNDER_WAY = tile.slab // FRAGMENT, tile.stages - 2
    copy, load, multiply = copying(tile, STEPS - 1), loading(tile), multiplying(tile)

    @cuda.jit(device=True, forceinline=True)
    def advance(step, operands):
        """Load for the next step, copy a share, multiply."""
        tiles, here, after, free, sources, aims, parts, others, total = operands
        if step % 2:
            parts, others = others, parts
        if step < STEPS - 1:
            load(tiles, here, aims, step + 1, others)
            copy(step, tiles, free, sources)
        else:
            ptx.cp_async_commit()
            ptx.cp_async_wait(UNDER_WAY)
            cuda.syncthreads()
            load(tiles, after, aims, 0, others)
        multiply(0, (tiles, parts[0], parts[1], total))

    return unrolled(STEPS, advance)


def turning_for(tile: Tile) -> Any:
    """Choose the order that was measured to be faster, on an H100.

    Slabs of 32 have two steps, and only one of them to put copies into. Smaller warp tiles have
    fewer multiplications to put them between.

    Parameters
    ----------
    tile : Tile

    Returns
    -------
    callable
        :func:`interleaved` for slabs of 64 and 64 x 64 outputs a warp, else :func:`bunched`.
    """
    return interleaved if tile.slab == 4 * FRAGMENT and tile.fragments == (4, 4) else bunched
