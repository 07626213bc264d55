r"""Activations as kernels of their own, and the gate of a gated MLP.

.. math:: y = \mathrm{SiLU}(g) \cdot u, \qquad \mathrm{SiLU}(g) = \frac{g}{1 + 2^{-g \log_2 e}}

g and u are the halves of the last axis of ``gate_up [..., 2F]``, the output of one product; y is
[..., F]. float32, float16 or bfloat16 in memory, float32 in registers. Two numbers are read and
one is written for one power and one quotient: memory is the ceiling, as long as these two are
cheap. By the book they are some 30 instructions, of some 50 that an SM has time for. So
:func:`llm_numba.kernels.activation.silu` takes the approximations of the hardware. In units
:math:`u = 2^{-24}` the exponent is off by :math:`2 |g| u`, the power by 4, sum, reciprocal and
products together by less than 8: y is right to :math:`(2 |g| + 12) u`. Below g = -87.3, where it
should be :math:`10^{-36}` and less, it is 0.

::

    row of gate_up   | g0 | g1 | g2 | ... | u0 | u1 | u2 | ...     a packet is 16 bytes
    thread             t0   t1   t2         t0   t1   t2
    row of y         | y0 | y1 | y2 | ...

Where a product comes before it, an activation belongs into that product's epilogue, and costs no
trip to memory at all. These kernels are for where it cannot.
"""

import functools
import math
from typing import Any

import numpy as np
from numba import cuda, float32, uint32

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import activation, checks, ptx
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.packets import CANDIDATES, FEW_PACKETS, Config, cut, rounded_up, widened
from llm_numba.kernels.tuning import Shape, Tunable, choose
from llm_numba.runtime import Launch, empty, empty_like, launch_all, storage_dtype

_THREADS = 256
# The most numbers of a packet.
_WIDEST = 8


@cuda.jit
def silu_mul_naive(gate_up, out):
    """Compute one number in each thread, by the book."""
    i = cuda.grid(1)
    row, column = i // out.shape[1], i % out.shape[1]
    if row >= out.shape[0]:
        return
    gate = ptx.to_float(gate_up[row, column])
    up = ptx.to_float(gate_up[row, out.shape[1] + column])
    out[row, column] = ptx.from_float(out, gate / (float32(1) + math.exp(-gate)) * up)


@functools.cache
def _silu_mul_vectorised(packets: int) -> Any:
    """Make the kernel whose threads have so many packets of each half under way."""
    words = 4 * packets

    @cuda.jit
    def silu_mul_vectorised(gate_up, out):
        """Load and store 16 bytes at a time; nothing is computed until all loads are under way."""
        gates = cuda.local.array(words, uint32)
        ups = cuda.local.array(words, uint32)
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row >= out.shape[0]:
            return
        length, width = out.shape[1], ptx.items16(out)
        apart = cuda.blockDim.x * width
        column = cuda.blockIdx.y * (packets * apart) + cuda.threadIdx.x * width
        begin = 2 * row * length + column
        for k in range(packets):
            if column + k * apart < length:
                gate = ptx.load_raw16(gate_up, begin + k * apart)
                up = ptx.load_raw16(gate_up, begin + k * apart + length)
                for w in range(4):
                    gates[4 * k + w] = gate[w]
                    ups[4 * k + w] = up[w]
        begin = row * length + column
        for k in range(packets):
            if column + k * apart < length:
                g, u = widened(gate_up, gates, k), widened(gate_up, ups, k)
                values = ptx.zeros16(out)
                for e in range(width):
                    values = ptx.with_item(values, e, activation.silu(g[e]) * u[e])
                ptx.store16(out, begin + k * apart, values)

    return silu_mul_vectorised


def _activated(function: Any, packets: int) -> Any:
    """Make the kernel that applies a device function to every number."""
    words = 4 * packets

    @cuda.jit
    def activate_packets(x, whole, out):
        """Apply it to the whole packets, and to the numbers after them one a thread."""
        held = cuda.local.array(words, uint32)
        values = cuda.local.array(_WIDEST, float32)
        width = ptx.items16(x)
        first = cuda.blockIdx.x * (packets * cuda.blockDim.x) + cuda.threadIdx.x
        for k in range(packets):
            packet = first + k * cuda.blockDim.x
            if packet < whole:
                loaded = ptx.load_raw16(x, packet * width)
                for w in range(4):
                    held[4 * k + w] = loaded[w]
        for k in range(packets):
            packet = first + k * cuda.blockDim.x
            single = whole * (width - 1) + packet
            if packet < whole:
                numbers = widened(x, held, k)
                for e in range(width):
                    values[e] = numbers[e]
                # Alone in its loop: with what indexes tuples beside it, it would not be unrolled.
                for e in range(width):
                    values[e] = function(values[e])
                results = ptx.zeros16(out)
                for e in range(width):
                    results = ptx.with_item(results, e, values[e])
                ptx.store16(out, packet * width, results)
            elif single < x.size:
                out[single] = ptx.from_float(out, function(ptx.to_float(x[single])))

    return activate_packets


_PACKETS = 2
_ACTIVATED = {
    "gelu": _activated(activation.gelu, _PACKETS),
    "gelu_tanh": _activated(activation.gelu_tanh, _PACKETS),
    "silu": _activated(activation.silu, _PACKETS),
}


