"""What joins GPUs, as a stand-in for the driver's management library says it."""

from types import SimpleNamespace

import pytest

from llm_numba.runtime import gpu_links
from llm_numba.runtime.gpu_links import GPULink, gpu_link, gpu_name

A, B, C = (f"{digit}" * 32 for digit in "abc")
STRANGER = "d" * 32
READ, NVLINK = 0, 2


NAMES = [f"GPU-{d * 8}-{d * 4}-{d * 4}-{d * 4}-{d * 12}".encode() for d in "abc"]


def handle_of(name, handle):
    if name not in NAMES:
        return 6  # not found
    handle._obj.value = 1 + NAMES.index(name)
    return 0


def name_of(handle, name, length):
    name.value = b"NVIDIA Example"
    return 0


def status_of(one, other, what, status):
    near = 3 not in (one.value, other.value)
    status._obj.value = 0 if near and what in (READ, NVLINK) else 5
    return 0


def at_level(number):
    def ancestor(one, other, level):
        level._obj.value = number
        return 0

    return ancestor


def nvml(ancestor):
    """GPUs a and b are joined by NVLink, c is not; nobody may read c."""
    return SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByUUID=handle_of,
        nvmlDeviceGetName=name_of,
        nvmlDeviceGetP2PStatus=status_of,
        nvmlDeviceGetTopologyCommonAncestor=ancestor,
    )


@pytest.fixture(name="library")
def _library(monkeypatch):
    """Put something in the place of NVML."""

    def put(library):
        gpu_links._nvml.cache_clear()
        monkeypatch.setattr(gpu_links.ctypes, "CDLL", library)

    yield put
    gpu_links._nvml.cache_clear()


def test_links_are_named(library):
    library(lambda name: nvml(at_level(50)))
    assert gpu_link(A, B) == GPULink("nvlink", readable=True)
    assert gpu_link(B, C) == GPULink("pcie-sockets", readable=False)
    assert gpu_name(A) == "NVIDIA Example"


@pytest.mark.parametrize(
    ("level", "kind"),
    [(0, "pcie-switch"), (20, "pcie-switch"), (30, "pcie-host"), (40, "pcie-sockets")],
)
def test_the_way_over_pcie_tells_how_far_it_is(library, level, kind):
    library(lambda name: nvml(at_level(level)))
    assert gpu_link(A, C).kind == kind


def test_nothing_is_known_of_gpus_of_another_host_or_without_the_library(library):
    library(lambda name: nvml(at_level(50)))
    assert gpu_link(A, STRANGER) is None
    assert gpu_name(STRANGER) == ""

    def missing(name):
        raise OSError(name)

    library(missing)
    assert gpu_link(A, B) is None
    assert gpu_name(A) == ""


def test_what_the_library_cannot_say_is_not_made_up(library):
    library(lambda name: nvml(lambda *_: 3))
    assert gpu_link(A, C) is None
    assert gpu_name(C) == "NVIDIA Example"
