"""The instructions that Python has no word for, in one place: all the PTX of the kernels.

Each is one function for use inside a kernel, made of LLVM or of PTX itself. Its docstring names
the instruction and the least compute capability that has it. Beside it stands its *twin*: what
the instruction does, in NumPy, for the simulator.

=========================================  ==================================================
:mod:`~llm_numba.kernels.ptx.elements`     float32, float16 and bfloat16: widen and round
:mod:`~llm_numba.kernels.ptx.vectors`      16 bytes at once: load and store
:mod:`~llm_numba.kernels.ptx.quads`        four numbers at once, of any storage format
:mod:`~llm_numba.kernels.ptx.pairs`        two neighbours at once: store
:mod:`~llm_numba.kernels.ptx.streams`      the same with hints to the caches, or as raw words
:mod:`~llm_numba.kernels.ptx.copies`       16 bytes into shared memory while the thread goes on
:mod:`~llm_numba.kernels.ptx.flags`        words with which blocks hand work to each other
:mod:`~llm_numba.kernels.ptx.peers`        arrays in the memory of other GPUs
:mod:`~llm_numba.kernels.ptx.lines`        words that say which call they belong to
:mod:`~llm_numba.kernels.ptx.clusters`     blocks that write into each other's shared memory
:mod:`~llm_numba.kernels.ptx.narrow`       two float32 as two bytes: e4m3, int8
:mod:`~llm_numba.kernels.ptx.overlap`      kernels that begin before the one before has ended
:mod:`~llm_numba.kernels.ptx.special`      powers of 2 and reciprocals, approximately
:mod:`~llm_numba.kernels.ptx.formats`      numbers that tensor cores multiply
:mod:`~llm_numba.kernels.ptx.tensor`       tensor cores: 16 rows by 8 columns, by a warp
:mod:`~llm_numba.kernels.ptx.matrices`     fragments for them, out of shared memory and back
:mod:`~llm_numba.kernels.ptx.warpgroups`   tensor cores of sm_90a: 64 rows, out of shared memory
:mod:`~llm_numba.kernels.ptx.barriers`     barriers that count threads, and bytes on their way
:mod:`~llm_numba.kernels.ptx.bulk`         tiles that the copy engine brings to those barriers
:mod:`~llm_numba.kernels.ptx.bulk_sums`    tiles that it adds, or fetches ahead of time
:mod:`~llm_numba.kernels.ptx.multicast`    tiles for all blocks of a cluster
:mod:`~llm_numba.kernels.ptx.clocks`       cycles and nanoseconds, for measuring
:mod:`~llm_numba.kernels.ptx.words`        quotients in 32 bits
:mod:`~llm_numba.kernels.ptx.warps`        two numbers combined; a warp's integers reduced
=========================================  ==================================================

What older GPUs do in place of an instruction that they lack is chosen in
:mod:`~llm_numba.kernels.ptx.target`.
"""

