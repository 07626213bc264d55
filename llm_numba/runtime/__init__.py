"""The lowest floor: devices, arrays, launches, number formats, memory."""

from llm_numba.runtime.arena import Arena
from llm_numba.runtime.arrays import (
    Array,
    empty,
    empty_like,
    is_device_array,
    kernel_view,
    kind_of,
    storage_dtype,
    to_device,
    to_host,
    upload,
    write_to,
    zeros,
)
from llm_numba.runtime.beside import SideStream, side_stream
from llm_numba.runtime.device import (
    gpu_is_lost,
    gpu_problem,
    has_capability,
    is_architecture,
    kernel_device,
    resolve_device,
    resolve_dtype,
    simulation_requested,
    stands_for,
    use_gpu,
    visible_gpus,
)
from llm_numba.runtime.graphs import Graph, by_host, capture
from llm_numba.runtime.launch import Launch, compiling_only, intercept, launch, launch_all
from llm_numba.runtime.memory import available_memory, gpu_memory, reserve_gpu_memory
from llm_numba.runtime.overlap import may_overlap, overlapping, starts_early
from llm_numba.runtime.telling import listen, tell
from llm_numba.runtime.tensor_maps import tensor_map
from llm_numba.runtime.together import starts_together
from llm_numba.runtime.transfers import DoubleBuffer, Download

__all__ = [
    "Arena",
    "Array",
    "DoubleBuffer",
    "Download",
    "Graph",
    "Launch",
    "SideStream",
    "available_memory",
    "by_host",
    "capture",
    "compiling_only",
    "empty",
    "empty_like",
    "gpu_is_lost",
    "gpu_memory",
    "gpu_problem",
    "has_capability",
    "intercept",
    "is_architecture",
    "is_device_array",
    "kernel_device",
    "kernel_view",
    "kind_of",
    "launch",
    "launch_all",
    "listen",
    "may_overlap",
    "overlapping",
    "reserve_gpu_memory",
    "resolve_device",
    "resolve_dtype",
    "side_stream",
    "simulation_requested",
    "stands_for",
    "starts_early",
    "starts_together",
    "storage_dtype",
    "tell",
    "tensor_map",
    "to_device",
    "to_host",
    "upload",
    "use_gpu",
    "visible_gpus",
    "write_to",
    "zeros",
]
