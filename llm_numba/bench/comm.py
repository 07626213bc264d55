"""``mpirun -n 4 llm-numba bench comm``: what it costs ranks to talk, by operation and size.

All ranks run this together. A sample is the time of some calls in a row on the rank that took
longest, after all have met. Beside the operations stands a copy of the same array within a rank's
memory, all ranks at once: what passes through main memory cannot be faster.

On GPUs what a graph can hold is measured in one: calls that follow each other on the stream, and no
host between them. There are no more of them than a decoding step has: in a graph of hundreds each
of NCCL's calls was seen to take longer.

The *bus bytes* of an operation are what each rank must send if nothing is sent twice; over the time
they give a bandwidth to compare with a link's.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.parallel import Communicator
from llm_numba.runtime import Array, capture, empty_like, zeros

_FLOAT32_BYTES = 4
_MOST_CALLS = 1000
_MOST_IN_A_GRAPH = 64  # a model of 32 layers sums 65 times a step


@dataclass(frozen=True)
class CommSettings:
    """What to run.

    Attributes
    ----------
    ranks : int
        P.
    samples, warmup : int
        Counted and uncounted samples of each operation and size.
    seconds : float
        What a sample should take: short operations are repeated in it.
    sizes : tuple of int
        Bytes of the arrays, multiples of 4.
    device : {"cpu", "cuda"}
        Where they lie.
    """

    ranks: int
    samples: int = 21
    warmup: int = 3
    seconds: float = 0.02
    sizes: tuple[int, ...] = tuple(4**k for k in range(3, 13))
    device: str = "cpu"

    def to_json(self) -> dict:
        """Return the settings as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class _Operation:
    """How an operation is called on an array, and how often its bytes must be sent by a rank.

    One with an `out` gets a second array, for what comes: to allocate it is no part of a message.
    """

    what: str
    call: Callable[..., object]
    sent: Callable[[int], float]
    out: bool = False


def _pass_on(comm: Communicator, x: Array, out: Array) -> None:
    coming = comm.start_receive(out, (comm.rank - 1) % comm.size)
    going = comm.start_send(x, (comm.rank + 1) % comm.size)
    coming.wait()
    going.wait()


# Objects, which travel over MPI; messages, which have streams of their own; and what takes its
# memory from where a graph cannot keep it.
_NOT_IN_A_GRAPH = ("tell", "barrier", "send", "copy")

# Sizes are those of the whole array: what all_reduce gets, all_gather returns and
# reduce_scatter takes.
_OPERATIONS = {
    "copy": _Operation("copy in memory", lambda comm, x: x.copy(), lambda P: 0.0),
    "send": _Operation("to the next rank", _pass_on, lambda P: 1.0, out=True),
    "broadcast": _Operation("broadcast", lambda comm, x: comm.broadcast(x), lambda P: 1.0),
    "all_gather": _Operation(
        "all_gather",
        lambda comm, x: comm.all_gather(x[: x.size // comm.size]),
        lambda P: (P - 1) / P,
    ),
    "reduce_scatter": _Operation(
        "reduce_scatter",
        lambda comm, x: comm.reduce_scatter(x[: x.size // comm.size * comm.size]),
        lambda P: (P - 1) / P,
    ),
    # Of zeros: the sums of many calls stay what they are.
    "all_reduce": _Operation(
        "all_reduce", lambda comm, x: comm.all_reduce(x), lambda P: 2 * (P - 1) / P
    ),
}


def measure(comm: Communicator, settings: CommSettings) -> Iterator[Result]:
    """Run the benchmark on all ranks together.

    Parameters
    ----------
    comm : Communicator
    settings : CommSettings

    Yields
    ------
    Result
        The same on all ranks, as soon as it is measured.
    """
    message = {"tokens": list(range(8))}
    yield _result(comm, settings, "tell", "a small object", 0, lambda: comm.tell(message), 0.0)
    yield _result(comm, settings, "barrier", "barrier", 0, comm.barrier, 0.0)
    for name, operation in _OPERATIONS.items():
        for size in settings.sizes:
            x = zeros(size // _FLOAT32_BYTES, np.float32, settings.device)
            arrays = (x, empty_like(x)) if operation.out else (x,)
            yield _result(
                comm,
                settings,
                name,
                f"{operation.what}, {size:,} bytes",
                size,
                lambda arrays=arrays, operation=operation: operation.call(comm, *arrays),
                operation.sent(comm.size) * size,
            )


def _result(
    comm: Communicator,
    settings: CommSettings,
    name: str,
    what: str,
    size: int,
    work: Callable[[], object],
    sent: float,
) -> Result:
    single = _timed(work, 1, settings.device)
    single()  # the first compiles
    once = max(comm.exchange(single()))
    in_graph = settings.device == "cuda" and comm.captures and name not in _NOT_IN_A_GRAPH
    most = _MOST_IN_A_GRAPH if in_graph else _MOST_CALLS
    calls = max(1, min(most, int(settings.seconds / once)))
    several = _timed(work, calls, settings.device, in_graph)
    samples = []
    for _ in range(settings.warmup + settings.samples):
        comm.barrier()
        samples.append(1e6 * max(comm.exchange(several())) / calls)
    suffix = f"/bytes={size}" if size else ""
    return Result(
        f"{comm.name}/ranks={comm.size}/{name}{suffix}",
        f"{what}, by {comm.name}",
        summarize(samples[settings.warmup :], "µs", warmup=settings.warmup),
        {"path": comm.name, "operation": name, "ranks": comm.size, "bytes": size,
         "bus_bytes": sent, "calls": calls, "in_graph": in_graph},
    )  # fmt: skip


def _timed(
    work: Callable[[], object], calls: int, device: str, in_graph: bool = False
) -> Callable[[], float]:
    """Return what does the work so many times, and returns the seconds until all of it is done."""

    def all_calls() -> None:
        for _ in range(calls):
            work()

    run = capture(all_calls).launch if in_graph else all_calls

    def seconds() -> float:
        begin = time.perf_counter()
        run()
        if device == "cuda":
            import cupy

            cupy.cuda.get_current_stream().synchronize()
        return time.perf_counter() - begin

    return seconds
