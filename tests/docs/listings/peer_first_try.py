import numpy as np
from numba import cuda, int32

from llm_numba.kernels import ptx
from llm_numba.simulator import SimulationError, simulate_devices

FLAGS, VALUES = 0, 1


@cuda.jit
def first_try(x, out, flags, counter, addresses, rank):
    """Add what two ranks have; a flag says how many calls its rank has begun."""
    t = cuda.threadIdx.x
    call = counter[0] + 1
    if t < 2:
        theirs = ptx.at_address(flags, addresses[FLAGS, t])
        ptx.store_release_system(theirs, rank, int32(call))
        while ptx.load_acquire_system(flags, t) < call:
            pass
    cuda.syncthreads()
    a = ptx.at_address(x, addresses[VALUES, 0])
    b = ptx.at_address(x, addresses[VALUES, 1])
    out[t] = a[t] + b[t]
    if t == 0:
        counter[0] = call


@cuda.jit
def next_layer(x, out):
    x[cuda.threadIdx.x] = 2 * out[cuda.threadIdx.x]


def two_ranks(launches_of):
    values, flags = np.ones((2, 64), np.float32), np.zeros((2, 2), np.int32)
    places = [array.ctypes.data + array.strides[0] * np.arange(2) for array in (flags, values)]
    addresses = np.array(places)
    outs = np.zeros((2, 64), np.float32)
    for rank in range(2):
        counter = np.zeros(1, np.int32)
        add = (values[rank], outs[rank], flags[rank], counter, addresses, rank)
        use = (values[rank], outs[rank].copy())
        yield [(first_try, 1, 64, add), (next_layer, 1, 64, use)][:launches_of]


for launches in (1, 2):
    try:
        simulate_devices(list(two_ranks(launches)), seed=0)
        print(f"{launches} launch: nothing is wrong")
    except SimulationError as fault:
        print(f"{launches} launches: {type(fault).__name__}: {fault}")
