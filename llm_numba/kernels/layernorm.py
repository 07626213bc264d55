r"""LayerNorm and RMSNorm of the rows of a matrix, after a residual addition, before an activation.

.. math::

    t = x + r, \qquad
    y_{\mathrm{layer}} =
    a\!\left(\frac{t - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta\right), \qquad
    y_{\mathrm{rms}} = a\!\left(\frac{t}{\sqrt{\overline{t^2} + \epsilon}} \odot \gamma\right)

x, r, t and y are [M, N], :math:`\gamma` and :math:`\beta` [N], all float32, float16 or bfloat16
in memory and float32 in registers. The residual r and the activation a may be missing. The
reference says who has an activation there.

Some 8 M N operations for 4 M N numbers moved: memory is the ceiling. The fewest bytes are one read
of x and of r, one write of t and of y. What the steps of the ladder move for each row of N, with
residual and activation, in kernels one after the other:

==============  ================================================  =====  ======
step            kernels                                           reads  writes
==============  ================================================  =====  ======
``naive``       addition; norm, a thread a row; activation        6 N    3 N
``warp``        addition; norm, a warp a row; activation          6 N    3 N
``residual``    addition and norm, kept in registers; activation  3 N    3 N
``activation``  all three in one                                  2 N    2 N
``vectorised``  all three in one, 16 bytes at a time              2 N    2 N
==============  ================================================  =====  ======

RMSNorm has no mean to find: the first two read N less. What a thread does:

::

    naive   row 0   t0 -> -> -> -> ->        the others   row 0   t0 t1 t2 ... t31 t0 t1 ...
            row 1   t1 -> -> -> -> ->                     row 1   a warp of its own; a block of
            row 2   t2 -> -> -> -> ->                             its own where rows are long

References
----------
Ba, Kiros and Hinton, "Layer Normalization", 2016; Zhang and Sennrich, "Root Mean Square Layer
Normalization", 2019.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from llm_numba import reference
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.layernorm_added import norm_added
from llm_numba.kernels.layernorm_fused import NUMBERS, norm_activated, norm_residual
from llm_numba.kernels.layernorm_rows import activate_rows, add_rows, norm_naive, norm_warp
from llm_numba.kernels.layernorm_vectorised import norm_alone, packets_to_hold
from llm_numba.kernels.reduce import WARP
from llm_numba.kernels.rows import MOST_PACKETS, holds, row_launch
from llm_numba.runtime import Launch, empty_like, launch_all, storage_dtype

_THREADS = 128
_ELEMENTWISE_THREADS = 256


class _Task(NamedTuple):
    """The operands of a norm: matrices, and rows of them; None for what is not there."""

    x: Any
    weight: Any
    eps: float
    out: Any
    bias: Any = None
    residual: Any = None
    total: Any = None
    activation: str | None = None

    def affine(self) -> tuple[Any, Any, np.float32]:
        """Weight, bias and eps as kernels take them: without a bias, one of length 0."""
        bias = self.weight[:0] if self.bias is None else self.bias
        return self.weight, bias, np.float32(self.eps)


def _plan_naive(task: _Task) -> tuple[Launch, ...]:
    return _unfused(task, norm_naive, (math.ceil(len(task.x) / _THREADS),), (_THREADS,))


def _plan_warp(task: _Task) -> tuple[Launch, ...]:
    rows = _THREADS // WARP
    return _unfused(task, norm_warp, (math.ceil(len(task.x) / rows),), (WARP, rows))


def _plan_residual(task: _Task) -> tuple[Launch, ...]:
    if task.residual is None:
        return _plan_warp(task)
    args = (task.x, task.residual, *task.affine(), task.total, task.out)
    return (Launch(norm_residual, *_numbers_launch(task.x), args), *_activation(task))


def _plan_activation(task: _Task) -> tuple[Launch, ...]:
    if task.residual is None:
        return _plan_warp(task)
    kind = ACTIVATIONS[task.activation]
    args = (task.x, task.residual, *task.affine(), kind, task.total, task.out)
    return (Launch(norm_activated, *_numbers_launch(task.x), args),)


def _plan_vectorised(task: _Task) -> tuple[Launch, ...]:
    packets, rest = divmod(task.x.shape[1], ptx.VECTOR[storage_dtype(task.x)])
    optional = (task.residual, task.total, task.bias)
    arrays = (task.x, task.weight, task.out, *(each for each in optional if each is not None))
    if rest or not holds(packets, MOST_PACKETS) or not all(map(ptx.is_aligned16, arrays)):
        return _plan_activation(task)
    has_bias = task.bias is not None
    held = 2 if task.residual is not None else packets_to_hold(has_bias)
    held = held if holds(packets, held) else MOST_PACKETS
    grid, block = row_launch(len(task.x), packets, held)
    if task.residual is None:
        kernel = norm_alone(held, task.activation, has_bias, whole=packets == held * block[0])
        return (Launch(kernel, grid, block, (task.x, *task.affine(), task.out)),)
    kernel = norm_added(held, task.activation, has_bias)
    args = (task.x, task.residual, *task.affine(), task.total, task.out)
    return (Launch(kernel, grid, block, args),)


def _unfused(task: _Task, norm: Any, grid: tuple, block: tuple) -> tuple[Launch, ...]:
    """Launch addition, norm and activation one after the other."""
    if task.residual is None:
        args = (task.x, *task.affine(), task.out)
        return (Launch(norm, grid, block, args), *_activation(task))
    args = (task.x, task.residual, task.total)
    addition = Launch(add_rows, (len(task.x),), (_ELEMENTWISE_THREADS,), args)
    sum_only = task._replace(x=task.total, residual=None)
    return (addition, *_unfused(sum_only, norm, grid, block))


def _activation(task: _Task) -> tuple[Launch, ...]:
    if task.activation is None:
        return ()
    args = (task.out, ACTIVATIONS[task.activation])
    return (Launch(activate_rows, (len(task.x),), (_ELEMENTWISE_THREADS,), args),)


def _numbers_launch(x: Any) -> tuple[tuple, tuple]:
    return row_launch(len(x), x.shape[1], NUMBERS)


def layer_norm(
    x: Any,
    weight: Any,
    bias: Any,
    eps: float,
    activation: str | None = None,
    *,
    out: Any = None,
    step: str = "vectorised",
    stream: Any = None,
) -> Any:
    """Normalise each row to mean 0 and variance 1, then scale and shift, on a device.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [..., E]
        One to four axes.
    weight, bias : of the dtype of x [E]
    eps : float
        Added to the variance.
    activation : {None, "gelu", "gelu_tanh", "silu"}
        What follows the norm.
    out : of shape and dtype of x, optional
        Where the result goes; may be x itself.
    step : {"naive", "warp", "residual", "activation", "vectorised"}
        Of the ladder.
    stream : optional
        By default the current one.

    Returns
    -------
    of shape and dtype of x
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step
        or activation.
    """
    task = _Task(x, weight, eps, out, bias, activation=activation)
    return _run(LADDER, task, step, stream, ("x", "weight", "bias"))[0]


def rms_norm(
    x: Any,
    weight: Any,
    eps: float,
    activation: str | None = None,
    *,
    out: Any = None,
    step: str = "vectorised",
    stream: Any = None,
) -> Any:
    """Divide each row by its root mean square, then scale, on a device.

    Parameters
    ----------
    x, weight, eps, activation, out, step, stream
        As of :func:`layer_norm`; eps is added to the mean square.

    Returns
    -------
    of shape and dtype of x
        `out`.

    Raises
    ------
    KernelArgumentError
        As :func:`layer_norm`.
    """
    task = _Task(x, weight, eps, out, activation=activation)
    return _run(RMS_LADDER, task, step, stream, ("x", "weight"))[0]


def add_layer_norm(
    x: Any,
    residual: Any,
    weight: Any,
    bias: Any,
    eps: float,
    activation: str | None = None,
    *,
    out: Any = None,
    total: Any = None,
    step: str = "vectorised",
    stream: Any = None,
) -> tuple[Any, Any]:
    """Add to the residual stream and normalise the sum, on a device.

    Parameters
    ----------
    residual : of shape and dtype of x
    total : of shape and dtype of x, optional
        Where the sum goes; may be x or the residual itself.
    x, weight, bias, eps, activation, out, step, stream
        As of :func:`layer_norm`.

    Returns
    -------
    normed : of shape and dtype of x
        `out`.
    total : of shape and dtype of x
        The sum, rounded to its dtype before it is normalised.

    Raises
    ------
    KernelArgumentError
        As :func:`layer_norm`.
    """
    task = _Task(x, weight, eps, out, bias, residual, total, activation)
    return _run(LADDER, task, step, stream, ("x", "residual", "weight", "bias"))


def add_rms_norm(
    x: Any,
    residual: Any,
    weight: Any,
    eps: float,
    activation: str | None = None,
    *,
    out: Any = None,
    total: Any = None,
    step: str = "vectorised",
    stream: Any = None,
) -> tuple[Any, Any]:
    """Add to the residual stream and RMS-normalise the sum, on a device.

    Parameters
    ----------
    x, residual, weight, eps, activation, out, total, step, stream
        As of :func:`add_layer_norm`.

    Returns
    -------
    normed, total : of shape and dtype of x
        As of :func:`add_layer_norm`.

    Raises
    ------
    KernelArgumentError
        As :func:`layer_norm`.
    """
    task = _Task(x, weight, eps, out, None, residual, total, activation)
    return _run(RMS_LADDER, task, step, stream, ("x", "residual", "weight"))


def _run(
    ladder: Ladder, task: _Task, step: str, stream: Any, inputs: tuple[str, ...]
) -> tuple[Any, Any]:
    """Check a task, make the arrays that the caller left out, run it."""
    x = task.x
    checks.array("x", x, ndim=(1, 2, 3, 4))
    outputs = ("out", "total") if "residual" in inputs else ("out",)
    made = {name: empty_like(x) for name in outputs if getattr(task, name) is None}
    task = task._replace(**made, eps=checks.number("eps", task.eps, finite=True, at_least=0))
    checks.choice("step", step, [each.name for each in ladder.steps])
    if task.activation is not None:
        checks.choice("activation", task.activation, filter(None, ACTIVATIONS))
    operands = task._asdict()
    for name in (*inputs, *outputs):
        is_row = name in ("weight", "bias")
        shape = x.shape[-1:] if is_row else x.shape
        checks.array(name, operands[name], dtype=storage_dtype(x), shape=shape, like=x)
        if not is_row and x.size > 0:
            operands[name] = operands[name].reshape(-1, x.shape[-1])
    if x.size > 0:
        launch_all(ladder.step(step).plan(**operands), stream)
    return task.out, task.total


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    rng = np.random.default_rng(seed)
    x, residual = rng.normal(size=(2, *shape)).astype(dtype)
    weight, bias = rng.normal(1, 0.5, size=(2, shape[1])).astype(dtype)
    out, total = np.full((2, *shape), np.nan, dtype)
    operands = {"x": x, "residual": residual, "weight": weight, "bias": bias}
    return operands | {"eps": 1e-5, "activation": "gelu", "out": out, "total": total}


def _rms_operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    operands = _operands(shape, dtype, seed) | {"activation": "silu"}
    del operands["bias"]
    return operands


def _expect(out: np.ndarray, total: np.ndarray, eps: float, activation: str, **arrays: np.ndarray):
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    norm = reference.add_layer_norm if "bias" in arrays else reference.add_rms_norm
    normed, stream = norm(**exact, eps=eps, activation=activation)
    return {"out": normed, "total": stream}


def _step(name: str, idea: str, plan: Callable[[_Task], tuple[Launch, ...]], *kernels: Any) -> Step:
    return Step(name, idea, lambda **operands: plan(_Task(**operands)), kernels)


def _vectorised_kernels(has_bias: bool) -> tuple[Any, ...]:
    """Return what the last step launches for the ladder's operands, and its extremes."""
    kind = "gelu" if has_bias else "silu"
    return tuple(
        norm_added(*each, has_bias) for each in ((2, kind), (MOST_PACKETS, kind), (2, None))
    )


