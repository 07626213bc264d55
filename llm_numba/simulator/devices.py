"""Several devices at once, in memory that all of them see.

GPUs joined by NVLink read and write each other's memory while each runs kernels of its own. Here,
each device has a queue of launches, and a machine for the one that is under way. The machines take
turns, a step at a time. In the random schedule some devices are a thousand times as fast as others
for a while, and then it is others: whoever counts on a device to be in step with the next one is
found out. In the ordered schedule each device goes as far ahead as it can without the others.

Two launches of one queue are ordered, as on a stream: all that the first did comes before the
second. Launches of two queues are not, but for flags that are released and acquired for all devices
(``.sys`` in PTX); what is released for the own device only tells the others nothing.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    RaceError,
    SimulationError,
    UnsupportedError,
)
from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.layout import Device
from llm_numba.simulator.machine import Machine
from llm_numba.simulator.memory import Buffer
from llm_numba.simulator.observer import Observer
from llm_numba.simulator.order import Knowledge
from llm_numba.simulator.races import Conflict
from llm_numba.simulator.simulate import Task, random_order

# The fastest device's rate, as a power of 2 of the slowest's; steps until rates are drawn anew.
_RATES = 10
_STEPS_AT_A_RATE = 300


def simulate_devices(
    queues: Sequence[Iterable[tuple[Any, ...]]],
    *,
    schedule: str = "random",
    seed: int = 0,
) -> None:
    """Run the launches of several devices at the same time, looking for races.

    Parameters
    ----------
    queues : sequence of iterable of tuple
        For each device its launches, in order: kernel, grid, block and arguments as
        :func:`~llm_numba.simulator.simulate` takes them, and dynamic shared bytes if there are any.
        All blocks of a launch run together, for some may wait for those of another device.
    schedule : {"random", "ordered"}
    seed : int
        Of the random schedule.

    Raises
    ------
    SimulationError
        One of its subclasses, if a kernel does something wrong or cannot be simulated.
    """
    rng = random_order(schedule, seed)
    buffers: dict[int, Buffer] = {}
    tasks = [
        [
            Task.of_launch(*launch[:4], *(launch[4:] or (0,)), buffers, fine=rng is not None)
            for launch in queue
        ]
        for queue in queues
    ]
    for task in (task for queue in tasks for task in queue):
        if len(task.waves()) > 1:
            raise UnsupportedError(
                f"The {task.threads} threads of {task.kernel.name} are too many to run together.",
                "Launch fewer blocks: those of other devices may wait for each of them.",
            )
    with np.errstate(all="ignore"):
        _Devices(tasks, rng).run()


class _Shared:
    """What the observers of all launches share."""

    def __init__(self, threads: Sequence[int]) -> None:
        device_of = np.repeat(np.arange(len(threads)), threads)
        self.knowledge = Knowledge(len(device_of), 0, device_of)
        self.observers: list[_LaunchObserver] = []
        self.first_places: list[int] = []
        self.has_released = False


class _LaunchObserver(Observer):
    """Watches a launch, and knows of those before it and beside it."""

    def __init__(self, task: Task, shared: _Shared, threads: np.ndarray) -> None:
        super().__init__(task.kernel, costs=False, faults=True)
        self._shared = shared
        self._device_threads = threads
        if shared.observers:
            last = shared.observers[-1]
            self._first_place = last._first_place + len(last._kernel.locations)
        shared.observers.append(self)
        shared.first_places.append(self._first_place)

    def begin(self, machine: Machine) -> None:
        """Order what begins after all that was launched on the device before."""
        self._machine = machine
        self._knowledge = self._shared.knowledge
        self._knowledge.meet(self._device_threads)

    def access(self, lanes: Lanes, kind: str, *rest: Any) -> None:
        """Note an access, and whether another device may have waited for it."""
        self._shared.has_released |= kind in ("release.sys", "store.relaxed.sys")
        super().access(lanes, kind, *rest)

    def witness(self, conflict: Conflict) -> tuple[str, str, int]:
        """Name the thread that made the earlier of two accesses, maybe in another launch."""
        number = bisect_right(self._shared.first_places, conflict.place) - 1
        other = self._shared.observers[number]
        location = other._kernel.locations[conflict.place - other._first_place]
        return (other._machine.name(conflict.other), *location)


class _Devices:
    """The machines of all devices, and which of them goes on next."""

    def __init__(self, queues: list[list[Task]], rng: np.random.Generator | None) -> None:
        self._rng = rng
        self._queues = [iter(queue) for queue in queues]
        threads = [max((task.threads for task in queue), default=0) for queue in queues]
        self._first = np.cumsum([0, *threads])
        self._shared = _Shared(threads)
        self._running: dict[int, Machine] = {}
        # Devices that shall look whether what they wait for has come.
        self._news: set[int] = set()
        self._rates = np.ones(len(queues))
        self._steps = 0

    def run(self) -> None:
        """Run until all queues are empty."""
        for device in range(len(self._queues)):
            self._launch(device)
        while self._running:
            device = self._choose()
            machine = self._running[device]
            progress = machine.progress
            self._news.discard(device)
            try:
                goes_on = machine.step()
            except BarrierDivergenceError:
                raise
            except SimulationError:
                # What went wrong after wrong data had been read says less than that it was.
                self._raise_fault()
                raise
            if machine.progress != progress:
                self._tell_of_progress(device)
            if not goes_on:
                self._raise_fault()
                self._launch(device)

    def _launch(self, device: int) -> None:
        """Begin the next launch of a device, if there is one."""
        self._running.pop(device, None)
        task = next(self._queues[device], None)
        if task is None:
            return
        first, last = self._first[device : device + 2].tolist()
        observer = _LaunchObserver(task, self._shared, np.arange(first, last))
        blocks = task.waves()[0]
        name = Device(f"device {device}", first)
        machine = task.machine(blocks, observer, self._rng, [], name)
        observer.begin(machine)
        self._running[device] = machine
        self._news.add(device)

    def _choose(self) -> int:
        """Return a device that can do something.

        One that only waits is left alone until another releases a flag. If there is no other, all
        look, whatever it is that they wait for, until a machine says that it does so in vain.
        """
        devices = list(self._running)
        able = [
            each for each in devices if each in self._news or not self._running[each].is_stalled
        ]
        able = able or devices
        if self._rng is None:
            return able[0]
        if self._steps % _STEPS_AT_A_RATE == 0:
            self._rates = 2.0 ** self._rng.uniform(0, _RATES, len(self._rates))
        self._steps += 1
        ends = np.cumsum(self._rates[able])
        return able[int(np.searchsorted(ends, self._rng.random() * ends[-1], side="right"))]

    def _tell_of_progress(self, device: int) -> None:
        """Let those look again whom it may concern."""
        self._news.add(device)
        if self._shared.has_released:
            self._news.update(self._running)
            self._shared.has_released = False
        for other, machine in self._running.items():
            if other != device:
                machine.progress += 1

    def _raise_fault(self) -> None:
        """Raise what the observers have found, races first."""
        faults = [each.fault for each in self._shared.observers if each.fault is not None]
        if faults:
            raise min(faults, key=lambda fault: not isinstance(fault, RaceError))
