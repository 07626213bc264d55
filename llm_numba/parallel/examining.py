"""What ranks find out about themselves: ``mpirun -n 2 python -m llm_numba.parallel.examining 2``.

Who they are, which GPU each has, what joins these, and which paths carry arrays between them. The
offers are those that an engine chooses from; here each path is tried, too: it adds up whole
numbers and passes them on, which leaves no room for rounding.

Rank 0 writes what was found as lines of JSON, each as soon as it is known. So one knows what ranks
were at when they ended by a crash.
"""

import itertools
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from llm_numba.errors import LLMNumbaError, ParallelError
from llm_numba.parallel.launch import Launched, start_mpi, strangers
from llm_numba.parallel.measured import find_table
from llm_numba.parallel.mesh import Mesh
from llm_numba.parallel.paths import choose, connect
from llm_numba.parallel.probing import messages_problem, ucx_settings
from llm_numba.parallel.selection import Offer
from llm_numba.runtime import Array, gpu_problem, to_device, to_host, visible_gpus
from llm_numba.runtime.gpu_links import gpu_link, gpu_name

_COUNT = 1000  # numbers of an array: no multiple of a power of two

Fact = dict[str, Any]


def examine(mesh: Mesh) -> Iterator[Fact]:
    """Let ranks find out what there is; all of them do this, and take all of it.

    Parameters
    ----------
    mesh : Mesh
        Of one stage.

    Yields
    ------
    dict
        The same on all ranks: ``ranks``, the host of each; ``gpus``, their names, and ``no_gpus``,
        why there are none; ``links`` of pairs of ranks; ``offers``; for each path that is offered
        ``tried`` and ``problem``; ``settings`` with which MPI would take arrays of GPUs;
        ``chosen``, the words of :meth:`.Selection.explain`.
    """
    world = mesh.world
    yield {"ranks": world.exchange(socket.gethostname())}
    problem = _take_gpus(mesh)
    device = "cpu" if problem else "cuda"
    if problem:
        yield {"gpus": [], "no_gpus": problem}
    else:
        gpus = mesh.gpus
        names = world.tell([gpu_name(each) for each in gpus] if world.rank == 0 else None)
        seen = world.exchange(len(visible_gpus()))
        yield {"gpus": names, "seen": seen, "no_gpus": ""}
        yield {"links": world.tell(_links(gpus) if world.rank == 0 else None)}
    offers = mesh.offers(world, device)
    yield {"offers": {offer.path: offer.problem for offer in offers}, "device": device}
    for offer in offers:
        if not offer.problem:
            yield {"tried": offer.path, "problem": _try(mesh, offer.path, offers, device)}
    refused = {offer.path for offer in offers if offer.problem}
    if device == "cuda" and "mpi" in refused:
        settings = ucx_settings()
        helps = world.rank == 0 and not messages_problem(**settings)
        if world.tell(helps, patient=True):
            yield {"settings": settings}
    table = find_table(mesh.machine(world)) if device == "cuda" else None
    yield {"chosen": choose("auto", offers, world.size, table).explain()}


def _take_gpus(mesh: Mesh) -> str:
    """Give each rank a GPU, before anything else is done with one; or return why that cannot be."""
    try:
        mesh.take_gpu()
        problem = gpu_problem() or ""
    except ParallelError as error:
        problem = error.cause
    except ImportError:  # CuPy, which takes them
        problem = gpu_problem() or ""
    problems = mesh.world.exchange(problem)
    if len(set(problems)) == 1:
        return problem
    return next(f"on rank {rank} {each}" for rank, each in enumerate(problems) if each)


def _links(gpus: list[str]) -> list[dict[str, Any]]:
    found = []
    for one, other in itertools.combinations(range(len(gpus)), 2):
        link = gpu_link(gpus[one], gpus[other])
        readable = link.readable if link else None
        kind = link.kind if link else ""
        found.append({"ranks": [one, other], "kind": kind, "readable": readable})
    return found


def _try(mesh: Mesh, path: str, offers: list[Offer], device: str) -> str:
    """Send something by a path; return what is wrong with it on some rank."""
    world, problem = mesh.world, ""
    try:
        comm = connect(world, choose(path, offers, world.size), offers, device)
        numbers = np.arange(_COUNT, dtype=np.float32)
        total = _put(numbers + comm.rank, device)
        comm.all_reduce(total)
        expected = comm.size * numbers + comm.size * (comm.size - 1) // 2
        if not np.array_equal(to_host(total), expected):
            problem = "its sums are wrong"
        last, following = ((comm.rank + step) % comm.size for step in (-1, 1))
        transfer = comm.start_send(_put(numbers + comm.rank, device), following)
        got = comm.receive(_put(np.zeros_like(numbers), device), last)
        transfer.wait()
        if not np.array_equal(to_host(got), numbers + last):
            problem = "its messages arrive changed"
    except LLMNumbaError as error:
        problem = error.cause
    return next(filter(None, world.exchange(problem)), "")


def _put(x: np.ndarray, device: str) -> Array:
    return x if device == "cpu" else to_device(x, device)


def main() -> None:
    """Meet the other ranks, and let rank 0 write what was found."""
    count = int(sys.argv[1])
    try:
        MPI = start_mpi(count)
        if MPI.COMM_WORLD.Get_size() == 1:
            raise strangers(Launched("The launcher", 0, count), MPI.Get_library_version())
        with Mesh(tp=count) as mesh:
            for fact in examine(mesh):
                if mesh.is_leader:
                    print(json.dumps(fact), flush=True)
    except LLMNumbaError as error:
        print(json.dumps({"error": error.cause, "remedy": error.remedy}), flush=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