def _ladder(name: str, operands: Callable[..., Operands], row_operands: int) -> Ladder:
    return Ladder(
        name=name,
        steps=(
            _step(
                "naive",
                "A thread a row: right, and its neighbours read a whole row apart.",
                _plan_naive,
                *(add_rows, norm_naive, activate_rows),
            ),
            _step(
                "warp",
                "A warp a row: neighbours read neighbours, shuffles add up.",
                _plan_warp,
                *(add_rows, norm_warp, activate_rows),
            ),
            _step(
                "residual",
                "Normalise the sum while it is in registers: it is not read again.",
                _plan_residual,
                *(norm_residual, activate_rows),
            ),
            _step(
                "activation",
                "Apply the activation, too, before the result leaves the registers.",
                _plan_activation,
                norm_activated,
            ),
            _step(
                "vectorised",
                "16 bytes a load: fewer instructions, more bytes under way.",
                _plan_vectorised,
                *_vectorised_kernels(has_bias=name == "layer_norm"),
                norm_activated,
            ),
        ),
        operands=operands,
        expect=_expect,
        dtypes=("float32", "float16", "bfloat16"),
        example=(64, 1024),
        axes="M N",
        ceiling="memory",
        fewest_bytes=lambda shape, itemsize: (4 * shape[0] + row_operands) * shape[1] * itemsize,
        flops=lambda shape: 8 * math.prod(shape),
    )


LADDER = _ladder("layer_norm", _operands, row_operands=2)
RMS_LADDER = _ladder("rms_norm", _rms_operands, row_operands=1)
