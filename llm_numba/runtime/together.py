"""Launches whose blocks wait for each other, so that all of them must be resident at a time.

A block that waits for one that has not begun waits for ever, if the other needs its place. Such a
kernel says so with :func:`starts_together`. Its launches are *cooperative*: the driver refuses one
that does not fit, and begins no block before there is room for all.

Source: "CUDA C++ Programming Guide", "Grid Synchronization"; the driver's
``CU_LAUNCH_ATTRIBUTE_COOPERATIVE``.
"""

import weakref
from typing import Any

_together: weakref.WeakSet[Any] = weakref.WeakSet()


def starts_together(kernel: Any) -> Any:
    """Mark a kernel whose blocks wait for each other.

    Parameters
    ----------
    kernel : dispatcher
        A ``@cuda.jit`` kernel.

    Returns
    -------
    dispatcher
        The same.
    """
    _together.add(kernel)
    return kernel


def must_start_together(kernel: Any) -> bool:
    """Tell whether a kernel was marked.

    Parameters
    ----------
    kernel : dispatcher
    """
    return kernel in _together
