"""Who knows what of whom: the order that barriers, fences and flags make between threads.

Each thread counts its own steps with a clock that ticks when it passes on what it did. What a
thread knows is a vector: for every other thread, up to which tick all its accesses come before what
this one does next (vector clocks; Lamport 1978, Mattern 1989; used to find races as in FastTrack,
Flanagan and Freund 2009). Threads that met at a barrier know the same, so they share one vector.
"""

from typing import Any, NamedTuple

import numpy as np

# Beside twice as many as are held: those that nobody holds any more are thrown away together.
_SPARE_VECTORS = 64


class _Flag(NamedTuple):
    """What was published with a flag, by a thread of which device, and whether for all devices."""

    known: np.ndarray
    device: int
    everywhere: bool


class Knowledge:
    """Vector clocks of the resident threads.

    Parameters
    ----------
    threads : int
        How many are resident.
    first : int
        The number of the first of them in the whole grid. Threads of blocks that ran before are
        ordered with nobody.
    device_of : int [threads], optional
        The device of each; by default all are on one.

    Attributes
    ----------
    clock : int32 [threads]
        Each thread's present tick.
    """

    def __init__(self, threads: int, first: int, device_of: np.ndarray | None = None) -> None:
        self.threads = threads
        self.first = first
        self._device_of = device_of
        self.clock = np.ones(threads, np.int32)
        nothing = np.zeros(threads, np.int32)
        self._vectors: dict[int, np.ndarray] = {0: nothing}
        self._held = np.zeros(threads, np.int64)  # which vector each thread holds
        self._next = 1
        self._most_vectors = _SPARE_VECTORS
        # What a thread's last fence made ready to publish, and what flags told it.
        self._published: dict[int, np.ndarray] = {}
        self._heard: dict[int, np.ndarray] = {}
        self._flags: dict[tuple[int, int], _Flag] = {}
        # Of fences for the async proxy: at which tick each thread had one; 0 if it did not.
        self._proxy_fences: list[np.ndarray] = []

    def are_apart(self, threads: np.ndarray, others: np.ndarray) -> Any:
        """Tell which threads are on another device than others, as for :meth:`knows`."""
        if self._device_of is None:
            return False
        return self._device_of[threads] != self._device_of[others]

    def knows(self, threads: np.ndarray, others: np.ndarray, ticks: np.ndarray) -> np.ndarray:
        """Tell which accesses come before what some threads do now.

        Parameters
        ----------
        threads, others : int [n]
            Who asks, and about whom; numbered through the whole grid.
        ticks : int [n]
            The other's tick at the access.

        Returns
        -------
        bool [n]
        """
        held = self._held[threads - self.first]
        if (held == held[0]).all() and (others >= self.first).all():
            known = self._vectors[int(held[0])][others - self.first] >= ticks
            return known | (threads == others)
        resident = others >= self.first
        place = np.where(resident, others - self.first, 0)
        known = np.empty(len(threads), bool)
        for vector in np.unique(held):
            same = held == vector
            known[same] = self._vectors[int(vector)][place[same]] >= ticks[same]
        return known & resident | (threads == others)

    def _what(self, thread: int) -> np.ndarray:
        """Return all that a thread knows, itself included."""
        vector = self._vectors[int(self._held[thread])].copy()
        vector[thread] = self.clock[thread]
        return vector

    def _teach(self, threads: Any, vector: np.ndarray) -> None:
        self._vectors[self._next] = vector
        self._held[threads] = self._next
        self._next += 1
        if len(self._vectors) > self._most_vectors:
            used = set(np.unique(self._held).tolist())
            self._vectors = {key: self._vectors[key] for key in used}
            self._most_vectors = 2 * len(used) + _SPARE_VECTORS

    def meet(self, threads: np.ndarray) -> None:
        """Let threads come together at a barrier: each learns all that the others know."""
        vectors = [self._vectors[int(key)] for key in np.unique(self._held[threads])]
        everything = vectors[0].copy() if len(vectors) == 1 else np.maximum.reduce(vectors)
        everything[threads] = np.maximum(everything[threads], self.clock[threads])
        if self._heard:
            for thread in threads.tolist():
                heard = self._heard.pop(thread, None)
                if heard is not None:
                    np.maximum(everything, heard, out=everything)
        if self._published:
            for thread in threads.tolist():
                # A barrier orders like a fence: what it taught may be published too.
                if thread in self._published:
                    self._published[thread] = everything
        self.clock[threads] += 1
        self._teach(threads, everything)

    def fence(self, threads: np.ndarray) -> None:
        """Order what threads did before against the flags they write, and what they read after."""
        for thread in threads.tolist():
            heard = self._heard.pop(thread, None)
            if heard is not None:
                self._teach(thread, np.maximum(self._what(thread), heard))
            self._published[thread] = self._what(thread)
            self.clock[thread] += 1

    def release(
        self, threads: np.ndarray, buffer: int, cells: np.ndarray, everywhere: bool = False
    ) -> None:
        """Let threads publish with a flag all that they know: a store with release semantics.

        Parameters
        ----------
        threads : int [n]
        buffer : int
            Names the memory.
        cells : int [n]
            The flags' places there.
        everywhere : bool
            Whether for all devices; else for threads of the same one.
        """
        for thread, cell in zip(threads.tolist(), cells.tolist(), strict=True):
            self._flags[buffer, cell] = _Flag(self._what(thread), self._home(thread), everywhere)
            self.clock[thread] += 1

    def acquire(
        self, threads: np.ndarray, buffer: int, cells: np.ndarray, everywhere: bool = False
    ) -> None:
        """Let threads learn what was published with a flag: a load with acquire semantics.

        What comes from another device is learnt only if the store and the load were for all.
        """
        for thread, cell in zip(threads.tolist(), cells.tolist(), strict=True):
            known = self._published_for(thread, (buffer, cell), everywhere)
            if known is not None and (known > self._vectors[int(self._held[thread])]).any():
                self._teach(thread, np.maximum(self._what(thread), known))

    def publish(self, thread: int) -> np.ndarray:
        """Return all that a thread knows, for whoever it tells; what it does next is not in it."""
        vector = self._what(thread)
        self.clock[thread] += 1
        return vector

    def learn(self, threads: np.ndarray, vector: np.ndarray) -> None:
        """Let threads know what somebody told them."""
        for held in np.unique(self._held[threads]).tolist():
            known = self._vectors[held]
            if (vector > known).any():
                same = threads[self._held[threads] == held]
                self._teach(same, np.maximum(known, vector))

    def fence_proxy(self, threads: np.ndarray) -> None:
        """Make what threads did before ready to be read by the async proxy."""
        if not self._proxy_fences or self._proxy_fences[-1][threads].any():
            self._proxy_fences.append(np.zeros(self.threads, np.int32))
        self._proxy_fences[-1][threads] = self.clock[threads]
        self.clock[threads] += 1

    def is_fenced(self, threads: np.ndarray, others: np.ndarray, ticks: np.ndarray) -> np.ndarray:
        """Tell which writes were fenced by those who made them, so that some threads know of it.

        Parameters
        ----------
        threads, others : int [n]
            Whose async proxy reads, and who wrote; numbered as for :meth:`knows`.
        ticks : int [n]
            The other's tick at the write.

        Returns
        -------
        bool [n]
        """
        fenced = np.zeros(len(threads), bool)
        for fences in reversed(self._proxy_fences):
            left = np.flatnonzero(~fenced)
            if not len(left):
                break
            fence = fences[others[left] - self.first]
            behind = fence >= ticks[left]
            later = left[behind]
            if len(later):
                fenced[later] = self.knows(threads[later], others[later], fence[behind])
        return fenced

    def _home(self, thread: int) -> int:
        return 0 if self._device_of is None else int(self._device_of[thread])

    def _published_for(
        self, thread: int, place: tuple[int, int], everywhere: bool
    ) -> np.ndarray | None:
        """Return what a flag tells a thread; None if nothing."""
        flag = self._flags.get(place)
        if flag is None or not (
            flag.device == self._home(thread) or (flag.everywhere and everywhere)
        ):
            return None
        return flag.known

    def touch_flag(self, threads: np.ndarray, buffer: int, cells: np.ndarray) -> None:
        """Let threads read and write flags atomically: they hear what was published there.

        Atomic operations are for threads of the same device.
        """
        if not self._published and not self._flags:
            return
        for thread, cell in zip(threads.tolist(), cells.tolist(), strict=True):
            flag = (buffer, cell)
            known = self._published_for(thread, flag, everywhere=False)
            if known is not None:
                heard = self._heard.get(thread)
                self._heard[thread] = known if heard is None else np.maximum(known, heard)
            published = self._published.get(thread)
            if published is not None:
                everything = published if known is None else np.maximum(known, published)
                self._flags[flag] = _Flag(everything, self._home(thread), False)
