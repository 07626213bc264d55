"""Rows cut into packets of 16 bytes, for kernels in which no number needs another of its row.

::

    packets of a row     |  0 |  1 | ... | 31 | 32 | 33 | ... | 63 | 64 | ...
    thread, of 32          t0   t1   ...  t31   t0   t1   ...  t31   t0        packets = 2:
    chunk                |<---------------- chunk 0 ---------------->|         64 in a chunk

Each thread has all its packets under way at once. A row of more packets than a block's threads
take is several chunks, and chunks are blocks of their own along y. Short rows leave a block room
for several, along threads' y.
"""

import math
from typing import NamedTuple

from numba import cuda

from llm_numba.kernels import ptx

WARP = 32


class Config(NamedTuple):
    """How rows are cut.

    Attributes
    ----------
    threads : int
        The most threads of a block.
    packets : int
        That a thread has under way.
    """

    threads: int
    packets: int


CANDIDATES = tuple(
    Config(threads, packets) for threads in (128, 256, 512, 1024) for packets in (1, 2, 4)
)

# Below, there are not enough packets to give each thread of a large GPU more than one.
FEW_PACKETS = 1 << 18


def cut(rows: int, packets: int, config: Config) -> tuple[tuple[int, int], tuple[int, int]]:
    """Choose grid and block.

    Parameters
    ----------
    rows : int
    packets : int
        In a row.
    config : Config

    Returns
    -------
    grid : tuple of int
        Rows along x, chunks along y.
    block : tuple of int
        Threads of a row along x, rows along y.
    """
    chunks = math.ceil(packets / (config.threads * config.packets))
    # Chunks of one length, so that no block has threads without a packet.
    threads = WARP * math.ceil(packets / (WARP * chunks * config.packets))
    together = config.threads // threads
    return (math.ceil(rows / together), chunks), (threads, together)


def rounded_up(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Round the number of rows up to a power of two: shapes of one bucket are tuned as one.

    Parameters
    ----------
    shape : tuple of int

    Returns
    -------
    tuple of int
    """
    return (1 << max(0, shape[0] - 1).bit_length(), *shape[1:])


@cuda.jit(device=True)
def widened(array, words, k):
    """Make the numbers of packet k of those that a thread holds as they are in memory.

    Until it is needed, a packet of 8 numbers of 2 bytes then takes 4 registers and not 8.

    Parameters
    ----------
    array : array
        Where they come from; only its type matters.
    words : local uint32 [4 * packets]
    k : int

    Returns
    -------
    tuple of float32
        4 or 8.
    """
    at = 4 * k
    return ptx.widen_raw16(array, (words[at], words[at + 1], words[at + 2], words[at + 3]))
