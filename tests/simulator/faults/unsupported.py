"""What the hardware does not have, or the simulator cannot know."""

import numpy as np
from llvmlite import ir
from numba import cuda, float32
from numba.cuda import types
from numba.cuda.extending import intrinsic

from .case import Case, ramp, zeros


@intrinsic
def nanoseconds(typingctx):
    """PTX of a stranger: nothing but its text says what it does."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(ir.InlineAsm(kind, "mov.u64 $0, %globaltimer;", "=l"), [])

    return types.int64(), codegen


root_of_another_library = cuda.declare_device("root_of_another_library", "float32(float32)")


@cuda.jit
def unknown_instruction(x, out):
    i = cuda.grid(1)
    started = nanoseconds()  # FAULT: there is no twin of it
    out[i] = x[i] + float32(0 * started)


@cuda.jit
def known_instructions(x, out):
    i = cuda.grid(1)
    out[i] = x[i]


@cuda.jit
def foreign_function(x, out):
    i = cuda.grid(1)
    out[i] = root_of_another_library(x[i])  # FAULT: its code is in an object file


@cuda.jit
def library_function(x, out):
    i = cuda.grid(1)
    out[i] = cuda.libdevice.sqrtf(x[i])


@cuda.jit
def tile_larger_than_static_memory(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array((128, 128), float32)  # FAULT: 64 KiB, where 48 can be static
    tile[t, t] = x[t]
    out[t] = tile[t, t]


@cuda.jit
def tile_within_static_memory(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array((64, 64), float32)
    tile[t, t] = x[t]
    out[t] = tile[t, t]


@cuda.jit
def array_made_in_the_kernel(x, out):
    i = cuda.grid(1)
    pair = np.zeros(2, np.float32)  # FAULT: a thread has no allocator
    pair[0] = x[i]
    out[i] = pair[0] + pair[1]


@cuda.jit
def local_array(x, out):
    i = cuda.grid(1)
    pair = cuda.local.array(2, float32)
    pair[0] = x[i]
    pair[1] = float32(0)
    out[i] = pair[0] + pair[1]


@cuda.jit
def tile_of_any_length(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(x.shape[0], float32)  # FAULT: the length is known too late
    tile[t] = x[t]
    out[t] = tile[t]


@cuda.jit
def tile_of_dynamic_length(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(0, float32)
    tile[t] = x[t]
    out[t] = tile[t]


@cuda.jit
def python_list(x, out):
    i = cuda.grid(1)
    seen = []
    for k in range(4):
        seen.append(x[i] * float32(k))  # FAULT: a list grows, a thread's memory does not
    out[i] = seen[3]


@cuda.jit
def running_value(x, out):
    i = cuda.grid(1)
    last = float32(0)
    for k in range(4):
        last = x[i] * float32(k)
    out[i] = last


CASES = (
    Case(
        "an instruction without a twin",
        unknown_instruction,
        known_instructions,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: x,
    ),
    Case(
        "a function of another library",
        foreign_function,
        library_function,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: np.sqrt(x),
    ),
    Case(
        "a tile larger than static shared memory",
        tile_larger_than_static_memory,
        tile_within_static_memory,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: x,
    ),
    Case(
        "an array made by NumPy",
        array_made_in_the_kernel,
        local_array,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: x,
    ),
    Case(
        "a tile whose length is an argument",
        tile_of_any_length,
        tile_of_dynamic_length,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: x,
        shared_bytes=128,
    ),
    Case(
        "a list",
        python_list,
        running_value,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: 3 * x,
    ),
)
