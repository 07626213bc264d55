"""Barriers in shared memory that count: threads that arrive, and bytes that a copy engine brings.

``cuda.syncthreads()`` is one barrier of a whole block, at which all stand still. An *mbarrier* is
8 bytes of shared memory, a block may have many, and to arrive does not mean to wait. Its life is a
row of *phases*. A phase is complete when as many threads have arrived as it was made for, and all
bytes that they announced have come; then the next begins by itself::

    phase           |        0        |        1        |   2
    parity          |        0        |        1        |   0
    to arrive       2       1         0|2      1        0|2
    bytes to come   0 +8192           0|0 +8192         0|0
                                      ^
                                      whoever waits for parity 0 goes on

Who waits names the parity of the phase that it waits for, 0 for the first. Of an mbarrier that is
new, parity 1 counts as complete: the phase before the first. So a producer that waits for free
places with the parities 1, 0, 1 ... finds all of them free at first.

To wait is a loop::

    while not ptx.mbarrier_test(barriers, i, parity):
        pass

What a thread wrote before it arrived, and what the copy engine brought, is seen by all who found
the phase complete, and by nobody else.

Source: "PTX ISA", ``mbarrier``; "Asynchronous operations", "Async proxy".
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD
from llm_numba.simulator.twins import twin

_VOID = ir.VoidType()


def _instruction(assembly, constraints, result, *operands):
    kind = ir.FunctionType(result, operands)
    return ir.InlineAsm(kind, assembly, f"{constraints}~{{memory}}", True)


_INIT = _instruction("mbarrier.init.shared::cta.b64 [$0], $1;", "r,r,", _VOID, WORD, WORD)
_ARRIVE = _instruction("mbarrier.arrive.shared::cta.b64 _, [$0];", "r,", _VOID, WORD)
_EXPECT = _instruction(
    "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r,", _VOID, WORD, WORD
)
_TEST = _instruction(
    "{ .reg .pred done; mbarrier.try_wait.parity.shared::cta.b64 done, [$1], $2; "
    "selp.u32 $0, 1, 0, done; }",
    "=r,r,r,",
    WORD,
    WORD,
    WORD,
)
_SYNC = _instruction("barrier.sync.aligned $0, $1;", "r,r,", _VOID, WORD, WORD)
_FENCE = _instruction("fence.proxy.async.shared::cta;", "", _VOID)


@intrinsic
def mbarrier_init(typing_context, barriers, index, arrivals):
    """Make a barrier, for one thread of the block; the others wait at ``cuda.syncthreads()``.

    Before it, :func:`fence_async` tells the copy engine that the barrier is one.

    Instruction: ``mbarrier.init.shared::cta.b64``. Capability: sm_80; with TMA, sm_90.

    Parameters
    ----------
    barriers : C-contiguous shared array of uint64
    index : int
        Which of them.
    arrivals : int
        How many threads arrive in a phase.
    """
    _check("mbarrier_init", barriers)

    def codegen(context, builder, signature, args):
        place = emit_shared_address(context, builder, barriers, args[0], args[1])
        builder.call(_INIT, [place, args[2]])
        return context.get_dummy_value()

    return types.void(barriers, types.int64, types.int32), codegen


@twin(mbarrier_init)
def _(lanes, barriers, index, arrivals):
    lanes.machine.mbarriers.init(lanes, barriers, index, arrivals)


@intrinsic
def mbarrier_arrive(typing_context, barriers, index):
    """Arrive, and go on: what this thread did before is done, for those who wait.

    Instruction: ``mbarrier.arrive.shared::cta.b64``. Capability: sm_80.

    Parameters
    ----------
    barriers : C-contiguous shared array of uint64
    index : int
    """
    _check("mbarrier_arrive", barriers)

    def codegen(context, builder, signature, args):
        builder.call(_ARRIVE, [emit_shared_address(context, builder, barriers, *args)])
        return context.get_dummy_value()

    return types.void(barriers, types.int64), codegen


@twin(mbarrier_arrive)
def _(lanes, barriers, index):
    lanes.machine.mbarriers.arrive(lanes, barriers, index, 0)


@intrinsic
def mbarrier_expect(typing_context, barriers, index, num_bytes):
    """Arrive, and announce bytes: the phase is complete when they have come, too.

    Announced are all bytes that copies write, zeros beyond the edge of a matrix included.

    Instruction: ``mbarrier.arrive.expect_tx.shared::cta.b64``. Capability: sm_90.

    Parameters
    ----------
    barriers : C-contiguous shared array of uint64
    index : int
    num_bytes : int
    """
    _check("mbarrier_expect", barriers)

    def codegen(context, builder, signature, args):
        place = emit_shared_address(context, builder, barriers, args[0], args[1])
        builder.call(_EXPECT, [place, args[2]])
        return context.get_dummy_value()

    return types.void(barriers, types.int64, types.int32), codegen


@twin(mbarrier_expect)
def _(lanes, barriers, index, num_bytes):
    lanes.machine.mbarriers.arrive(lanes, barriers, index, num_bytes)


@intrinsic
def mbarrier_test(typing_context, barriers, index, parity):
    """Tell whether the phase of a parity is complete; the hardware may wait a while before no.

    Instruction: ``mbarrier.try_wait.parity.shared::cta.b64``. Capability: sm_90.

    Parameters
    ----------
    barriers : C-contiguous shared array of uint64
    index : int
    parity : int
        0 or 1.

    Returns
    -------
    bool
    """
    _check("mbarrier_test", barriers)

    def codegen(context, builder, signature, args):
        place = emit_shared_address(context, builder, barriers, args[0], args[1])
        done = builder.call(_TEST, [place, args[2]])
        return builder.icmp_unsigned("!=", done, ir.Constant(WORD, 0))

    return types.boolean(barriers, types.int64, types.int32), codegen


@twin(mbarrier_test, loads=True)
def _(lanes, barriers, index, parity):
    return lanes.machine.mbarriers.test(lanes, barriers, index, parity)


@intrinsic
def barrier_sync(typing_context, number, threads):
    """Wait until so many threads of the block have come to the barrier of a number.

    What ``cuda.syncthreads()`` is for the whole block, this is for some warps of it: they meet,
    and see what each of them wrote before, while the others go on.

    Instruction: ``barrier.sync.aligned``. Capability: any.

    Parameters
    ----------
    number : int
        1 to 15; ``cuda.syncthreads()`` is barrier 0.
    threads : int
        How many meet: whole warps, and the same number for all of them.
    """

    def codegen(context, builder, signature, args):
        builder.call(_SYNC, args, attrs=("convergent",))
        return context.get_dummy_value()

    return types.void(types.int32, types.int32), codegen


@twin(barrier_sync, barrier="named")
def _(lanes, number, threads):
    """Let nobody pass before all are there: the machine itself sees to that."""


@intrinsic
def fence_async(typing_context):
    """Let copy engine and tensor cores see what this thread has written to shared memory.

    Ordinary loads and stores go one way to shared memory, the *generic proxy*; bulk copies and
    ``wgmma`` go another, the *async proxy*. No barrier orders the two. A thread that wrote what
    the others are to read has this fence first, and the barrier then.

    Instruction: ``fence.proxy.async.shared::cta``. Capability: sm_90.
    """

    def codegen(context, builder, signature, args):
        builder.call(_FENCE, [])
        return context.get_dummy_value()

    return types.void(), codegen


@twin(fence_async)
def _(lanes):
    if lanes.machine.watched:
        lanes.machine.observer.fence_async(lanes)


def emit_shared_address(context, builder, array, value, index):
    """Emit an element's address in shared memory, as the 32 bits that instructions take."""
    pointer = builder.gep(context.make_array(array)(context, builder, value).data, [index])
    shared = builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(3))
    return builder.ptrtoint(shared, WORD)


def is_barriers(barriers):
    """Tell whether a type is that of mbarriers."""
    return isinstance(barriers, types.Array) and (barriers.dtype, barriers.layout) == (
        types.uint64,
        "C",
    )


def _check(name, barriers):
    if not is_barriers(barriers):
        raise TypingError(f"{name} takes a C-contiguous shared array of uint64, not {barriers}.")
