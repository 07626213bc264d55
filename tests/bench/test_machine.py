"""What a machine says of itself: GPUs by way of a stand-in for nvidia-smi."""

import pytest

from llm_numba.runtime import machine
from llm_numba.train.card import environment

FACTS = {
    "name": "NVIDIA H100 80GB HBM3", "driver_version": "580.159.04", "memory.total": "81559",
    "compute_cap": "9.0", "clocks.max.sm": "1980", "clocks.max.mem": "2619", "clocks.sm": "345",
    "clocks.mem": "2619", "temperature.gpu": "31", "power.draw": "70.25",
}  # fmt: skip
NVIDIA_SMI = """
import sys
facts = {facts!r}
query = next(a for a in sys.argv if a.startswith("--query-gpu=")).partition("=")[2]
assert "--format=csv,noheader,nounits" in sys.argv
count = 2
for argument in sys.argv:
    if argument.startswith("--id="):
        count = len(argument.partition("=")[2].split(","))
for _ in range(count):
    print(", ".join(facts[field] for field in query.split(",")))
"""


@pytest.fixture
def two_gpus(program, monkeypatch):
    program("nvidia-smi", NVIDIA_SMI.format(facts=FACTS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("two_gpus")
def test_each_gpu_is_described_in_units_of_one():
    first, second = machine.gpus()
    assert (
        first
        == second
        == {
            "name": "NVIDIA H100 80GB HBM3",
            "driver": "580.159.04",
            "memory_bytes": 81559 * 2**20,
            "compute_capability": "9.0",
            "max_sm_mhz": 1980,
            "max_memory_mhz": 2619,
        }
    )


@pytest.mark.usefixtures("two_gpus")
def test_only_gpus_that_cuda_shows_count(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(machine.gpus()) == 1


@pytest.mark.usefixtures("two_gpus")
def test_clocks_are_those_of_the_first_gpu():
    assert machine.gpu_clocks() == {
        "sm_mhz": 345, "memory_mhz": 2619, "celsius": 31, "watts": 70.25
    }  # fmt: skip


def test_what_the_driver_does_not_know_is_none(program):
    program("nvidia-smi", NVIDIA_SMI.format(facts=FACTS | {"power.draw": "[N/A]"}))
    assert machine.gpu_clocks()["watts"] is None


@pytest.mark.usefixtures("no_gpu")
def test_without_a_driver_there_are_no_gpus():
    assert machine.gpus() == []
    assert machine.gpu_clocks() is None


def test_a_driver_that_does_not_answer_is_none(program):
    program("nvidia-smi", "raise SystemExit('No devices were found')")
    assert machine.gpus() == []


@pytest.mark.usefixtures("two_gpus")
def test_training_on_a_gpu_names_it_and_its_driver():
    found = environment("cuda:0")
    assert (found["device"], found["driver"]) == ("NVIDIA H100 80GB HBM3", "580.159.04")
    assert found["packages"]["numpy"]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_training_is_recorded_where_no_gpu_can_be_named(device):
    found = environment(device)
    assert found["driver"] is None
    assert found["device"] == (machine.cpu()["name"] if device == "cpu" else "cuda")


def test_only_installed_packages_have_versions():
    versions = machine.package_versions(["numpy", "no-such-package-here"])
    assert list(versions) == ["numpy"]
