"""How long one instruction takes until the next can use its result.

Each kernel here is a chain: the result of an operation is the operand of the same operation. One
warp runs it, so nobody fills the gaps, and its cycles over its operations are the latency.

::

    x ---> f ---> f ---> f ---> ... ---> f        rounds x 32 operations, one after the other

The loop counts once in 32 operations, and does so in the gaps.

Source: Wong et al., "Demystifying GPU Microarchitecture through Microbenchmarking", ISPASS 2010.
"""

from typing import Any, NamedTuple

from numba import cuda, float32, uint32

from llm_numba.kernels import ptx

IN_A_ROUND = 32
_ALL = 0xFFFFFFFF


def chain(step: Any) -> Any:
    """Make the kernel that repeats an operation on its own result.

    Parameters
    ----------
    step : device function
        Takes a number, and the second operand of each call; returns a number of the first one's
        type.

    Returns
    -------
    dispatcher
        Takes the numbers that lanes begin with, the second operand (an array of one), rounds,
        the array for the results, and one for the cycles.
    """

    @cuda.jit
    def repeat(start, operand, rounds, out, taken):
        """Repeat it, and let the first lane note the cycles."""
        t = cuda.threadIdx.x
        x, y = start[t], operand[0]
        begin = ptx.cycles()
        for _ in range(rounds):
            for _ in range(IN_A_ROUND):
                x = step(x, y)
        out[t] = x
        if t == 0:
            taken[0] = ptx.cycles() - begin

    return repeat


@cuda.jit(device=True)
def multiply_add(x, y):
    """Multiply and add float32, rounded once."""
    return x * y + float32(1)


@cuda.jit(device=True)
def multiply_add_integers(x, y):
    """Multiply and add 32-bit integers."""
    return uint32(x * y + uint32(1))


@cuda.jit(device=True)
def power(x, y):
    """Raise 2 to a power, on a special function unit."""
    return ptx.exp2(x)


@cuda.jit(device=True)
def shuffle(x, y):
    """Take the number of the lane beside this one."""
    return cuda.shfl_xor_sync(_ALL, x, 1)


@cuda.jit(device=True)
def vote(x, y):
    """Ask in which lanes a number is not 0."""
    return cuda.ballot_sync(_ALL, x != 0)


@cuda.jit(device=True)
def reduce(x, y):
    """Add over the warp, in one instruction."""
    return ptx.redux_add_sync(_ALL, x)


@cuda.jit(device=True)
def match(x, y):
    """Ask which lanes have the same number."""
    return cuda.match_any_sync(_ALL, x)


class Operation(NamedTuple):
    """An operation whose latency is measured.

    Attributes
    ----------
    name : str
    what : str
        For a table.
    kernel : dispatcher
        Of :func:`chain`.
    dtype : str
        Of its numbers.
    capability : tuple of int
        The least that has the instruction.
    """

    name: str
    what: str
    kernel: Any
    dtype: str
    capability: tuple[int, int] = (7, 5)


OPERATIONS = (
    Operation("multiply_add", "multiply-add, float32", chain(multiply_add), "float32"),
    Operation(
        "multiply_add_integers", "multiply-add, int32", chain(multiply_add_integers), "uint32"
    ),
    Operation("power", "power of 2, special function unit", chain(power), "float32"),
    Operation("shuffle", "shfl_xor_sync", chain(shuffle), "float32"),
    Operation("vote", "comparison and ballot_sync", chain(vote), "int32"),
    Operation("reduce", "redux.sync, sum of a warp", chain(reduce), "int32", (8, 0)),
    Operation("match", "match_any_sync", chain(match), "int32"),
)