def gelu(x: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Apply GELU in its exact form, on a device.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [...]
    out : as x, optional
        Where the result goes; may be x itself.
    stream : optional
        By default the current one.

    Returns
    -------
    as x
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another dtype, shape, layout or device.
    """
    return _apply("gelu", x, out, stream)


def gelu_tanh(x: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Apply GELU by its tanh approximation, on a device; operands as of :func:`gelu`."""
    return _apply("gelu_tanh", x, out, stream)


def silu(x: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Apply SiLU, on a device; operands as of :func:`gelu`."""
    return _apply("silu", x, out, stream)


def _apply(name: str, x: Any, out: Any, stream: Any) -> Any:
    checks.array("x", x)
    if out is None:
        out = empty_like(x)
    checks.array("out", out, dtype=storage_dtype(x), shape=x.shape, like=x)
    flat, flat_out = x.reshape(-1), out.reshape(-1)
    width = ptx.VECTOR[storage_dtype(x)]
    whole = x.size // width if ptx.is_aligned16(x) and ptx.is_aligned16(out) else 0
    turns = whole + x.size - whole * width
    grid = (math.ceil(turns / (_THREADS * _PACKETS)),)
    args = (flat, np.int64(whole), flat_out)
    launch_all((Launch(_ACTIVATED[name], grid, (_THREADS,), args),), stream)
    return out


def _plan_naive(gate_up: Any, out: Any) -> tuple[Launch, ...]:
    grid = (math.ceil(out.size / _THREADS),)
    return (Launch(silu_mul_naive, grid, (_THREADS,), (gate_up, out)),)


def rule(shape: Shape, dtype: str) -> Config:
    """Choose how :func:`silu_mul` is cut.

    Parameters
    ----------
    shape : tuple of int
        Rows, and numbers in a row of the result.
    dtype : str

    Returns
    -------
    Config
        A packet of each half a thread: that is two loads under way, and few enough registers for
        an SM to be full of threads. Large blocks, as there are fewer to begin and end; of few
        packets, smaller ones that reach more SMs.
    """
    return Config(256 if math.prod(shape) // ptx.VECTOR[dtype] < FEW_PACKETS else 1024, 1)


def plan_vectorised(gate_up: Any, out: Any, config: Config | None = None) -> tuple[Launch, ...]:
    """Plan by packets of 16 bytes, or a number a thread where rows are not made of packets.

    Parameters
    ----------
    gate_up, out : arrays
        As of :func:`silu_mul`, both with two axes.
    config : Config, optional
        By default the tuned one, or :func:`rule`'s.

    Returns
    -------
    tuple of Launch
    """
    packets, rest = divmod(out.shape[1], ptx.VECTOR[storage_dtype(out)])
    if rest or not (ptx.is_aligned16(gate_up) and ptx.is_aligned16(out)):
        return _plan_naive(gate_up, out)
    config = config or choose(TUNABLE, out.shape, storage_dtype(out), like=out)
    grid, block = cut(len(out), packets, config)
    return (Launch(_silu_mul_vectorised(config.packets), grid, block, (gate_up, out)),)


def silu_mul(gate_up: Any, *, out: Any = None, step: str = "vectorised", stream: Any = None) -> Any:
    """Apply the gate of a gated MLP, SiLU(gate) times up, on a device.

    Parameters
    ----------
    gate_up : float32, float16 or bfloat16 [..., 2F]
        Gate in the first half of the last axis, up in the second.
    out : as gate_up [..., F], optional
        Where the result goes; no part of gate_up.
    step : {"naive", "vectorised"}
        Of the ladder.
    stream : optional
        By default the current one.

    Returns
    -------
    as gate_up [..., F]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another dtype, shape, layout or device, the last axis is odd, or there
        is no such step.
    """
    checks.array("gate_up", gate_up)
    if gate_up.ndim == 0 or gate_up.shape[-1] % 2:
        raise KernelArgumentError(
            f"Argument 'gate_up' has shape {gate_up.shape}.",
            "Its last axis must be even: gate in the first half, up in the second.",
        )
    checks.choice("step", step, [each.name for each in LADDER.steps])
    shape = (*gate_up.shape[:-1], gate_up.shape[-1] // 2)
    if out is None:
        out = empty(shape, gate_up.dtype, like=gate_up)
    checks.array("out", out, dtype=storage_dtype(gate_up), shape=shape, like=gate_up)
    if out.size > 0:
        rows = gate_up.reshape(-1, gate_up.shape[-1])
        plan = LADDER.step(step).plan
        launch_all(plan(gate_up=rows, out=out.reshape(-1, shape[-1])), stream)
    return out


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    rows, width = shape
    gate_up = np.random.default_rng(seed).normal(scale=4, size=(rows, 2 * width)).astype(dtype)
    return {"gate_up": gate_up, "out": np.full(shape, np.nan, dtype)}


LADDER = Ladder(
    name="silu_mul",
    steps=(
        Step(
            "naive",
            "A number a thread, exponential and quotient by the book.",
            _plan_naive,
            (silu_mul_naive,),
        ),
        Step(
            "vectorised",
            "16 bytes a load, both loads of a thread under way, and the hardware's approximations.",
            plan_vectorised,
            (_silu_mul_vectorised(1), silu_mul_naive),
        ),
    ),
    operands=_operands,
    expect=lambda gate_up, out: {"out": reference.silu_mul(gate_up.astype(np.float64))},
    dtypes=("float32", "float16", "bfloat16"),
    example=(16, 512),
    axes="M F",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: 3 * math.prod(shape) * itemsize,
    flops=lambda shape: 6 * math.prod(shape),
)

TUNABLE = Tunable(
    LADDER,
    rule,
    lambda shape, dtype: CANDIDATES,
    lambda config, **operands: plan_vectorised(**operands, config=config),
    shapes=((1, 14336), (64, 14336), (4096, 14336), (16384, 8192)),
    bucket=rounded_up,
)
