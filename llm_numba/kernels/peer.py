r"""Collectives between GPUs that see each other's memory: sums, gathering, and a fused norm.

.. math:: y = \sum_{p=0}^{P-1} x^{(p)} \qquad \text{on every rank}

x [n] is float32, float16 or bfloat16 in memory. Sums are made in float32, in the order of ranks,
and rounded once: all ranks get the same bits. Short vectors are *pushed*: each rank writes what it
has into the memory of all others, which wait for it there. Longer ones are fetched: each rank shows
what it has, in memory that the others have mapped. How ranks tell each other that something is
there, and when it may be overwritten, say :mod:`llm_numba.kernels.peer_lines` of the one and
:mod:`llm_numba.kernels.peer_team` of the other.

::

    push                         one-shot                       two-shot
      rank 0 sends a0 a1           rank 0 shows a0 a1             rank 0 shows a0 a1
      rank 1 sends b0 b1           rank 1 shows b0 b1             rank 1 shows b0 b1
      ---- each waits ----         ---- meet ------------         ---- meet ------------------
      rank 0: a0 + b0, a1 + b1     rank 0: a0 + b0, a1 + b1       rank 0: a0 + b0, shows it
      rank 1: a0 + b0, a1 + b1     rank 1: a0 + b0, a1 + b1       rank 1: a1 + b1, shows it
                                                                  ---- meet ------------------
                                                                  each fetches the other's sums

What a rank gets over the link, of n numbers of b bytes, and the trips over it that follow each
other:

==============  ========  =====  =========================================
collective      meetings  trips  bytes
==============  ========  =====  =========================================
push            0         1      :math:`2\, (P - 1)\, n b`
one-shot        1         3      :math:`(P - 1)\, n b`
two-shot        2         6      :math:`2 \tfrac{P - 1}{P}\, n b`
all-gather      1         3      :math:`(P - 1)\, n b`, of n numbers each
==============  ========  =====  =========================================

The sum takes P - 1 operations for each number: the link is the ceiling, and for short vectors the
time of the trips. With two ranks, one-shot moves no more than two-shot. What a tensor-parallel
layer does next, adding the residual stream and normalising, needs whole rows only, which a block
has that gets all of them: so for few rows it is done in the same kernel.

Sources: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH", 2005 (the sum in two steps); "PTX ISA", "Memory Consistency Model".
"""

import math
from typing import Any

import numpy as np

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.layernorm import add_rms_norm
from llm_numba.kernels.peer_lines import room_of_lines
from llm_numba.kernels.peer_push import (
    HELD,
    MOST_THREADS,
    most_row_threads,
    pushed,
    pushed_norm,
)
from llm_numba.kernels.peer_steps import gather, one_shot, two_shot
from llm_numba.kernels.peer_team import PeerLink
from llm_numba.kernels.rows import WARP, row_launch
from llm_numba.runtime import empty, empty_like, launch, storage_dtype

THREADS = 256
# Of a block that pushes, the fewest. Each has a packet, and few wait for few.
PUSH_THREADS = 64

# What a rank could fetch while it meets the others: a second meeting must save more. Between two
# H200s it took 4 us more, in which their link brings as much.
_MEETING_BYTES = 1024 * 1024
# What it could get in the time that pushing saves: two trips, and the fence before the flag. No
# more may be sent in excess. Between two H200s both took as long with some 800 KB.
_PUSHING_BYTES = 768 * 1024

_WORDS = {"float32": np.int32, "int32": np.int32, "int64": np.int32}
_HALFWORDS = {"float16": np.uint16, "bfloat16": np.uint16}