from llm_numba.kernels.ptx.barriers import (
    barrier_sync,
    fence_async,
    mbarrier_arrive,
    mbarrier_expect,
    mbarrier_init,
    mbarrier_test,
)
from llm_numba.kernels.ptx.bulk import bulk_commit, bulk_wait, parameter, tma_load_2d, tma_store_2d
from llm_numba.kernels.ptx.bulk_sums import prefetch_map, tma_prefetch_2d, tma_reduce_add_2d
from llm_numba.kernels.ptx.clocks import cycles, nanoseconds
from llm_numba.kernels.ptx.clusters import (
    cluster_arrive,
    cluster_load16,
    cluster_rank,
    cluster_store,
    cluster_sync,
    cluster_wait,
)
from llm_numba.kernels.ptx.copies import (
    cp_async16,
    cp_async16_or_zeros,
    cp_async_commit,
    cp_async_wait,
)
from llm_numba.kernels.ptx.elements import from_float, to_float, widen
from llm_numba.kernels.ptx.flags import (
    add_acq_rel,
    add_release,
    load_acquire,
    load_acquire_system,
    store_release,
    store_release_system,
)
from llm_numba.kernels.ptx.formats import e4m3, e5m2, tf32
from llm_numba.kernels.ptx.lines import load_line, store_line
from llm_numba.kernels.ptx.matrices import ldmatrix_x4, ldmatrix_x4_trans, stmatrix_x4
from llm_numba.kernels.ptx.multicast import (
    fence_barriers,
    mbarrier_arrive_at,
    tma_multicast_2d,
)
from llm_numba.kernels.ptx.narrow import to_e4m3_pair, to_int8_pair
from llm_numba.kernels.ptx.overlap import (
    await_previous_kernel,
    release_next_kernel,
)
from llm_numba.kernels.ptx.pairs import load_pair, round_pair, store_pair, store_rounded
from llm_numba.kernels.ptx.peers import at_address
from llm_numba.kernels.ptx.quads import load_quad
from llm_numba.kernels.ptx.special import exp2, reciprocal
from llm_numba.kernels.ptx.streams import (
    load16_stream,
    load_raw16,
    load_raw16_or_zeros,
    prefetch,
    round_raw16,
    store16_stream,
    store_raw16,
    widen_raw16,
)
from llm_numba.kernels.ptx.tensor import mma_16x8x8, mma_16x8x16, mma_16x8x32
from llm_numba.kernels.ptx.vectors import (
    VECTOR,
    is_aligned16,
    items16,
    load16,
    store16,
    with_item,
    zeros16,
)
from llm_numba.kernels.ptx.warpgroups import (
    give_registers,
    matrix_descriptor,
    matrix_descriptor_trans,
    shared_address,
    take_registers,
    wgmma,
    wgmma_commit,
    wgmma_fence,
    wgmma_trans,
    wgmma_wait,
)
from llm_numba.kernels.ptx.warps import (
    add,
    maximum,
    redux_add_sync,
    redux_max_sync,
    redux_min_sync,
)
from llm_numba.kernels.ptx.words import quotient

__all__ = [
    "VECTOR",
    "add",
    "add_acq_rel",
    "add_release",
    "at_address",
    "await_previous_kernel",
    "barrier_sync",
    "bulk_commit",
    "bulk_wait",
    "cluster_arrive",
    "cluster_load16",
    "cluster_rank",
    "cluster_store",
    "cluster_sync",
    "cluster_wait",
    "cp_async16",
    "cp_async16_or_zeros",
    "cp_async_commit",
    "cp_async_wait",
    "cycles",
    "e4m3",
    "e5m2",
    "exp2",
    "fence_async",
    "fence_barriers",
    "from_float",
    "give_registers",
    "is_aligned16",
    "items16",
    "ldmatrix_x4",
    "ldmatrix_x4_trans",
    "load16",
    "load16_stream",
    "load_acquire",
    "load_acquire_system",
    "load_line",
    "load_pair",
    "load_quad",
    "load_raw16",
    "load_raw16_or_zeros",
    "matrix_descriptor",
    "matrix_descriptor_trans",
    "maximum",
    "mbarrier_arrive",
    "mbarrier_arrive_at",
    "mbarrier_expect",
    "mbarrier_init",
    "mbarrier_test",
    "mma_16x8x8",
    "mma_16x8x16",
    "mma_16x8x32",
    "nanoseconds",
    "parameter",
    "prefetch",
    "prefetch_map",
    "quotient",
    "reciprocal",
    "redux_add_sync",
    "redux_max_sync",
    "redux_min_sync",
    "release_next_kernel",
    "round_pair",
    "round_raw16",
    "shared_address",
    "stmatrix_x4",
    "store16",
    "store16_stream",
    "store_line",
    "store_pair",
    "store_raw16",
    "store_release",
    "store_release_system",
    "store_rounded",
    "take_registers",
    "tf32",
    "tma_load_2d",
    "tma_multicast_2d",
    "tma_prefetch_2d",
    "tma_reduce_add_2d",
    "tma_store_2d",
    "to_e4m3_pair",
    "to_float",
    "to_int8_pair",
    "wgmma",
    "wgmma_commit",
    "wgmma_fence",
    "wgmma_trans",
    "wgmma_wait",
    "widen",
    "widen_raw16",
    "with_item",
    "zeros16",
]
