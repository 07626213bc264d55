"""How much memory may still be taken."""

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes of main memory that a program may still take.

    Returns
    -------
    int
        What the kernel estimates to be available (free, or page cache that can be dropped), or
        what the control groups (version 2) of a container or a batch job leave, if that is less.
    """
    return min([_available_to_machine(), *_left_by_control_groups()])


def gpu_memory() -> tuple[int, int]:
    """Return the bytes of the current GPU's memory.

    Returns
    -------
    free : int
        That a program may still take: what no program holds, and what CuPy keeps for itself of
        arrays that are gone.
    total : int
    """
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    return free + cupy.get_default_memory_pool().free_bytes(), total


def reserve_gpu_memory(num_bytes: int) -> None:
    """Take memory of the current GPU for arrays that are about to be allocated.

    CuPy keeps what is given back, and hands it out in parts: so hundreds of arrays cost one request
    to the driver, and are not each rounded up to its pages.

    Parameters
    ----------
    num_bytes : int
        Of all the arrays.
    """
    import cupy

    cupy.cuda.alloc(num_bytes)


def _available_to_machine() -> int:
    try:
        return _field(_PROC / "meminfo", "MemAvailable:") * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_by_control_groups() -> Iterator[int]:
    # A batch system sets its limit on the job's group or on one above it; a container sees its own
    # group as the root.
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = next((line[len("0::/") :] for line in lines if line.startswith("0::/")), "")
    for group in [_CGROUPS / own, *(_CGROUPS / own).parents]:
        if not group.is_relative_to(_CGROUPS):
            return
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            # Files that were read count as used, though they give way: a checkpoint, for one.
            files = sum(_field(group / "memory.stat", f"{age}active_file") for age in ("", "in"))
        except (OSError, ValueError, KeyError):
            continue  # no such group here, or no limit ("max")
        yield max(0, limit - used + files)


def _field(path: Path, name: str) -> int:
    """Read one number of a table of names and numbers."""
    table = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in table if len(row) > 1}[name]
