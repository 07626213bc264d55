"""What each operation of a step must move and compute, told by the shapes of its operands.

Bytes are the fewest: each weight of a product once, each key and value that is in sight once, each
row of activations once, in and out. A kernel that reads something twice is slower than that, and
is not credited with it. Where an array lies says what it is: among the model's weights, in the KV
cache, or neither, which is an activation.
"""

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np

from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder
from llm_numba.ops import Call
from llm_numba.runtime import Array, kind_of

# Operations that take some rows of their tables: a row a token.
_LOOKUPS = ("embedding", "rope")


@dataclass(frozen=True)
class Traffic:
    """Bytes that must cross memory.

    Attributes
    ----------
    weights, kv, activations : int
        Read or written.
    """

    weights: int = 0
    kv: int = 0
    activations: int = 0

    @property
    def num_bytes(self) -> int:
        """All of them."""
        return self.weights + self.kv + self.activations

    def __add__(self, other: "Traffic") -> "Traffic":
        """Add up, kind by kind."""
        return Traffic(
            self.weights + other.weights,
            self.kv + other.kv,
            self.activations + other.activations,
        )


@dataclass(frozen=True)
class StepShape:
    """The sequences of a step, all alike.

    Attributes
    ----------
    batch : int
        B sequences.
    new_tokens : int
        S of each, that the step computes.
    context : int
        T of each at the end of the step, the new ones included.
    """

    batch: int
    new_tokens: int
    context: int

    @property
    def num_tokens(self) -> int:
        """New tokens of all sequences."""
        return self.batch * self.new_tokens

    def seen(self, window: int | None) -> int:
        """Tokens of all sequences whose keys some new token attends to."""
        reach = self.context if window is None else window + self.new_tokens - 1
        return self.batch * min(self.context, reach)

    def pairs(self, window: int | None) -> int:
        """Pairs of a new token and a token that it attends to."""
        positions = range(self.context - self.new_tokens + 1, self.context + 1)
        seen = positions if window is None else (min(window, each) for each in positions)
        return self.batch * sum(seen)


class Landmarks:
    """Tells by an array's address what it is.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
    """

    def __init__(self, model: Decoder, kv_cache: PagedKVCache) -> None:
        self._weights = [(*_span(array), *name) for array, *name in _weights_of(model)]
        self._layer_of_kv = {
            _span(array)[0]: number for number, pair in enumerate(kv_cache.layers) for array in pair
        }

    def kv_layer(self, array: Array) -> int | None:
        """Return the layer whose keys or values an array is; None if it is neither."""
        return self._layer_of_kv.get(_span(array)[0])

    def weights(self, array: Array) -> list[tuple[str, int | None]]:
        """Return the names that an array has among the weights, each with its layer's number.

        Parameters
        ----------
        array : array of the model's device
            A part of a weight has the name of the whole.
        """
        begin, end = _span(array)
        return [
            (name, layer)
            for first, last, name, layer in self._weights
            if first <= begin and end <= last
        ]


def _weights_of(
    holder: object, name: str = "", layer: int | None = None
) -> Iterator[tuple[Array, str, int | None]]:
    """Walk through a model's weights: held by name, in layers, in pairs with biases."""
    for part, value in vars(holder).items():
        # A matrix and its bias share the name of the pair.
        full = name if part in ("weight", "bias") and name else part
        if kind_of(value):
            yield value, full, layer
        elif isinstance(value, list):
            for number, each in enumerate(value):
                yield from _weights_of(each, full, number)
        elif is_dataclass(value):
            yield from _weights_of(value, full, layer)


def _span(array: Array) -> tuple[int, int]:
    host = isinstance(array, np.ndarray)
    begin = array.__array_interface__["data"][0] if host else array.data.ptr
    return begin, begin + array.nbytes


