"""A simulator that runs `numba.cuda` kernels without a GPU and explains what they cost."""

from llm_numba.simulator.devices import simulate_devices
from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    DeadlockError,
    DescriptorError,
    KernelAssertionError,
    OutOfBoundsError,
    ProxyError,
    RaceError,
    SimulationError,
    UninitializedReadError,
    UnsupportedError,
)
from llm_numba.simulator.report import ArrayReport, LineReport, Report, Request
from llm_numba.simulator.simulate import simulate
from llm_numba.simulator.twins import twin

__all__ = [
    "ArrayReport",
    "BarrierDivergenceError",
    "DeadlockError",
    "DescriptorError",
    "KernelAssertionError",
    "LineReport",
    "OutOfBoundsError",
    "ProxyError",
    "RaceError",
    "Report",
    "Request",
    "SimulationError",
    "UninitializedReadError",
    "UnsupportedError",
    "simulate",
    "simulate_devices",
    "twin",
]
