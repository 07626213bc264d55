"""What rank 0 says to the other ranks, step by step, and how long they go the same way."""

import contextlib
from collections.abc import Iterator
from typing import Any

from llm_numba.engine import interrupts
from llm_numba.errors import ParallelError
from llm_numba.parallel import Communicator


class Leader:
    """Rank 0 towards the ranks that follow it.

    Parameters
    ----------
    world : Communicator
        All ranks.
    """

    def __init__(self, world: Communicator) -> None:
        self._world = world
        self._is_open = True
        self._has_parted = False  # ranks are at different places of the program

    @property
    def is_followed(self) -> bool:
        """Whether the other ranks are there, and at the same place."""
        return self._is_open and not self._has_parted

    def check(self) -> None:
        """Refuse to begin a step that nobody follows.

        Raises
        ------
        ParallelError
        """
        if not self._is_open:
            raise ParallelError("The other ranks were let go.", "Make a new LLM on all ranks.")
        if self._has_parted:
            raise ParallelError(
                "A step failed on some of the ranks, and they are at different places now.",
                "Start all ranks again.",
            )

    @contextlib.contextmanager
    def together(self, told: Any = None) -> Iterator[None]:
        """Do what other ranks do, too: it is whole, or the ranks have parted.

        Parameters
        ----------
        told : object, optional
            What the others must know to do it.
        """
        with interrupts.deferred():
            self._has_parted = True
            if told is not None:
                self._world.tell(told)
            yield
            self._has_parted = False

    def let_go(self) -> None:
        """Let the other ranks go; nothing if they were, or if they cannot be reached any more."""
        if self.is_followed:
            self._is_open = False
            self._world.tell(None)