def name_of(call: Call, landmarks: Landmarks) -> tuple[str, int | None]:
    """Return the name of an operation's weight, and the layer that it is of.

    Parameters
    ----------
    call : Call
    landmarks : Landmarks

    Returns
    -------
    name : str
        Of its largest weight; empty if it has none, or works on the KV cache.
    layer : int or None
        None outside the layers.
    """
    layers = (landmarks.kv_layer(array) for array in _arrays(call))
    if (layer := next((each for each in layers if each is not None), None)) is not None:
        return "", layer
    arrays = [array for array in _arrays(call) if landmarks.weights(array)]
    if not arrays:
        return "", None
    names = landmarks.weights(max(arrays, key=lambda array: array.nbytes))
    # A tied LM head is the embedding table: its first name is that of the table.
    return names[0] if call.name.startswith(_LOOKUPS) else names[-1]


def traffic_of(call: Call, result: Any, landmarks: Landmarks, shape: StepShape) -> Traffic:
    """Return the fewest bytes that an operation moves.

    Parameters
    ----------
    call : Call
    result : array or tuple of arrays
        What it returned.
    landmarks : Landmarks
    shape : StepShape
        Of the step that it belongs to.
    """
    lookup = call.name.startswith(_LOOKUPS)
    weights = kv = activations = 0
    outputs = result if isinstance(result, tuple) else (result,)
    for array in _distinct([*_arrays(call), *filter(kind_of, outputs)]):
        if landmarks.kv_layer(array) is not None:
            attends = "attention" in call.name
            tokens = shape.seen(_argument(call, "window")) if attends else shape.num_tokens
            kv += tokens * (array.nbytes // (array.shape[0] * array.shape[1]))
        elif landmarks.weights(array):
            rows = min(shape.num_tokens, len(array)) if lookup and array.ndim == 2 else len(array)
            weights += array.nbytes // len(array) * rows
        else:
            activations += array.nbytes
    return Traffic(weights, kv, activations)


def flops_of(call: Call, shape: StepShape) -> int:
    """Return the floating-point operations of a product or of attention; 0 for all else.

    Parameters
    ----------
    call : Call
    shape : StepShape
        Of the step that it belongs to.
    """
    if call.name == "linear":
        x, weight = call.args[:2]
        return 2 * x.shape[0] * weight.shape[0] * weight.shape[1]
    if "attention" in call.name:
        # Of [N, H, D], or of queries beside keys and values, [N, (H + 2G) D].
        of_queries = math.prod(call.args[0].shape[1:])
        if call.args[0].ndim == 2:
            of_queries -= 2 * math.prod(_argument(call, "k_cache").shape[2:])
        # Scores and the sum of values: a multiplication and an addition for each element.
        return 4 * of_queries * shape.pairs(_argument(call, "window"))
    return 0


def weight_bytes(model: Decoder) -> int:
    """Return the bytes of all weights, tied ones once.

    Parameters
    ----------
    model : Decoder
    """
    return sum(array.nbytes for array in _distinct(each for each, *_ in _weights_of(model)))


def step_traffic(model: Decoder, kv_cache: PagedKVCache, shape: StepShape) -> Traffic:
    """Return the fewest bytes of weights, keys and values that a whole step moves.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
    shape : StepShape
    """
    tables = [each for each in vars(model).values() if kind_of(each) and each.ndim == 2]
    weights = 0
    for array in _distinct(array for array, *_ in _weights_of(model)):
        # Outside the layers a matrix is looked up by rows, if it is not the LM head.
        by_rows = array is not model.lm_head and any(array is each for each in tables)
        rows = min(shape.num_tokens, len(array)) if by_rows else len(array)
        weights += array.nbytes // len(array) * rows
    kv = 0
    for (keys, _), window in zip(kv_cache.layers, model.config.windows, strict=True):
        token = 2 * keys.nbytes // (keys.shape[0] * keys.shape[1])
        kv += token * (shape.seen(window) + shape.num_tokens)
    return Traffic(weights, kv)


def _argument(call: Call, name: str) -> Any:
    return inspect.signature(call.twin).bind(*call.args, **call.kwargs).arguments.get(name)


def _arrays(call: Call) -> Iterator[Array]:
    for value in (*call.args, *call.kwargs.values()):
        if kind_of(value) and value.nbytes:
            yield value


def _distinct(arrays: Iterable[Array]) -> list[Array]:
    """Leave out what stands there twice, as a result does that an operation hands through."""
    return list({id(array): array for array in arrays}.values())
