r"""Occupancy: how many warps of a kernel an SM holds at a time, and what keeps out the next block.

.. math:: \mathrm{occupancy} = \frac{\text{warps resident on an SM}}{\text{warps that it can hold}}

A warp that waits for memory costs nothing as long as another one can run. An SM takes whole
blocks, as many as fit into the scarcest of four things: places for warps, places for blocks,
registers, shared memory. More is not always faster: enough to hide the waiting is enough.

::

    block ----> ceil(threads / 32) warps          of 32 to 64 places
                1 block                           of 16 to 32 places
                registers, 256 at a time a warp   of 65536, in 4 parts
                shared memory, 128 bytes at a time, and 1 KiB for the system

What an SM has: :mod:`llm_numba.runtime.limits`. Source of the granularity of allocation: the header
``cuda_occupancy.h`` of the CUDA toolkit.
"""

from dataclasses import dataclass

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks
from llm_numba.runtime.limits import LIMITS, SMLimits

WARP = 32
MAX_THREADS = 1024
MAX_REGISTERS = 255
REGISTERS = 65536
# An SM has four schedulers, each with a quarter of the registers for its own warps.
PARTITIONS = 4
REGISTERS_AT_A_TIME = 256


@dataclass(frozen=True)
class Occupancy:
    """How many blocks and warps of a kernel are resident on an SM.

    Attributes
    ----------
    blocks, warps : int
        0 if not even one block fits: the launch would fail.
    max_warps : int
        What the SM can hold.
    limited_by : tuple of str
        What the next block would lack, of "warps", "blocks", "registers", "shared memory".
    """

    blocks: int
    warps: int
    max_warps: int
    limited_by: tuple[str, ...]

    @property
    def fraction(self) -> float:
        """Resident warps over those that the SM can hold."""
        return self.warps / self.max_warps


def occupancy(
    threads_per_block: int, registers: int, shared_bytes: int, capability: tuple[int, int]
) -> Occupancy:
    """Compute how many warps of a kernel an SM holds.

    Parameters
    ----------
    threads_per_block : int
        1 to 1024.
    registers : int
        Of a thread, 1 to 255, as ``ptxas -v`` reports them.
    shared_bytes : int
        Of a block, static and dynamic. The SM is taken to give shared memory all that it may, at
        the cost of its L1 cache, as the driver does for a kernel that asks for much.
    capability : tuple of int
        Compute capability, a key of :data:`llm_numba.runtime.limits.LIMITS`.

    Returns
    -------
    Occupancy

    Raises
    ------
    KernelArgumentError
        If an argument is out of its range.
    """
    checks.integer("threads_per_block", threads_per_block, at_least=1, at_most=MAX_THREADS)
    checks.integer("registers", registers, at_least=1, at_most=MAX_REGISTERS)
    checks.integer("shared_bytes", shared_bytes)
    if capability not in LIMITS:
        raise KernelArgumentError(
            f"Argument 'capability' is {capability!r}.",
            f"It must be one of: {', '.join(map(str, LIMITS))}.",
        )
    sm = LIMITS[capability]
    warps = -(-threads_per_block // WARP)
    fitting = {
        "warps": sm.warps // warps,
        "blocks": sm.blocks,
        "registers": _blocks_by_registers(warps, registers),
        "shared memory": _blocks_by_shared_memory(sm, shared_bytes),
    }
    blocks = min(fitting.values())
    return Occupancy(
        blocks=blocks,
        warps=blocks * warps,
        max_warps=sm.warps,
        limited_by=tuple(name for name, count in fitting.items() if count == blocks),
    )


def _blocks_by_registers(warps: int, registers: int) -> int:
    of_a_warp = _rounded_up(registers * WARP, REGISTERS_AT_A_TIME)
    # A launch is refused as if the block's warps filled all four parts evenly.
    if of_a_warp * _rounded_up(warps, PARTITIONS) > REGISTERS:
        return 0
    return REGISTERS // PARTITIONS // of_a_warp * PARTITIONS // warps


def _blocks_by_shared_memory(sm: SMLimits, shared_bytes: int) -> int:
    of_a_block = _rounded_up(shared_bytes + sm.reserved_shared_bytes, sm.shared_at_a_time)
    # A block that takes none is never kept out for want of it.
    return sm.shared_bytes // of_a_block if of_a_block else sm.blocks + 1


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
