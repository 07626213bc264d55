"""Instructions that only newer GPUs have, and what older ones do in their place.

A kernel is compiled for one GPU, but the functions that it calls are cached in a form that serves
all of them. So the choice is left to the compiler, NVVM: it replaces the call
``__nvvm_reflect("__CUDA_ARCH")`` by 10 times the compute capability, 900 for sm_90, and drops what
is never reached. NVIDIA's own library of mathematical functions chooses in this way.

Source: "NVVM IR Specification", "NVVM Reflect"; CUDA C++'s macro ``__CUDA_ARCH__``.
"""

from collections.abc import Callable

from llvmlite import ir

_BYTE, _WORD = ir.IntType(8), ir.IntType(32)
_QUESTION = bytearray(b"__CUDA_ARCH\0")


def emit_since(
    builder: ir.IRBuilder,
    capability: int,
    newer: Callable[[], ir.Value],
    older: Callable[[], ir.Value],
) -> ir.Value:
    """Emit one of two ways to a value, whichever the GPU has.

    Parameters
    ----------
    builder : IRBuilder
    capability : int
        The least that the newer way needs, times 10: 80 for sm_80.
    newer, older : callable
        Emit their way and return its value, both of the same type.

    Returns
    -------
    ir.Value
    """
    is_new = builder.icmp_signed(">=", _architecture(builder), ir.Constant(_WORD, 10 * capability))
    with builder.if_else(is_new) as (then, otherwise):
        with then:
            one, here = newer(), builder.block
        with otherwise:
            other, there = older(), builder.block
    value = builder.phi(one.type)
    value.add_incoming(one, here)
    value.add_incoming(other, there)
    return value


def _architecture(builder: ir.IRBuilder) -> ir.Value:
    """Ask NVVM for 10 times the compute capability."""
    module = builder.module
    question = module.globals.get("cuda_arch")
    if question is None:
        text = ir.Constant(ir.ArrayType(_BYTE, len(_QUESTION)), _QUESTION)
        question = ir.GlobalVariable(module, text.type, "cuda_arch")
        question.initializer, question.global_constant = text, True
        question.linkage = "internal"
    reflect = module.globals.get("__nvvm_reflect")
    if reflect is None:
        kind = ir.FunctionType(_WORD, [_BYTE.as_pointer()])
        reflect = ir.Function(module, kind, "__nvvm_reflect")
    return builder.call(reflect, [builder.bitcast(question, _BYTE.as_pointer())])
