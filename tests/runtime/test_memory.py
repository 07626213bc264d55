"""What memory is left, read from a made-up /proc and /sys/fs/cgroup."""

import pytest

from llm_numba.runtime import available_memory, gpu_memory, memory, zeros

GIB = 2**30
MEMINFO = "MemTotal: {total} kB\nMemFree: 9 kB\nMemAvailable: {available} kB\nHugePages_Free: 0\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 64 GiB available, whose control groups the test sets up."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    (proc / "self").mkdir(parents=True)
    groups.mkdir()
    (proc / "meminfo").write_text(MEMINFO.format(total=96 * 2**20, available=64 * 2**20))
    (proc / "self/cgroup").write_text("4:memory:/old\n0::/\n")
    return tmp_path


def limit(group, maximum, current, active_file=0, inactive_file=0):
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{maximum}\n")
    (group / "memory.current").write_text(f"{current}\n")
    (group / "memory.stat").write_text(
        f"anon 7\nactive_file {active_file}\ninactive_file {inactive_file}\n"
    )


def test_without_limits_it_is_what_the_kernel_calls_available(machine):
    assert available_memory() == 64 * GIB


def test_a_containers_limit_counts_less_what_is_used(machine):
    limit(machine / "cgroup", 8 * GIB, 3 * GIB)
    assert available_memory() == 5 * GIB


def test_files_in_the_page_cache_give_way(machine):
    # A checkpoint that was just read fills the container with pages that can be dropped.
    limit(machine / "cgroup", 8 * GIB, 8 * GIB, active_file=2 * GIB, inactive_file=4 * GIB)
    assert available_memory() == 6 * GIB


def test_a_batch_job_is_held_to_the_tightest_limit_on_its_way_up(machine):
    (machine / "proc/self/cgroup").write_text("0::/slurm/job_7/step_0\n")
    slurm = machine / "cgroup/slurm"
    limit(slurm, "max", 50 * GIB)
    limit(slurm / "job_7", 16 * GIB, 4 * GIB)
    limit(slurm / "job_7/step_0", 32 * GIB, 1 * GIB)
    assert available_memory() == 12 * GIB


def test_a_group_over_its_limit_leaves_nothing(machine):
    limit(machine / "cgroup", 2 * GIB, 3 * GIB)
    assert available_memory() == 0


def test_a_generous_limit_does_not_add_memory(machine):
    limit(machine / "cgroup", 500 * GIB, 3 * GIB)
    assert available_memory() == 64 * GIB


def test_a_system_without_those_files_is_asked_for_its_free_pages(machine, monkeypatch):
    (machine / "proc/meminfo").unlink()
    (machine / "proc/self/cgroup").unlink()
    pages = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", pages.__getitem__)
    assert available_memory() == 1000 * 4096


def test_this_machine_has_some():
    assert available_memory() > 2**20


@pytest.mark.gpu
@pytest.mark.unsanitised(reason="memory comes from no pool, which this test looks at")
def test_what_cupy_keeps_of_arrays_that_are_gone_may_be_taken(monkeypatch):
    import cupy

    # Other programs on the GPU take and give as they like.
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (5 * GIB, 80 * GIB))
    array = zeros(GIB // 4, "float32", "cuda")
    held = gpu_memory()
    del array
    assert held[0] >= 5 * GIB
    assert gpu_memory() == (held[0] + GIB, 80 * GIB)
