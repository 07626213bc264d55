"""Ctrl-C waits while the engine keeps its books.

Python raises KeyboardInterrupt between any two operations of the main thread, also between taking a
block from the free ones and noting who has it. Nearly all of a step's time is computing and
waiting, which Ctrl-C may end. What is written down before and behind them is written whole.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let Ctrl-C take effect at the end of the block.

    Where something else handles it, as servers do, and in threads that it never reaches, nothing
    changes.
    """
    usual = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if usual is not signal.default_int_handler or not is_main:
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *event: came.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if came:
            usual(*came[0])
