"""Which launches may begin before the one before them has ended.

A kernel says so itself, with :func:`starts_early`, for only it can know what it does before it
waits. Whoever launches says whether it shall, with :func:`overlapping`: only they know that what a
kernel loads before it waits, its weights, was not written just now. A launch does it if both agree
and the GPU can. See :mod:`llm_numba.kernels.ptx.overlap` for the rules.
"""

import contextlib
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

# The name of what a kernel waits with.
WAIT = "await_previous_kernel"

_early: weakref.WeakSet[Any] = weakref.WeakSet()
_wanted: ContextVar[bool] = ContextVar("overlapping", default=False)


def starts_early(kernel: Any) -> Any:
    """Mark a kernel that waits for the kernel before it, and may begin before its end.

    Parameters
    ----------
    kernel : dispatcher
        A ``@cuda.jit`` kernel.

    Returns
    -------
    dispatcher
        The same.

    Raises
    ------
    ValueError
        If the kernel's own code nowhere calls ``ptx.await_previous_kernel()``.
    """
    if WAIT not in kernel.py_func.__code__.co_names:
        raise ValueError(f"{kernel.py_func.__name__} starts early and never calls {WAIT}")
    _early.add(kernel)
    return kernel


@contextlib.contextmanager
def overlapping(wanted: bool = True) -> Iterator[None]:
    """Let kernels that were marked begin before those before them have ended.

    In this block no kernel may write what a later one takes for constant: weights; and the KV
    cache, of which a decoding step writes the newest slots and nothing else. Holds for this thread
    (and asynchronous task) alone, and for graphs that are captured here.

    Parameters
    ----------
    wanted : bool
        False switches it off, also inside a block that switched it on.
    """
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def may_overlap() -> bool:
    """Tell whether launches may overlap here: which of two kernels to launch may depend on it."""
    return _wanted.get()


def begins_early(kernel: Any) -> bool:
    """Tell whether a launch of a kernel, here and now, may begin before the one before has ended.

    Parameters
    ----------
    kernel : dispatcher
    """
    return _wanted.get() and kernel in _early
