"""What ``llm-numba bench all`` and ``bench multi`` run, the most telling first.

Seconds are of a slow machine, kernels compiled: a case that takes longer hangs.
"""

from collections.abc import Iterable
from dataclasses import replace

from llm_numba.bench.record import default_path
from llm_numba.bench.suite import Case


def at_commit(cases: Iterable[Case], commit: str | None) -> list[Case]:
    """Let cases write down which commit runs, in a copy of the checkout without git.

    Parameters
    ----------
    cases : iterable of Case
    commit : str or None
        None leaves them as they are.
    """
    told = ("--commit", commit) if commit else ()
    return [replace(case, arguments=(*case.arguments, *told)) for case in cases]


def of_ranks(num_gpus: int) -> list[Case]:
    """List what there is to measure of several ranks, the most telling first.

    Parameters
    ----------
    num_gpus : int
        Without any, ranks of the CPU are measured, on the bundled model.

    Returns
    -------
    list of Case
    """
    if num_gpus < 2:
        small = "--device", "cpu", "--model", "storyteller", "--context", "64", "--prompt", "256"
        return [
            Case(2, ("bench", "comm"), 120),
            Case(1, ("bench", "ranks", *small), 300),
            Case(2, ("bench", "ranks", *small, "--tp", "2"), 300),
            Case(2, ("bench", "ranks", *small, "--pp", "2"), 300),
        ]
    counts = [count for count in (2, 4, 8) if count <= num_gpus]
    eight, seventy = ("--model", "random:llama-3-8b"), ("--model", "random:llama-3-70b")
    decode = "--prompt", "0", "--requests", "0"
    load = "--prompt", "0", "--batch", "1", "--steps", "50"
    comm = "bench", "comm", "--gpus", "--samples", "11", "--largest", str(1 << 28)
    found = [Case(count, comm, 90) for count in counts]
    found.append(Case(1, ("bench", "ranks", *eight), 90))
    found += [Case(P, ("bench", "ranks", *eight, "--tp", str(P)), 90) for P in counts]
    found += [
        Case(2, ("bench", "ranks", *eight, *decode, "--tp", "2", "--comm", path, *launches), 60)
        for path in ("mpi", "mpi-staged", "nccl", "peer")
        for launches in ((), ("--enforce-eager",))
    ]
    found += [
        Case(2, ("bench", "ranks", *eight, "--requests", "0", "--tp", "2", switch), 60)
        for switch in ("--close-with-norm", "--overlap-sums")
    ]
    found += [Case(P, ("bench", "ranks", *seventy, *decode, "--tp", str(P)), 150) for P in counts]
    found += [Case(R, ("bench", "ranks", *seventy, *load, "--pp", str(R)), 200) for R in counts]
    if num_gpus >= 4:
        both = "--tp", "2", "--pp", "2"
        found.append(Case(4, ("bench", "ranks", *seventy, *load, *both), 200))
    return found


def of_all(gpus: list[str], cpu: str, *, compiles: bool = False) -> list[Case]:
    """List all that a machine can measure.

    Parameters
    ----------
    gpus : list of str
        Their names.
    cpu : str
        Name of the processor, and how many cores.
    compiles : bool
        Whether the compilers are there that ``bench resources`` needs.

    Returns
    -------
    list of Case
    """
    found = _of_a_gpu(gpus[0]) if gpus else []
    if len(gpus) > 1:
        found += of_ranks(len(gpus))
    found += [
        Case(1, ("bench", "cpu"), 300),
        _profile(cpu, "storyteller", 120, "--device", "cpu"),
        Case(2, ("bench", "comm"), 120),
        Case(4, ("bench", "comm"), 180),
        Case(2, ("bench", "pipeline", "--pp", "2"), 180),
    ]
    if len(gpus) < 2:
        found += [case for case in of_ranks(0) if case.arguments[1] == "ranks"]
    found.append(Case(1, ("bench", "simulator"), 600))
    if compiles:
        found.append(Case(1, ("bench", "resources"), 900))
    return found


def _of_a_gpu(gpu: str) -> list[Case]:
    one, eight = "random:llama-3.2-1b", "random:llama-3-8b"
    return [
        Case(1, ("bench", "kernels"), 400),
        Case(1, ("bench", "gemm"), 240),
        Case(1, ("bench", "engine", "-m", one, "--limit", "150"), 300),
        _profile(gpu, one, 120, "--device", "cuda", "--batch", "1", "--batch", "32"),
        Case(1, ("bench", "engine", "-m", eight, "--limit", "150"), 300),
        _profile(gpu, eight, 120, "--device", "cuda", "--prefill", "0"),
        Case(1, ("bench", "machine"), 200),
        Case(1, ("bench", "start"), 240),
        Case(1, ("bench", "labs"), 180),
        Case(1, ("bench", "sweep"), 300),
        Case(1, ("bench", "counters"), 300),
    ]


def _profile(machine: str, model: str, seconds: float, *options: str) -> Case:
    out = default_path("profile", machine, model.removeprefix("random:"))
    return Case(1, ("profile", "-m", model, *options, "--out", str(out)), seconds)