def all_reduce(x: Any, link: PeerLink, *, step: str | None = None, stream: Any = None) -> Any:
    """Add up an array over all ranks, in place.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [...]
        Of one shape and dtype on all ranks, and on all or none aligned to 16 bytes: which step is
        taken depends on it.
    link : PeerLink
        This rank's.
    step : {"push", "one_shot", "two_shot"}, optional
        By default the one that should take less time. What is pushed is whole packets of 16 bytes,
        aligned to as many, and has room in the link's lines.
    stream : optional
        By default the current one. All work with one link goes one after another: on one stream,
        or on some that wait for each other.

    Returns
    -------
    of shape and dtype of x
        `x`, with the same bits on all ranks.

    Raises
    ------
    KernelArgumentError
        If `x` has another dtype, layout or device, or there is no such step, or none for it.
    """
    checks.array("x", x, like=link.counters)
    flat = x.reshape(-1)
    if step is None:
        step = _shortest_step(flat, link)
    checks.choice("step", step, ("push", "one_shot", "two_shot"))
    if step == "push":
        if not _can_be_pushed(flat, link):
            raise KernelArgumentError(
                f"Argument 'x' of {x.nbytes:,} bytes cannot be pushed.",
                f"It must be packets of 16 bytes, aligned, up to {_room_to_push(link):,} of them; "
                "else take another step.",
            )
        _launch_push(flat, link, stream)
        return x
    kernel = (one_shot if step == "one_shot" else two_shot)(link.ranks)
    _launch(kernel, (flat,), link, ptx.is_aligned16(flat), stream)
    return x


def all_gather(x: Any, link: PeerLink, *, out: Any = None, stream: Any = None) -> Any:
    """Put the arrays of all ranks one after another.

    Parameters
    ----------
    x : float32, float16, bfloat16, int32 or int64 [n, ...]
        Of one shape and dtype on all ranks.
    link : PeerLink
        This rank's.
    out : of dtype of x [P n, ...], optional
        Where they go; shares no memory with x.
    stream : optional
        As of :func:`all_reduce`.

    Returns
    -------
    of dtype of x [P n, ...]
        `out`, rank 0's array first.

    Raises
    ------
    KernelArgumentError
        If an argument has another dtype, shape, layout or device.
    """
    kinds = _WORDS | _HALFWORDS
    checks.array("x", x, dtype=kinds, ndim=range(1, 33), like=link.counters)
    shape, kind = (link.ranks * x.shape[0], *x.shape[1:]), storage_dtype(x)
    if out is None:
        out = empty(shape, x.dtype, like=x)
    checks.array("out", out, dtype=kind, shape=shape, like=x)
    # The bytes are what is moved, whatever numbers they are.
    source, target = (each.reshape(-1).view(kinds[kind]) for each in (x, out))
    aligned = source.nbytes % 16 == 0 and all(map(ptx.is_aligned16, (source, target)))
    _launch(gather(link.ranks), (source, target), link, aligned, stream)
    return out


