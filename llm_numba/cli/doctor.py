"""``llm-numba doctor``: what works on this machine, and what to install for what does not."""

import json
import platform
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from llm_numba.cli import probes
from llm_numba.cli.console import notes, styled
from llm_numba.cli.findings import (
    RANKS_MEET,
    UCX_WHEEL,
    Finding,
    installed_version,
    reinstall,
    show_findings,
)
from llm_numba.cli.memory import MemoryQuestion, answer
from llm_numba.cli.options import takes_groups

# A model's first step on a GPU compiles every kernel; MPI may look for a network.
_TIMEOUT_S = 120.0

# The installed packages, any one of each, without which a probe is not worth starting.
PACKAGES = {
    "numba_cuda": ("numba-cuda",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "gpu_path": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "mpi": ("mpi4py",),
}

_CPU_PATH = "CPU path"
_VERDICTS = {
    _CPU_PATH: ("The CPU path works: llm-numba demo", "The CPU path does not work."),
    RANKS_MEET: ("Several ranks work: mpirun -n 2", "Several ranks do not work."),
}


@takes_groups
def doctor(
    memory: MemoryQuestion,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write what was found as JSON.")] = False,
    mpi: Annotated[
        bool, typer.Option("--mpi", help="Try several ranks, and say how they are started.")
    ] = False,
) -> None:
    """Say what works here, and what to install for what does not.

    Exit code 0 means that the CPU path works: the bundled model wrote a few tokens. With --mpi, it
    means that ranks met: those of mpirun, if it has started this, or else some of its own. With
    --model, say instead where the memory of an engine would go; exit code 2 means that it does not
    fit.
    """
    if memory.model is not None:
        answer(memory, as_json=as_json)
        return
    findings = _examine_mpi() if mpi else examine()
    if not findings:
        return  # rank 0 speaks
    asked = RANKS_MEET if mpi else _CPU_PATH
    works = any(finding.part == asked and finding.status == "works" for finding in findings)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        show_findings(findings)
        good, bad = _VERDICTS[asked]
        notes().print()
        notes().print(styled(good, "bold green") if works else styled(bad, "bold red"))
    if not works:
        raise typer.Exit(1)


def _examine_mpi() -> list[Finding]:
    """Examine the ranks that a launcher has started, or start some."""
    from llm_numba.cli.doctor_mpi import examine_mpi, examine_ranks
    from llm_numba.parallel.launch import launched

    launch = launched()
    return examine_ranks(launch) if launch and launch.size > 1 else examine_mpi(_TIMEOUT_S)


def examine() -> list[Finding]:
    """Run all probes side by side and judge what they found; the CPU path comes first."""
    children = {name: probes.start(name) for name in probes.PROBES if _wanted(name)}
    facts = {name: probes.finish(child, _TIMEOUT_S) for name, child in children.items()}
    driver = _driver(facts["cuda_driver"])
    extra = "cu12" if driver.facts and driver.facts.get("cuda", "").startswith("12") else "cu13"
    has_gpu = driver.status == "works"
    return [
        _cpu_path(facts["cpu_path"]),
        _simulator(facts["simulator"]),
        Finding("Python", "works", f"{platform.python_version()} ({sys.executable})"),
        _numpy(facts["blas_library"]),
        driver,
        _gpu_package("Numba CUDA", "numba_cuda", facts, extra, has_gpu),
        _gpu_package("CuPy", "cupy", facts, extra, has_gpu),
        _gpu_path(facts.get("gpu_path"), has_gpu),
        _mpi(facts.get("mpi"), has_gpu),
    ]


def _wanted(probe: str) -> bool:
    """Whether there is something to probe: packages that are not installed need no child."""
    return probe not in PACKAGES or bool(installed_version(*PACKAGES[probe]))


def _cpu_path(facts: dict[str, Any]) -> Finding:
    from llm_numba.runtime.machine import cpu

    if "error" in facts:
        return Finding(_CPU_PATH, "broken", facts["error"], reinstall(""), facts)
    detail = f"{facts['tokens']} tokens in {facts['seconds']:.2f} s, loading included"
    return Finding(_CPU_PATH, "works", f"{detail}; {cpu()['cores']} cores", facts=facts)


def _simulator(facts: dict[str, Any]) -> Finding:
    if facts.get("error") or not facts["right"]:
        problem = facts.get("error", "a kernel came out wrong")
        return Finding("Simulator", "broken", problem, reinstall(""), facts)
    return Finding("Simulator", "works", f"a kernel in {facts['seconds']:.2f} s", facts=facts)


def _gpu_path(facts: dict[str, Any] | None, has_gpu: bool) -> Finding:
    if facts is None or not has_gpu:
        return Finding("GPU path", "none", "needs a GPU and CuPy: the CPU path is used")
    if facts.get("error") or not facts["right"]:
        problem = facts.get("error", "the GPU's tokens are not the CPU's")
        return Finding("GPU path", "broken", problem, facts=facts)
    detail = f"{facts['tokens']} tokens as on the CPU, in {facts['seconds']:.1f} s with compiling"
    return Finding("GPU path", "works", detail, facts=facts)


def _numpy(facts: dict[str, Any]) -> Finding:
    numpy = installed_version("numpy")
    if facts.get("error") or not facts["right"]:
        problem = facts.get("error", "a matrix product came out wrong")
        return Finding("NumPy", "broken", f"{numpy}: {problem}", reinstall(""), facts)
    threads = f", {facts['threads']} threads" if facts["threads"] else ""
    detail = f"{numpy}, {facts['name']} {facts['version']}{threads}"
    return Finding("NumPy", "works", detail, facts=facts)


def _driver(facts: dict[str, Any]) -> Finding:
    error = facts.get("error", "")
    if "libcuda.so.1" in error or (not error and not facts["devices"]):
        return Finding("NVIDIA GPU", "none", "no driver or no device: the CPU path is used")
    if error:
        return Finding("NVIDIA GPU", "broken", error, "nvidia-smi", facts)
    devices = "; ".join(
        f"{device['name']}, {device['memory_bytes'] / 2**30:.0f} GiB,"
        f" compute capability {device['compute_capability']}"
        for device in facts["devices"]
    )
    return Finding(
        "NVIDIA GPU", "works", f"driver for CUDA {facts['cuda']}: {devices}", None, facts
    )


def _gpu_package(
    part: str, probe: str, facts: dict[str, dict[str, Any]], extra: str, has_gpu: bool
) -> Finding:
    version = installed_version(*PACKAGES[probe])
    if probe not in facts:
        remedy = reinstall(extra) if has_gpu else None
        why = "needed to use the GPU" if has_gpu else "needed on machines with a GPU only"
        return Finding(part, "not installed", why, remedy)
    if not has_gpu:
        return Finding(part, "none", f"{version} is installed, there is no GPU to run on")
    found = facts[probe]
    if found.get("error") or not found["right"]:
        problem = found.get("error", "a small calculation came out wrong")
        return Finding(part, "broken", f"{version}: {problem}", reinstall(extra), found)
    return Finding(part, "works", version, facts=found)


def _mpi(facts: dict[str, Any] | None, has_gpu: bool) -> Finding:
    # The ucx wheel is what lets the Open MPI wheel send from GPU memory.
    remedy = reinstall("mpi") + (f" {UCX_WHEEL}" if has_gpu else "")
    if facts is None:
        return Finding("MPI", "not installed", "needed for more than one process only", remedy)
    if "error" in facts:
        return Finding("MPI", "broken", facts["error"], remedy, facts)
    detail = f"mpi4py {installed_version('mpi4py')}, {facts['library']}, {facts['path']}"
    return Finding("MPI", "works", detail, facts=facts)
