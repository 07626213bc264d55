"""What all functions of one kernel share while they are translated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba.cuda import types

from llm_numba.simulator import arithmetic
from llm_numba.simulator.memory import Buffer, View
from llm_numba.simulator.program import Block
from llm_numba.simulator.values import register_dtype

_ALIGNMENT = 16


@dataclass
class Translation:
    """What all scopes of one kernel share.

    Attributes
    ----------
    translate : callable
        Translates one function into the blocks: ``translate(translation, typed, arguments, start,
        exit_block, result, depth)``, as :func:`~llm_numba.simulator.statements.translate`.
    contract : bool
        Whether a product that feeds a sum becomes one fused multiply-add.
    fine : bool
        Whether each memory access begins a block, so that other threads may run before it.
    blocks : list of Block
    namespace : dict
        Objects that the generated source refers to by name.
    places : dict of (file, line) to int
        A statement's location, by the number that stands for it in the program.
    shared_bytes, local_bytes : int
        Static shared memory and local arrays laid out so far.
    registers : int
        How many there are.
    grid_sync : bool
        Whether the kernel waits for the whole grid somewhere.
    float64 : set of (file, line)
        Where something is computed in float64.
    """

    translate: Callable[..., None]
    contract: bool = True
    fine: bool = False
    blocks: list[Block] = field(default_factory=list)
    namespace: dict[str, Any] = field(default_factory=lambda: dict(arithmetic.NAMESPACE))
    places: dict[tuple[str, int], int] = field(default_factory=dict)
    shared_bytes: int = 0
    local_bytes: int = 0
    registers: int = 0
    grid_sync: bool = False
    float64: set[tuple[str, int]] = field(default_factory=set)
    frozen: dict[int, tuple[np.ndarray, View]] = field(default_factory=dict)

    def register(self) -> int:
        """Return a fresh register."""
        self.registers += 1
        return self.registers - 1

    def name(self, value: Any, prefix: str = "k") -> str:
        """Return the name under which the generated source finds a Python object."""
        name = f"{prefix}{len(self.namespace)}"
        self.namespace[name] = value
        return name

    def place(self, file: str, line: int) -> int:
        """Return the number that stands for a location."""
        return self.places.setdefault((file, line), len(self.places))

    def reserve_shared(self, size: int) -> int:
        """Lay out static shared memory; return its byte offset."""
        offset = -(-self.shared_bytes // _ALIGNMENT) * _ALIGNMENT
        self.shared_bytes = offset + size
        return offset

    def reserve_local(self, size: int) -> int:
        """Lay out a local array; return its byte offset in the thread's local memory."""
        offset = -(-self.local_bytes // _ALIGNMENT) * _ALIGNMENT
        self.local_bytes = offset + size
        return offset

    def constant_array(self, array: np.ndarray) -> View:
        """Return the view of an array that the compiler would freeze into the kernel."""
        if id(array) not in self.frozen:
            frozen = np.array(array)
            buffer = Buffer.of_host(frozen, "constant")
            self.frozen[id(array)] = array, View.of_host(frozen, buffer, "a constant array")
        return self.frozen[id(array)][1]

    def block(self) -> Block:
        """Return a fresh block behind the others."""
        self.blocks.append(Block())
        return self.blocks[-1]


@dataclass(frozen=True)
class Constant:
    """A number known before the kernel runs: its name in the namespace and its value."""

    name: str
    value: Any


@dataclass(frozen=True)
class Known:
    """A function, module or dtype, of which the type says all."""

    value: Any


def as_register(value: Any, kind: Any) -> Any:
    """Turn a Python value into what a register of that Numba type holds."""
    dtype = register_dtype(kind)
    if dtype is not None:
        return dtype.type(getattr(value, "value", value))
    if isinstance(kind, types.BaseTuple) and isinstance(value, tuple):
        return tuple(as_register(each, one) for each, one in zip(value, kind, strict=True))
    return value


def as_index(index: Any) -> Any:
    """Turn a literal index into registers."""
    if isinstance(index, tuple):
        return tuple(as_index(each) for each in index)
    return np.int64(index) if isinstance(index, int) else index
