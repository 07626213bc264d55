"""Why the hardware counts what the simulator does not: differences that are understood.

An explanation names the figure that it leads to, so that it cannot pass for another difference.
The figures were worked out from the machine code (``cuobjdump -sass``) of these launches.
"""

from fnmatch import fnmatch
from typing import NamedTuple

UNEXPLAINED = "unexplained"


class Known(NamedTuple):
    """A difference that is understood.

    Attributes
    ----------
    case : str
        Name or pattern of cases.
    counter : str
        Name or pattern of counters.
    hardware : int or None
        What the hardware counts then; None for anything below the simulator's figure.
    why : str
    """

    case: str
    counter: str
    hardware: int | None
    why: str


_JOINED = (
    "The compiler joins four loads of neighbours in a row of a tile into one of 16 bytes: LDS.128. "
)
_READ_ONCE = (
    "A bin is read twice by the source, to be tested and to be added, and once by the machine."
)
KNOWN = (
    Known(
        "*",
        "divergent_branches",
        None,
        "Around a few instructions the compiler makes predicates of a branch, and nobody diverges.",
    ),
    # 512 warps, 2 slabs of K: 2 stores and 32 loads a slab of each tile by the source.
    Known(
        "gemm/tiled/float32",
        "shared_requests",
        512 * 2 * (2 + 8 + 8),
        _JOINED + "Rows of both tiles: a quarter of the loads of each.",
    ),
    Known(
        "gemm/tiled/float32",
        "shared_wavefronts",
        512 * 2 * (2 + 8 * 2 + 8 * 32),
        _JOINED + "For the tile of A that is two wavefronts for four numbers. For that of W it "
        "is still 32: all lanes want the same four banks, but get four numbers from them.",
    ),
    Known(
        "gemm/padded/float32",
        "shared_requests",
        512 * 2 * (2 + 8 + 32),
        _JOINED + "Only rows of A's tile: those of W's, padded, begin at no multiple of 16.",
    ),
    Known(
        "gemm/padded/float32",
        "shared_wavefronts",
        512 * 2 * (2 + 8 * 2 + 32),
        _JOINED + "Only rows of A's tile, two wavefronts for four numbers.",
    ),
    # 4 blocks, of which 2 warps clear the bins and add them; 512 warp-wide additions between.
    Known(
        "histogram/shared/int32/histogram_shared",
        "shared_requests",
        8 + 512 + 8,
        _READ_ONCE,
    ),
    Known("histogram/shared/int32/histogram_shared", "shared_wavefronts", 8 + 965 + 8, _READ_ONCE),
)


def explain(case: str, counter: str, ours: int, theirs: int) -> str | None:
    """Return why two figures differ.

    Parameters
    ----------
    case, counter : str
    ours, theirs : int
        The simulator's figure and the hardware's.

    Returns
    -------
    str or None
        None for equal figures, `UNEXPLAINED` for a difference that is not understood.
    """
    if ours == theirs:
        return None
    for known in KNOWN:
        if fnmatch(case, known.case) and fnmatch(counter, known.counter):
            fits = theirs < ours if known.hardware is None else theirs == known.hardware
            if fits:
                return known.why
    return UNEXPLAINED
