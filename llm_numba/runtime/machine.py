"""What a measurement was made on: processor, memory, GPUs, driver, packages.

A figure without these cannot be compared with another. Everything is read from ``/proc``, from
``nvidia-smi`` and from the packages' metadata; what is not there is left out and never a reason to
fail.
"""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from llm_numba import variables

_MIB = 1 << 20


def cpu() -> dict[str, Any]:
    """Name the processor, the cores this process may use, and the memory in bytes."""
    return {
        "name": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def gpus() -> list[dict[str, Any]]:
    """Describe the GPUs that CUDA shows to this process.

    Returns
    -------
    list of dict
        ``name``, ``driver``, ``memory_bytes``, ``compute_capability``, and the highest clocks
        ``max_sm_mhz`` and ``max_memory_mhz``. Empty without an NVIDIA driver.
    """
    rows = query_gpus(
        "name", "driver_version", "memory.total", "compute_cap", "clocks.max.sm", "clocks.max.mem"
    )
    return [
        {
            "name": row["name"],
            "driver": row["driver_version"],
            "memory_bytes": _number(row["memory.total"], _MIB),
            "compute_capability": row["compute_cap"],
            "max_sm_mhz": _number(row["clocks.max.sm"]),
            "max_memory_mhz": _number(row["clocks.max.mem"]),
        }
        for row in rows
    ]


def gpu_clocks() -> dict[str, Any] | None:
    """Return how fast the first GPU runs at this moment.

    Returns
    -------
    dict or None
        ``sm_mhz``, ``memory_mhz``, ``celsius`` and ``watts``; None without an NVIDIA driver.
    """
    for row in query_gpus("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw"):
        return {
            "sm_mhz": _number(row["clocks.sm"]),
            "memory_mhz": _number(row["clocks.mem"]),
            "celsius": _number(row["temperature.gpu"]),
            "watts": _number(row["power.draw"]),
        }
    return None


def query_gpus(*fields: str) -> list[dict[str, str]]:
    """Ask ``nvidia-smi`` about the GPUs that CUDA shows to this process.

    Parameters
    ----------
    *fields : str
        As ``nvidia-smi --help-query-gpu`` lists them.

    Returns
    -------
    list of dict
        For each GPU its fields as text, without units. Empty if there is no ``nvidia-smi``, or it
        fails.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    if visible := variables.read("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.strip()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed.

    Parameters
    ----------
    names : iterable of str
        Distributions, as ``pip`` names them.
    """
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _number(text: str, unit: int = 1) -> float | int | None:
    """Return a number, or None for what ``nvidia-smi`` cannot say: "[N/A]"."""
    try:
        value = float(text) * unit
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


def _field(path: Path, name: str) -> str | None:
    """Return the first ``name : value`` of a ``/proc`` file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
