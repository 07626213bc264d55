"""Kernels that begin before the one before them has ended, and what they may do until then.

Between two kernels of a stream the GPU drains: blocks end one by one, what they wrote is made
visible, and only then the next kernel's blocks are started. With kernels of some microseconds that
is a sizeable part. A launch may say that it needs no drain (*programmatic dependent launch*):

::

    kernel n      | blocks .. .. last blocks |  writes visible  |
    kernel n+1                      | starts, loads weights | waits | works
                                    ^                               ^
                          release_next_kernel() of all blocks       await_previous_kernel()
                          of kernel n, or their end

A kernel that is launched so keeps three rules:

- Before the wait it reads nothing that a kernel of its own step writes, and writes nothing at all:
  weights may be loaded ahead, and keys of earlier steps; activations may not, nor the newest keys.
- Every block waits. Then it ends after the kernel before it, and whoever waits for it has waited
  for all before.
- It may have company: blocks of two kernels share an SM, its registers and its shared memory, and
  the memory's bandwidth. The next kernel's blocks begin when all of this one's have called
  ``release_next_kernel``. So a grid of several waves keeps all SMs to itself up to its last one,
  even if it calls as early as it can; and places that blocks of the last wave leave are filled.

A kernel that is launched as usual waits for the end of the one before, whatever that one called.
The instructions are from sm_90 on; on older GPUs and in the simulator they do nothing, for there a
kernel begins when the one before it has ended.

Source: "CUDA C++ Programming Guide", "Programmatic Dependent Launch and Synchronization"; "PTX
ISA", ``griddepcontrol``.
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD
from llm_numba.kernels.ptx.target import emit_since
from llm_numba.simulator.twins import twin

_VOID = ir.FunctionType(ir.VoidType(), [])
_WAIT = ir.InlineAsm(_VOID, "griddepcontrol.wait;", "~{memory}", True)
_RELEASE = ir.InlineAsm(_VOID, "griddepcontrol.launch_dependents;", "~{memory}", True)


@intrinsic
def await_previous_kernel(typing_context):
    """Wait until the kernels before this one have ended and what they wrote can be seen.

    Instruction: ``griddepcontrol.wait``. Capability: sm_90; below it, none. A kernel that was
    launched as usual goes on at once.
    """

    def codegen(context, builder, signature, args):
        _emit_since_90(builder, _WAIT)
        return context.get_dummy_value()

    return types.void(), codegen


@twin(await_previous_kernel)
def _(lanes):
    """Go on: in the simulator kernels run one after the other."""


@intrinsic
def release_next_kernel(typing_context):
    """Let the next kernel's blocks start as soon as all blocks of this one have come here.

    What this block does afterwards is not seen by them before they wait. Only a launch that asks
    for it makes use of it.

    Instruction: ``griddepcontrol.launch_dependents``. Capability: sm_90; below it, none.
    """

    def codegen(context, builder, signature, args):
        _emit_since_90(builder, _RELEASE)
        return context.get_dummy_value()

    return types.void(), codegen


@twin(release_next_kernel)
def _(lanes):
    """Go on: the next kernel runs when this one has ended."""


def _emit_since_90(builder, assembly):
    def newer():
        builder.call(assembly, [])
        return ir.Constant(WORD, 0)

    emit_since(builder, 90, newer, lambda: ir.Constant(WORD, 0))
