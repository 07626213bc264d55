"""NCCL's communicators, with a stand-in for the library: test_on_gpus.py has what they carry."""

import gc
import sys
import weakref
from types import ModuleType

import pytest

from llm_numba.errors import ParallelError
from llm_numba.parallel import nccl as file
from llm_numba.parallel.alone import Alone


class RefusedError(Exception):
    pass


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setattr(file, "_joined", [])
    library = ModuleType("cupy.cuda.nccl")
    library.get_unique_id = lambda: "identifier"
    library.NcclError = RefusedError
    library.NcclCommunicator = type("NcclCommunicator", (), {"__init__": lambda self, *of: None})
    cuda = ModuleType("cupy.cuda")
    cuda.nccl = library
    for module in (cuda, library):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    return library


def test_a_communicator_does_not_end_when_nobody_needs_it_any_more(library):
    """Its end would wait for that of the other ranks."""
    joined = weakref.ref(file._join(Alone(), [0]))
    gc.collect()
    assert joined() is not None


def test_what_keeps_ranks_apart_is_told(library):
    def refuse(*of):
        raise RefusedError("no route")

    library.NcclCommunicator = refuse
    with pytest.raises(ParallelError, match=r"ranks 0: no route\. .*--comm peer"):
        file._join(Alone(), [0])
    assert not file._joined
