"""``llm-numba doctor --mpi``: whether ranks meet here, and what carries arrays between them.

Started alone, it starts ranks itself, and outlives them if they crash. Started by ``mpirun``, it is
these ranks that are examined. Either way they do what :mod:`llm_numba.parallel.examining` says, and
:mod:`llm_numba.cli.doctor_ranks` puts it into words.
"""

import os
import shlex
import shutil
import sys
from typing import Any

from llm_numba import variables
from llm_numba.cli import probes
from llm_numba.cli.doctor_ranks import export, judge
from llm_numba.cli.findings import RANKS_MEET, Finding, installed_version, reinstall
from llm_numba.errors import LLMNumbaError, ParallelError
from llm_numba.parallel.launch import (
    Launched,
    beside_python,
    find_launcher,
    launch_command,
    launcher_version,
)
from llm_numba.parallel.probing import AS_ROOT, WITHOUT_SSH, clean_environment, has_ssh
from llm_numba.runtime import visible_gpus

_EXAMINING = "llm_numba.parallel.examining"
# Ranks with GPUs compile kernels, and wait until MPI is tried.
_PATIENCE = 3


def examine_mpi(timeout_s: float) -> list[Finding]:
    """Look for MPI and its launcher, start ranks, and judge what became of them.

    Parameters
    ----------
    timeout_s : float
        Seconds that a try may take.

    Returns
    -------
    list of Finding
    """
    library = _library(timeout_s)
    launcher = _launcher(has_library=library.status != "not installed")
    if {library.status, launcher.status} != {"works"}:
        return [library, launcher, Finding(RANKS_MEET, "none", "needs MPI and its launcher")]
    count = max(2, len(visible_gpus()))
    command = [*launch_command(count), sys.executable, "-m", _EXAMINING, str(count)]
    child = probes.start_program(command, clean_environment())
    facts, problem = probes.finish_program(child, _PATIENCE * timeout_s)
    found = judge(facts, problem, shlex.join(command))
    return [library, launcher, *found, *_settings(launcher)]


def examine_ranks(launch: Launched) -> list[Finding]:
    """Examine the ranks that a launcher has started, of which this is one; all of them do this.

    Parameters
    ----------
    launch : Launched

    Returns
    -------
    list of Finding
        On rank 0; elsewhere there are none.
    """
    from llm_numba.parallel import Mesh
    from llm_numba.parallel.examining import examine

    launcher = Finding("Launcher", "works", f"{launch.launcher} has started {launch.size} ranks")
    try:
        with Mesh(tp=launch.size) as mesh:
            facts = list(examine(mesh))
    except LLMNumbaError as error:
        return [launcher, *judge([{"error": error.cause, "remedy": error.remedy}])]
    if not mesh.is_leader:
        return []
    return [_loaded(probes.mpi()), launcher, *judge(facts)]


def _library(timeout_s: float) -> Finding:
    if not installed_version("mpi4py"):
        return Finding("MPI", "not installed", "mpi4py is what loads it", reinstall("mpi"))
    facts = probes.finish(probes.start("mpi", clean_environment()), timeout_s)
    if "error" in facts:
        return Finding("MPI", "broken", facts["error"], reinstall("mpi"), facts)
    return _loaded(facts)


def _loaded(facts: dict[str, Any]) -> Finding:
    name, mpi4py = facts["library"].partition(",")[0], installed_version("mpi4py")
    return Finding("MPI", "works", f"{name}, {facts['path']}; mpi4py {mpi4py}", None, facts)


def _launcher(*, has_library: bool) -> Finding:
    try:
        path = find_launcher()
        version = launcher_version(path)
    except ParallelError as error:
        # What installs the library brings the launcher as well.
        remedy = reinstall("mpi") if has_library else None
        return Finding("Launcher", "not installed", error.cause, remedy)
    detail, remedy = f"{path}, {version}", None
    if path == str(beside_python()) and not shutil.which("mpirun"):
        detail += "; it is not on PATH"
        remedy = f"export PATH={shlex.quote(os.path.dirname(path))}:$PATH"
    facts = {"path": path, "version": version, "is_open_mpi": "Open MPI" in version}
    return Finding("Launcher", "works", detail, remedy, facts)


def _settings(launcher: Finding) -> list[Finding]:
    """Return what Open MPI must be told here before it starts ranks."""
    if not (launcher.facts and launcher.facts["is_open_mpi"]):
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{cores} cores: Open MPI starts more ranks only if it is told to"
    settings = [Finding("More ranks than cores", "none", detail, "mpirun --oversubscribe")]
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root and any(variables.read(name) != "1" for name in AS_ROOT):
        detail = "you are root: Open MPI starts only if it is told to, twice"
        settings.append(Finding("Root", "none", detail, export(AS_ROOT)))
    (wanted,) = WITHOUT_SSH
    if "Open MPI) 4" in launcher.facts["version"] and not has_ssh() and not variables.read(wanted):
        detail = "there is none: Open MPI 4 starts ranks only if it is told not to look for it"
        settings.append(Finding("ssh", "none", detail, export(WITHOUT_SSH)))
    return settings