def all_reduce_norm(
    x: Any,
    residual: Any,
    weight: Any,
    eps: float,
    link: PeerLink,
    *,
    out: Any = None,
    total: Any = None,
    stream: Any = None,
) -> tuple[Any, Any]:
    """Add up over all ranks, add to the residual stream, and divide by the root mean square.

    One kernel does it if rows are whole packets of 16 bytes and not too long for a block, no more
    than there are teams, and short enough together to be pushed. Else :func:`all_reduce` and
    :func:`llm_numba.kernels.layernorm.add_rms_norm` do. The bits are the same: the sum over ranks
    is rounded to its dtype before the residual is added, whether it goes to memory or not.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [M, E]
        This rank's part of the sum. It may be overwritten. All arrays begin alike on all ranks, as
        :func:`all_reduce` asks it of one.
    residual : of shape and dtype of x
        The same on all ranks.
    weight : of the dtype of x [E]
    eps : float
        Added to the mean square.
    link : PeerLink
        This rank's.
    out : of shape and dtype of x, optional
        Where the normalised rows go; may be x itself.
    total : of shape and dtype of x, optional
        Where the sum goes; may be the residual itself.
    stream : optional
        As of :func:`all_reduce`.

    Returns
    -------
    normed : of shape and dtype of x
        `out`.
    total : of shape and dtype of x
        The sum, rounded to its dtype before it is normalised.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    kind = storage_dtype(x) if hasattr(x, "dtype") else None
    checks.array("x", x, ndim=2, like=link.counters)
    checks.array("residual", residual, shape=x.shape, dtype=kind, like=x)
    checks.array("weight", weight, shape=x.shape[1:], dtype=kind, like=x)
    eps = np.float32(checks.number("eps", eps, finite=True, at_least=0))
    out = empty_like(x) if out is None else out
    total = empty_like(x) if total is None else total
    for name, array in (("out", out), ("total", total)):
        checks.array(name, array, shape=x.shape, dtype=kind, like=x)
    rows, length = x.shape
    packets, rest = divmod(length, ptx.VECTOR[kind])
    whole = not rest and all(map(ptx.is_aligned16, (x, residual, weight, out, total)))
    most = min(HELD * most_row_threads(link.ranks), room_of_lines(link))
    has_room = packets <= most and rows <= link.calls.size
    if not (whole and has_room and push_is_shorter(x.nbytes, link.ranks)):
        all_reduce(x, link, stream=stream)
        return add_rms_norm(x, residual, weight, eps, out=out, total=total, stream=stream)
    _, (threads, _) = row_launch(rows, packets, HELD)
    flat = (x.reshape(-1), residual.reshape(-1), weight, eps, total.reshape(-1), out.reshape(-1))
    args = (*flat, *_lines_of(link))
    launch(pushed_norm(link.ranks), rows, threads, args, stream=stream)
    return out, total


def push_is_shorter(nbytes: int, ranks: int) -> bool:
    """Tell whether one trip with twice the bytes takes less time than a meeting and a fetch.

    Parameters
    ----------
    nbytes : int
        Of the vector.
    ranks : int
        P.

    Returns
    -------
    bool
    """
    return (ranks - 1) * nbytes <= _PUSHING_BYTES


def one_shot_is_shorter(nbytes: int, ranks: int) -> bool:
    """Tell whether one meeting with more bytes takes less time than two with fewer.

    Parameters
    ----------
    nbytes : int
        Of the vector.
    ranks : int
        P.

    Returns
    -------
    bool
    """
    return (ranks - 1) * (ranks - 2) / ranks * nbytes <= _MEETING_BYTES


def room_of(link: PeerLink, itemsize: int) -> int:
    """Return how many elements a team shows at a time.

    Parameters
    ----------
    link : PeerLink
    itemsize : int
        Bytes of an element.
    """
    return link.slots.size // (2 * link.counters.size * itemsize)


def _shortest_step(x: Any, link: PeerLink) -> str:
    if push_is_shorter(x.nbytes, link.ranks) and _can_be_pushed(x, link):
        return "push"
    return "one_shot" if one_shot_is_shorter(x.nbytes, link.ranks) else "two_shot"


def _can_be_pushed(x: Any, link: PeerLink) -> bool:
    is_whole = x.nbytes % 16 == 0 and ptx.is_aligned16(x)
    return is_whole and x.nbytes // 16 <= _room_to_push(link)


def _room_to_push(link: PeerLink) -> int:
    """Return how many packets a launch may push."""
    return link.calls.size * min(room_of_lines(link), HELD * MOST_THREADS)


def _launch_push(x: Any, link: PeerLink, stream: Any) -> None:
    """Share a vector out among the teams, a packet a thread if there are enough, and launch."""
    packets = x.nbytes // 16
    if not packets:
        return
    least = min(PUSH_THREADS, room_of_lines(link))
    share = max(least, math.ceil(packets / link.calls.size))
    held = math.ceil(share / MOST_THREADS)
    threads = WARP * math.ceil(share / (WARP * held))
    args = (x, *_lines_of(link), share)
    launch(pushed(link.ranks, held), math.ceil(packets / share), threads, args, stream=stream)


def _lines_of(link: PeerLink) -> tuple[Any, ...]:
    _check_ranks(link)
    return link.lines, link.calls, link.addresses, link.rank, room_of_lines(link)


def _check_ranks(link: PeerLink) -> None:
    if not 2 <= link.ranks <= 8:
        raise KernelArgumentError(
            f"Argument 'link' is of {link.ranks} ranks.", "It must be of 2 to 8."
        )


def _launch(kernel: Any, arrays: tuple, link: PeerLink, aligned: bool, stream: Any) -> None:
    """Share a vector out among the teams, and launch."""
    x = arrays[0]
    if not x.size:
        return
    width, most = 16 // x.itemsize, link.counters.size
    packets = math.ceil(x.size / width)
    share = width * max(THREADS, math.ceil(packets / most))
    scalars = (link.rank, room_of(link, x.itemsize), share, int(aligned))
    _check_ranks(link)
    shared = (link.slots.view(x.dtype), link.flags, link.counters, link.addresses)
    args = (*arrays, *shared, *scalars)
    launch(kernel, math.ceil(x.size / share), THREADS, args, stream=stream)
