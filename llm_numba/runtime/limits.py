"""What one SM has, of all that differs between GPUs.

Source: "CUDA C++ Programming Guide", "Technical Specifications per Compute Capability".
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SMLimits:
    """What one SM has, of all that differs between compute capabilities.

    Attributes
    ----------
    warps, blocks : int
        The most that can be resident.
    shared_bytes : int
        Of all resident blocks together.
    reserved_shared_bytes : int
        What the system takes of it for each block.
    shared_at_a_time : int
        Granularity in which a block gets shared memory.
    """

    warps: int
    blocks: int
    shared_bytes: int
    reserved_shared_bytes: int = 1024
    shared_at_a_time: int = 128

    @property
    def block_shared_bytes(self) -> int:
        """The most that one block may have."""
        return self.shared_bytes - self.reserved_shared_bytes


LIMITS = {
    (7, 5): SMLimits(32, 16, 64 * 1024, reserved_shared_bytes=0, shared_at_a_time=256),
    (8, 0): SMLimits(64, 32, 164 * 1024),
    (8, 6): SMLimits(48, 16, 100 * 1024),
    (8, 7): SMLimits(48, 16, 164 * 1024),
    (8, 9): SMLimits(48, 24, 100 * 1024),
    (9, 0): SMLimits(64, 32, 228 * 1024),
    (10, 0): SMLimits(64, 32, 228 * 1024),
    (10, 3): SMLimits(64, 32, 228 * 1024),
    (12, 0): SMLimits(48, 24, 100 * 1024),
}
