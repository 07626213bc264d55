"""How much memory may still be taken."""

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes of main memory that a program may still take.

    Returns
    -------
    int
        What the kernel estimates to be available (free, or page cache that can be dropped), or
        what the control group of a container or a batch job leaves, if that is less.
    """
    available = [_available_to_machine()]
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            used = int((_CGROUP / "memory.current").read_text())
            available.append(max(0, int(limit) - used))
    except (OSError, ValueError):
        pass  # no control group of version 2, or it sets no limit
    return min(available)


def _available_to_machine() -> int:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
