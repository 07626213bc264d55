"""``llm-numba profile``: where the time of one step goes, operation by operation.

The step is what the engine's graphs are made of: the forward pass, the logits and the choice of the
likeliest token. :func:`llm_numba.ops.watch` tells which operations it consists of,
:func:`llm_numba.runtime.intercept` which launches these are, and the shapes of the operands how
many bytes each must move. On a GPU the launches run as one CUDA graph. Its time is taken when
nobody watches; the kernels' own times come from CUPTI in further replays (:mod:`.cupti`). By its
records a kernel begins as soon as the one before has ended; but that begin is where the GPU takes
up the launch. A kernel that does nothing takes its time too, and this price of a launch is measured
and told apart. On a CPU each operation is timed by the wall clock, and what is between them is
Python.
"""

from dataclasses import dataclass

from llm_numba.bench.profile_clocks import GPUClock, Recorded, Span, WallClock, record
from llm_numba.bench.profile_inputs import prepared_step
from llm_numba.bench.profile_traffic import (
    Landmarks,
    StepShape,
    Traffic,
    flops_of,
    name_of,
    traffic_of,
)
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder
from llm_numba.runtime import overlapping


@dataclass(frozen=True)
class Operation:
    """One operation of a step.

    Attributes
    ----------
    name : str
        Of the operation, ``"linear"``.
    weight : str
        What it multiplies by or looks up, ``"qkv"``; may be empty.
    layer : int or None
    traffic : Traffic
        The fewest bytes that it must move.
    flops : int
    kernels : tuple of str
        That it launched; empty on a CPU.
    spans : tuple of (float, float)
        Begin and end of each kernel, or of the operation itself on a CPU, in seconds from the
        begin of the step.
    """

    name: str
    weight: str
    layer: int | None
    traffic: Traffic
    flops: int
    kernels: tuple[str, ...]
    spans: tuple[Span, ...]

    @property
    def label(self) -> str:
        """What it is called in tables: operation and weight."""
        return f"{self.name} {self.weight}".strip()

    @property
    def seconds(self) -> float:
        """That its kernels run, gaps between them not counted."""
        return sum(end - begin for begin, end in self.spans)


@dataclass(frozen=True)
class Profile:
    """Where the time of a step went.

    Attributes
    ----------
    phase : {"decode", "prefill"}
    shape : StepShape
    operations : list of Operation
        In the order in which they ran.
    seconds : float
        Of the whole step while nobody watched: the median of some runs.
    launch_seconds : float
        Of a kernel that does nothing, in a graph of such; 0 on a CPU.
    engine_seconds : float or None
        Of a step of the engine, with all that the host does about it; None if not measured.
    """

    phase: str
    shape: StepShape
    operations: list[Operation]
    seconds: float
    launch_seconds: float = 0.0
    engine_seconds: float | None = None

    @property
    def traffic(self) -> Traffic:
        """The fewest bytes that the step must move."""
        return sum((each.traffic for each in self.operations), Traffic())

    @property
    def kernel_seconds(self) -> float:
        """That some kernel ran."""
        return sum(each.seconds for each in self.operations)

    def parts(self, bytes_per_second: float) -> dict[str, float]:
        """Divide the step's time.

        Parameters
        ----------
        bytes_per_second : float
            The memory's speed, as a copy reaches it.

        Returns
        -------
        dict of str to float
            Seconds: what reading the weights and the keys and values takes at that speed, what
            launching as many kernels takes that do nothing (not on a CPU), what the kernels take
            beyond that, the gaps between them, and what the host adds to it, if that was measured.
            A negative figure is one that others hide.
        """
        moved = self.traffic
        known = {
            "weights": moved.weights / bytes_per_second,
            "kv": moved.kv / bytes_per_second,
        }
        if kernels := sum(len(each.kernels) for each in self.operations):
            known["launches"] = self.launch_seconds * kernels
        parts = known | {
            "rest of the kernels": self.kernel_seconds - sum(known.values()),
            "gaps": self.seconds - self.kernel_seconds,
        }
        if self.engine_seconds is not None:
            parts["host"] = self.engine_seconds - self.seconds
        return parts


def profile_step(
    model: Decoder,
    kv_cache: PagedKVCache,
    shape: StepShape,
    clock: GPUClock | WallClock,
) -> Profile:
    """Profile one step of a model.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
        On its device, with enough free blocks.
    shape : StepShape
    clock : GPUClock or WallClock
        The one of the model's device.
    """
    # Steps that decode are the ones whose kernels may.
    overlap = shape.new_tokens == 1 and model.execution.overlap_launches
    with prepared_step(model, kv_cache, shape) as step, overlapping(overlap):
        step()  # compiles
        if isinstance(clock, WallClock):
            seconds, recorded = clock.time(step)
            spans = [[each.span] for each in recorded]
        else:
            recorded = record(step, launch=False)
            launches = [launch for each in recorded for launch in each.launches]
            seconds, times = clock.time(launches)
            rest = iter(times)
            spans = [[next(rest) for _ in each.launches] for each in recorded]
        landmarks = Landmarks(model, kv_cache)
        operations = [
            _operation(each, landmarks, shape, tuple(when))
            for each, when in zip(recorded, spans, strict=True)
        ]
    phase = "decode" if shape.new_tokens == 1 else "prefill"
    return Profile(phase, shape, operations, seconds, clock.launch_seconds)


def _operation(
    recorded: Recorded, landmarks: Landmarks, shape: StepShape, spans: tuple[Span, ...]
) -> Operation:
    call = recorded.call
    weight, layer = name_of(call, landmarks)
    return Operation(
        call.name,
        weight,
        layer,
        traffic_of(call, recorded.result, landmarks, shape),
        flops_of(call, shape),
        tuple(launch.kernel.py_func.__name__ for launch in recorded.launches),
        spans,
    )
