"""The products of ``llm-numba bench gemm``: shapes, and what is done with each.

N and K of a decoder layer's four products, all q, k and v in one, gate and up in one::

              qkv            output         gate and up     down
    8B        6144 x 4096    4096 x 4096    28672 x 4096    4096 x 14336
    70B       10240 x 8192   8192 x 8192    57344 x 8192    8192 x 28672

A *way* is how a product is computed: ``linear`` as a model calls it, with an epilogue or without;
``tf32``, of float32 by name; or one step of a ladder, ``gemm_hopper/stored``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from llm_numba import reference
from llm_numba.kernels import gemm_hopper, gemm_tensorcore
from llm_numba.kernels.gemm_hopper_quantised import BLOCK, plan_quantised
from llm_numba.kernels.gemm_hopper_tf32 import plan_tf32
from llm_numba.kernels.linear import linear
from llm_numba.kernels.random_weights import fill_random
from llm_numba.runtime import (
    Launch,
    empty,
    has_capability,
    intercept,
    is_architecture,
    kind_of,
    to_device,
    to_host,
    zeros,
)

EIGHT = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
SEVENTY = ((10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672))
SMALL_ROWS = (8, 16, 32, 64, 128)
# The most telling first: a run that is cut short then has something of everything.
LARGE_ROWS = (2048, 8192, 512, 4096, 1024)
SQUARES = (4096, 8192)
LADDERS = {each.name: each for each in (gemm_hopper.LADDER, gemm_tensorcore.LADDER)}
# Arguments of `linear`; operands by their names in the point.
EPILOGUES: dict[str, dict[str, Any]] = {
    "linear": {},
    "bias_gelu": {"activation": "gelu", "operands": ("bias",)},
    "silu_mul": {"activation": "silu_mul", "operands": ()},
    "residual": {"operands": ("residual",)},
    # Not by `linear`: its result is 8-bit numbers with a scale for each 128.
    "quantised": {"activation": "gelu", "operands": ("bias",)},
}
# What is taken at most of a number that is stored as e4m3, and of one that is used as tf32.
_E4M3, _TF32 = 2.0**-4, 2.0**-10
_OF_HOPPER = ("quantised", "tf32")
# Measured beside the plain product, of the four of 8B.
_BESIDE = ("bias_gelu", "residual", "silu_mul", "residual")
# Halves of what neighbouring numbers are apart, which are uniform within 255 of them: so x is
# about as large as behind a norm, and a result about as large as x.
_STEPS = {"x": 2.0**-8, "weight": 2.0**-13, "bias": 2.0**-8, "residual": 2.0**-8}


@dataclass(frozen=True)
class Product:
    """A product at one shape and dtype.

    Attributes
    ----------
    part : str
        Of the benchmark: ``"small"``.
    M, N, K : int
    dtype : str
    ways : tuple of str
        How it is computed, see above; none of what is looked into and not timed.
    """

    part: str
    M: int
    N: int
    K: int
    dtype: str = "bfloat16"
    ways: tuple[str, ...] = ("linear",)

    @property
    def key(self) -> str:
        """What names of its results end with: ``"bfloat16/512x6144x4096"``."""
        return f"{self.dtype}/{self.M}x{self.N}x{self.K}"

    @property
    def label(self) -> str:
        """As ``--only`` takes it: ``"small/8x6144x4096"``."""
        return f"{self.part}/{self.M}x{self.N}x{self.K}"

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.M * self.N * self.K

    @property
    def bytes(self) -> int:
        """Fewest bytes that must cross global memory."""
        numbers = self.M * self.K + self.N * self.K + self.M * self.N
        return numbers * np.dtype(self.dtype).itemsize

    def operands(self, seed: int, device: str) -> dict[str, Any]:
        """Make random operands on a device, for all ways.

        Parameters
        ----------
        seed : int
        device : {"cuda", "sim"}

        Returns
        -------
        dict
            ``x``, ``weight``, ``out``, and ``bias`` and ``residual`` where a way takes them.
        """
        shapes = {"x": (self.M, self.K), "weight": (self.N, self.K)}
        shapes |= {"bias": (self.N,), "residual": (self.M, self.N)}
        taken = {name for way in self.ways for name in _epilogue(way).get("operands", ())}
        made = {
            name: fill_random(zeros(shape, self.dtype, device), 8 * seed + i, _STEPS[name])
            for i, (name, shape) in enumerate(shapes.items())
            if name in ("x", "weight") or name in taken
        }
        return made | {"out": zeros((self.M, self.N), self.dtype, device)}


def why_not(way: str, x: Any) -> str | None:
    """Say why a way cannot be gone on the GPU of an array; None if it can.

    Parameters
    ----------
    way : str
    x : array
    """
    ladder, _, step = way.partition("/")
    if not step and way not in _OF_HOPPER:
        return None
    capability = LADDERS[ladder].step(step).capability if step else gemm_hopper.HOPPER
    *least, letter = (*capability, "")[:3]
    fits = (is_architecture if letter else has_capability)(x, tuple(least))
    return None if fits else f"it takes compute capability {least[0]}.{least[1]}{letter}"


class Plan(NamedTuple):
    """What a way launches, and where its result is.

    Attributes
    ----------
    launches : tuple of Launch
    written : array
        Where they write; in place of the operand `out`, or a part of it.
    scales : array or None
        Of 128 numbers of it each, if those are bits of e4m3.
    kept : object
        What tensor maps are of, and nobody else holds.
    rounding : float
        Relative error of the format, where it is not that of the operands.
    """

    launches: tuple[Launch, ...]
    written: Any
    scales: Any = None
    kept: Any = None
    rounding: float = 0.0

    def result(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Copy some rows and columns of what was computed to the host."""
        found = some(self.written, rows, columns)
        if self.scales is None:
            return found
        numbers = found.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        return numbers * some(self.scales, rows, columns // BLOCK)


def plan(way: str, operands: dict[str, Any]) -> Plan:
    """Collect what a way launches, and run nothing.

    Parameters
    ----------
    way : str
    operands : dict
        As of :meth:`Product.operands`.
    """
    x, weight, out = (operands[name] for name in ("x", "weight", "out"))
    ladder, _, step = way.partition("/")
    if step:
        return Plan(LADDERS[ladder].step(step).plan(x=x, weight=weight, out=out), out)
    options = dict(_epilogue(way))
    named = {name: operands[name] for name in options.pop("operands", ())}
    if options.get("activation") == "silu_mul":
        out = out.reshape(-1)[: out.size // 2].reshape(len(x), -1)
    launches: list[Launch] = []
    if way == "quantised":
        codes = empty(out.shape, "uint8", like=x)
        scales = empty((len(x), out.shape[1] // BLOCK), "float32", like=x)
        halves = codes.view("float16")
        made = plan_quantised(x, weight, codes, halves, scales, **named, **options)
        return Plan(made, codes, scales, halves, _E4M3)
    if way == "tf32":
        both = x.view("float16"), weight.view("float16")
        return Plan(plan_tf32(*both, out), out, kept=both, rounding=_TF32)
    with intercept(launches.append):
        linear(x, weight, **named, **options, out=out)
    return Plan(tuple(launches), out)


def some(array: Any, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
    """Copy some rows of a device's array to the host, and some columns of them.

    Parameters
    ----------
    array : array
        Of one or two axes.
    rows, columns : ndarray
    """
    found = bits(array)[to_device(rows, kind_of(array))]
    host = to_host(found).view(array.dtype)
    return host if columns is None else host[:, columns]


def bits(array: Any) -> Any:
    """Show an array's numbers as unsigned integers."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def expected(
    way: str, operands: dict[str, Any], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Compute some rows and columns of a result in float64.

    Parameters
    ----------
    way : str
    operands : dict
        As of :meth:`Product.operands`.
    rows, columns : ndarray
        Of the result.
    """
    options = dict(_epilogue(way))
    named = options.pop("operands", ())
    features = columns
    if options.get("activation") == "silu_mul":
        # Column f is made of columns f and F + f.
        features = np.concatenate([columns, len(operands["weight"]) // 2 + columns])
    found = {"x": some(operands["x"], rows), "weight": some(operands["weight"], features)}
    if "bias" in named:
        found["bias"] = some(operands["bias"], features)
    if "residual" in named:
        found["residual"] = some(operands["residual"], rows, columns)
    wide = {name: values.astype(np.float64) for name, values in found.items()}
    return reference.linear(**wide, **options)


def _epilogue(way: str) -> dict[str, Any]:
    return EPILOGUES.get(way, {})


def _steps() -> Iterator[Product]:
    # Of those by `mma.sync` the last two, which large products differ by little.
    ladders = ((gemm_tensorcore.LADDER, -2), (gemm_hopper.LADDER, 0))
    ways = tuple(
        f"{ladder.name}/{step.name}" for ladder, first in ladders for step in ladder.steps[first:]
    )
    for size in reversed(SQUARES):
        yield Product("steps", size, size, size, ways=ways)


def _epilogues() -> Iterator[Product]:
    # Of two of the five numbers of rows, which are what prompts are cut into, and more.
    for M in LARGE_ROWS[:2]:
        for (N, K), way in zip(EIGHT, _BESIDE, strict=True):
            yield Product("epilogues", M, N, K, ways=("linear", way))
    yield Product("epilogues", LARGE_ROWS[0], *SEVENTY[0], ways=("linear", "quantised"))
    # And of a step that decodes, where a kernel of its own is a large part of the time.
    yield Product("epilogues", SMALL_ROWS[0], *EIGHT[0], ways=("linear", "bias_gelu"))


PRODUCTS = (
    *(Product("projections", M, N, K) for M in LARGE_ROWS for N, K in EIGHT + SEVENTY),
    *(Product("small", M, N, K) for M in SMALL_ROWS for N, K in EIGHT),
    *_epilogues(),
    *(Product("half", size, size, size, "float16") for size in SQUARES),
    *(Product("half", 2048, N, K, "float16") for N, K in EIGHT),
    *(Product("tf32", size, size, size, "float32", ("tf32",)) for size in SQUARES),
    *(Product("tf32", 2048, N, K, "float32", ("tf32",)) for N, K in EIGHT),
    *_steps(),
    Product("pipeline", 4096, 4096, 4096, ways=()),
)
PARTS = tuple(dict.fromkeys(each.part for each in PRODUCTS))
