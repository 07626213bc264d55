import numpy as np
from llvmlite import ir
from numba import cuda
from numba.cuda.extending import intrinsic

from llm_numba.simulator import simulate, twin


@intrinsic
def reverse_bytes(typing_context, word):
    """Emit ``prmt``, which Numba has no name for."""

    def emit(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32)])
        instruction = ir.InlineAsm(kind, "prmt.b32 $0, $1, 0, 0x0123;", "=r,r")
        return builder.call(instruction, arguments)

    return word(word), emit


@twin(reverse_bytes)
def _(lanes, word):
    return word.astype(np.uint32).byteswap().astype(np.int64)


@cuda.jit
def to_big_endian(words):
    i = cuda.grid(1)
    words[i] = reverse_bytes(words[i])


words = np.array([0x01020304, 0xFF], np.uint32)
simulate(to_big_endian, 1, 2, (words,))
print([f"{word:08x}" for word in words])
