"""What a record says of its origin: machine, system, packages, BLAS, commit.

The machine itself is described by :mod:`llm_numba.runtime.machine`. What is not there is ``None``
and never a reason to fail.
"""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import llm_numba

# Those that can change a figure.
PACKAGES = (
    "llm-numba", "numpy", "ml_dtypes", "safetensors", "tokenizers", "jinja2", "typer", "rich",
    "numba", "numba-cuda", "cuda-bindings", "cuda-core", "nvidia-nvvm", "nvidia-cuda-nvrtc",
    "nvidia-nvjitlink", "cupy-cuda12x", "cupy-cuda13x", "torch", "mpi4py",
)  # fmt: skip

# OpenBLAS as NumPy's wheels name it, then as distributions do; 64 marks 64-bit indices.
_THREAD_QUERIES = (
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
)


def capture_environment(commit: str | None = None) -> dict[str, Any]:
    """Describe this machine and installation as a JSON object.

    Parameters
    ----------
    commit : str, optional
        What the checkout holds, for a copy of it without git.
    """
    # Its floor brings NumPy, which a command line that only wants the checkout does without.
    from llm_numba.runtime.machine import cpu, gpus, package_versions

    return {
        "device": cpu(),
        "gpus": gpus(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "blas": blas(),
        "git": {"commit": commit, "dirty": None} if commit else git_state(checkout()),
    }


def blas() -> dict[str, Any]:
    """Name the library behind NumPy's matrix products and its threads (``None`` if unknown)."""
    import numpy as np

    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "name": build.get("name"),
        "version": build.get("version"),
        "threads": _blas_threads(),
    }


def checkout() -> Path | None:
    """Return the root of the source checkout that this package runs from, if it does."""
    root = Path(llm_numba.__file__).parents[1]
    return root if (root / "pyproject.toml").is_file() else None


def git_state(root: Path | None) -> dict[str, Any] | None:
    """Return the commit of a checkout and whether it has changes.

    Parameters
    ----------
    root : Path or None
        The checkout.

    Returns
    -------
    dict or None
        ``{"commit": str, "dirty": bool}``; ``None`` outside a checkout or without git.
    """
    if root is None:
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # Files that git does not know, such as a record that was just written, change no figure.
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def command_line() -> list[str]:
    """Return the running command as a person would type it, without this machine's directories."""
    program = Path(sys.argv[0]).name
    arguments = [Path(each).name if Path(each).is_absolute() else each for each in sys.argv[1:]]
    return ["llm-numba" if program in ("__main__.py", "llm-numba") else program, *arguments]


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _blas_threads() -> int | None:
    """Ask the OpenBLAS that NumPy has loaded how many threads it runs."""
    # The library must be the loaded one, not one that the loader would find: hence its mapping.
    maps = Path("/proc/self/maps").read_text().split()
    for path in sorted({word for word in maps if "openblas" in word and word.startswith("/")}):
        library = ctypes.CDLL(path)
        for query in _THREAD_QUERIES:
            if hasattr(library, query):
                return int(getattr(library, query)())
    return None
