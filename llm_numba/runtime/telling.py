"""What a user may want to know of what was chosen, told once.

A product that takes a slower kernel gives the same numbers, so nothing shows. Whoever chooses such
a kernel tells why here, and a program that was asked to say more (``--verbose``) listens.
"""

import threading
from collections.abc import Callable, Hashable

Listener = Callable[[str], None]

_listener: Listener | None = None
_told: set[Hashable] = set()
_lock = threading.Lock()


def listen(listener: Listener | None) -> None:
    """Have a function told from now on, for all threads.

    Parameters
    ----------
    listener : callable or None
        Takes a sentence. None: nobody listens.
    """
    global _listener
    with _lock:
        _listener = listener
        _told.clear()


def tell(kind: Hashable, sentence: str) -> None:
    """Tell whoever listens, but of each kind only the first time.

    Parameters
    ----------
    kind : hashable
        What is not worth being said twice.
    sentence : str
    """
    with _lock:
        if _listener is None or kind in _told:
            return
        _told.add(kind)
        listener = _listener
    listener(sentence)
