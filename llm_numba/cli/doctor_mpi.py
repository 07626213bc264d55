"""``llm-numba doctor --mpi``: whether several ranks meet here, and what they must be told."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_numba import variables
from llm_numba.cli import probes
from llm_numba.cli.findings import Finding, installed_version, reinstall

RANKS_MEET = "Ranks meet"
_GPU_MESSAGES = "MPI from GPUs"

_LAUNCHERS = ("mpirun", "mpiexec", "srun")
_RANKS = 2
# What a launcher has told this program, which is not for those that it starts in turn.
_OF_A_LAUNCHER = ("OMPI_COMM_", "OMPI_UNIVERSE_", "PMIX_", "PMI_", "PRTE_")
_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# Open MPI sends from GPUs through UCX, which must not leave out what its wheel came with.
_UCX = {
    "OMPI_MCA_pml": "ucx",
    "OMPI_MCA_osc": "ucx",
    "OMPI_MCA_opal_common_ucx_tls": "any",
    "OMPI_MCA_opal_common_ucx_devices": "any",
}
UCX_WHEEL = "libucx-cu13==1.20.1"


def examine_mpi(timeout_s: float) -> list[Finding]:
    """Look for MPI and its launcher, start two ranks, and judge what became of them.

    Parameters
    ----------
    timeout_s : float
        Seconds that each try may take.

    Returns
    -------
    list of Finding
    """
    library = _library(timeout_s)
    launcher, command = _launcher(library)
    environment = _clean()
    ranks = _ranks(library, command, environment, timeout_s)
    return [
        library,
        launcher,
        ranks,
        _gpus(ranks, command, environment, timeout_s),
        *_settings(launcher),
    ]


def _library(timeout_s: float) -> Finding:
    version = installed_version("mpi4py")
    if not version:
        return Finding("MPI", "not installed", "mpi4py is what loads it", reinstall("mpi"))
    facts = probes.finish(probes.start("mpi", environment=_clean()), timeout_s)
    if "error" in facts:
        return Finding("MPI", "broken", facts["error"], reinstall("mpi"), facts)
    name = facts["library"].partition(",")[0]
    return Finding("MPI", "works", f"{name}, {facts['path']}; mpi4py {version}", None, facts)


def _launcher(library: Finding) -> tuple[Finding, list[str]]:
    """Return what there is to start ranks with, and the command that starts two."""
    path = next(filter(None, map(shutil.which, _LAUNCHERS)), None)
    if path is None:
        detail = f"none of {', '.join(_LAUNCHERS)} is on PATH"
        beside = Path(sys.executable).with_name("mpirun")
        remedy = f"export PATH={shlex.quote(str(beside.parent))}:$PATH"
        if not beside.exists():
            # What installs the library brings the launcher as well.
            remedy = reinstall("mpi") if library.status != "not installed" else None
        return Finding("Launcher", "not installed", detail, remedy), []
    try:
        asked = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("Launcher", "broken", f"{path}: {error}"), []
    version = (asked.stdout.strip().splitlines() or ["it does not tell its version"])[0]
    is_open_mpi = "Open MPI" in version
    command = [path, "-n", str(_RANKS), *(["--oversubscribe"] if is_open_mpi else [])]
    facts = {"path": path, "version": version, "is_open_mpi": is_open_mpi}
    return Finding("Launcher", "works", f"{path}, {version}", None, facts), command


def _ranks(
    library: Finding, command: list[str], environment: dict[str, str], timeout_s: float
) -> Finding:
    if library.status != "works" or not command:
        return Finding(RANKS_MEET, "none", "needs MPI and its launcher")
    facts = probes.finish(probes.start("mpi_ranks", command, environment), timeout_s)
    if "error" in facts:
        return Finding(RANKS_MEET, "broken", facts["error"], shlex.join(command), facts)
    if facts["size"] != _RANKS:
        detail = f"{_RANKS} programs were started, and each takes itself for the only one"
        remedy = "Use that MPI's launcher, or the launcher's MPI: MPI4PY_LIBMPI=/path/to/libmpi.so"
        return Finding(RANKS_MEET, "broken", detail, remedy, facts)
    if not facts["right"]:
        return Finding(RANKS_MEET, "broken", "an array arrived changed", None, facts)
    return Finding(RANKS_MEET, "works", f"{_RANKS} ranks exchanged an array", None, facts)


def _gpus(
    ranks: Finding, command: list[str], environment: dict[str, str], timeout_s: float
) -> Finding:
    """Try whether MPI takes pointers to a GPU's memory; its own word on that proves nothing."""
    from llm_numba.runtime import gpu_problem

    if problem := gpu_problem():
        return Finding(_GPU_MESSAGES, "none", f"no GPU: {problem}")
    if ranks.status != "works":
        return Finding(_GPU_MESSAGES, "none", "needs ranks that meet")

    def works(name: str, variables: Mapping[str, str]) -> tuple[bool, dict[str, Any]]:
        child = probes.start(name, command, environment | variables)
        facts = probes.finish(child, timeout_s)
        return facts.get("right", False), facts

    right, facts = works("mpi_gpu_messages", {})
    variables: dict[str, str] = {}
    if not right:
        variables = _ucx_variables()
        right, _ = works("mpi_gpu_messages", variables)
        if not right:
            problem = facts.get("error", "an array arrived changed")
            detail = f"arrays of GPUs go through main memory, MPI does not take them: {problem}"
            remedy = f"{shlex.quote(sys.executable)} -m pip install {UCX_WHEEL}"
            has_ucx = importlib.util.find_spec("libucx") is not None
            return Finding(_GPU_MESSAGES, "broken", detail, None if has_ucx else remedy, facts)
    adds, sums = works("mpi_gpu_sums", variables)
    detail = "messages arrive; " + (
        "sums are right" if adds else "sums fail, and are not left to MPI"
    )
    remedy = _export(variables) if variables else None
    return Finding(_GPU_MESSAGES, "works", detail, remedy, facts | {"sums": sums})


def _settings(launcher: Finding) -> list[Finding]:
    """Return what Open MPI must be told here before it starts ranks."""
    if not (launcher.facts and launcher.facts["is_open_mpi"]):
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{cores} cores: Open MPI starts more ranks only if it is told to"
    settings = [Finding("More ranks than cores", "none", detail, "mpirun --oversubscribe")]
    if _is_root() and any(variables.read(name) != "1" for name in _AS_ROOT):
        detail = "you are root: Open MPI starts only if it is told to, twice"
        settings.append(Finding("Root", "none", detail, _export(_AS_ROOT)))
    return settings


def _clean() -> dict[str, str]:
    """Return the environment for a launcher, whoever started this program."""
    return variables.passed_on(*_OF_A_LAUNCHER) | (_AS_ROOT if _is_root() else {})


def _export(variables: Mapping[str, str]) -> str:
    return "export " + " ".join(f"{name}={shlex.quote(text)}" for name, text in variables.items())


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _ucx_variables() -> dict[str, str]:
    spec = importlib.util.find_spec("libucx")
    if spec is None or not spec.submodule_search_locations:
        return dict(_UCX)
    folder = str(Path(next(iter(spec.submodule_search_locations))) / "lib")
    paths = [folder, variables.read("LD_LIBRARY_PATH") or ""]
    return _UCX | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}
