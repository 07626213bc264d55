"""Starting programs as ranks of MPI."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ranks import Ended, mpirun, search_path


@pytest.fixture(name="mpirun", scope="session")
def _mpirun() -> Callable[..., Ended]:
    """:func:`ranks.mpirun`, where there is an MPI."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed: pip install 'llm-numba[mpi]'")
    if not shutil.which("mpirun", path=search_path()):
        pytest.skip("there is no mpirun: pip install 'llm-numba[mpi]'")
    return mpirun
