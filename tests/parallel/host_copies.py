"""Lanes without a GPU: pieces that a core copies, at once or as late as it is allowed to."""

import ctypes

import numpy as np

from llm_numba.parallel.lanes import Copies, LaneLayout
from llm_numba.parallel.shared import SharedCommunicator


class HostCopies(Copies):
    """Copies that have ended when they begin."""

    def address(self, array):
        return array.ctypes.data

    def when_ready(self):
        return lambda: True

    def start(self, to, source, num_bytes):
        ctypes.memmove(to, source, num_bytes)
        return lambda: True


class LateCopies(HostCopies):
    """Copies that are made at any time until they have ended, and queued work that takes time."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def when_ready(self):
        left = iter(range(self._rng.integers(4)))
        return lambda: next(left, None) is None

    def start(self, to, source, num_bytes):
        left, at = int(self._rng.integers(4)), int(self._rng.integers(4))

        def has_ended():
            nonlocal left
            if left == min(at, left):
                ctypes.memmove(to, source, num_bytes)
            left -= 1
            return left < 0

        return has_ended


class HostLanes(SharedCommunicator):
    """Ranks whose arrays of the host go through lanes, which are short and narrow."""

    layout = LaneLayout(slots=3, piece_bytes=10_000)
    carried = "host"

    def _made(self, end, memory):
        return end(memory, self.layout, HostCopies())
