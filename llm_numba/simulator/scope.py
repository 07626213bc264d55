"""One function in one place: its variables, registers and constants while it is translated.

What is known beforehand (modules, functions, dtypes, literals) never becomes a register at all.
"""

from typing import Any

import numpy as np
from numba.cuda import types
from numba.cuda.core import ir

from llm_numba.simulator.arithmetic import cast
from llm_numba.simulator.collectives import Operation
from llm_numba.simulator.errors import UnsupportedError
from llm_numba.simulator.frontend import TypedFunction, type_of
from llm_numba.simulator.program import Block
from llm_numba.simulator.translation import Constant, Known, Translation, as_register

# Types that say everything about a value: there is nothing left to keep in a register.
_KNOWN = (
    types.Module,
    types.Function,
    types.NumberClass,
    types.Dispatcher,
    types.DType,
    types.EnumClass,
    types.BoundFunction,
    types.Dim3,
    types.GridGroup,
    types.ExceptionClass,
    types.ExceptionInstance,
)


class Scope:
    """One function in one place.

    Parameters
    ----------
    translation : Translation
    typed : TypedFunction
    arguments : list of (int, Constant or Known)
        A register, a number or an object for each of the function's arguments.
    start : Block
        Where the function begins.
    exit_block : Block or None
        Where a device function goes on; None for the kernel, whose threads end.
    result : int or None
        Register for what a device function returns.
    depth : int
        How many calls deep it is laid in.
    """

    def __init__(
        self,
        translation: Translation,
        typed: TypedFunction,
        arguments: list["int | Constant | Known"],
        start: Block,
        exit_block: Block | None,
        result: int | None,
        depth: int = 0,
    ) -> None:
        self.translation = translation
        self.typed = typed
        self.arguments = arguments
        self.exit_block = exit_block
        self.result = result
        self.depth = depth
        self.file = typed.function.__code__.co_filename
        self.line = typed.function.__code__.co_firstlineno
        self.known: dict[str, Any] = {}
        self.constants: dict[str, Constant] = {}
        self.registers: dict[str, int] = {}
        # Local arrays: no other thread can touch them.
        self.private: set[str] = set()
        self.products: dict[str, tuple[list[Any], Any]] = {}
        self.reads: set[int] = set()
        self.block = start
        self.starts: dict[int, Block] = {}
        # The statements of the IR block that is being translated.
        self.body: list[Any] = []
        self.users = _count_uses(typed.ir)
        self.assigned_once = _assigned_once(typed.ir)

    # -- Variables ------------------------------------------------------------------------------

    def type(self, variable: ir.Var) -> Any:
        """Return the Numba type of a variable."""
        return self.typed.typemap[variable.name]

    def use(self, variable: ir.Var, want: Any = None) -> str:
        """Return an expression for a variable, converted to a type if one is given."""
        name = variable.name
        if name in self.known:
            return self.translation.name(self.known[name])
        if name in self.constants:
            return self.constant_as(self.constants[name], self.type(variable), want)
        source = self._read(name)
        return source if want is None else cast(source, self.type(variable), want)

    def _read(self, name: str) -> str:
        if name in self.products:
            return f"({' * '.join(self.factors(name))})"
        return self.read_register(self.register_of(name))

    def read_register(self, register: int) -> str:
        """Note that the current block reads a register; return its name."""
        self.reads.add(register)
        if register not in self.block.defs:
            self.block.uses.add(register)
        return f"r{register}"

    def register_of(self, name: str) -> int:
        """Return the register of a variable."""
        if name not in self.registers:
            self.registers[name] = self.translation.register()
        return self.registers[name]

    def constant_as(self, constant: Constant, have: Any, want: Any) -> str:
        """Return the name of a constant, converted to a type if one is given."""
        if want is None or types.unliteral(have) == types.unliteral(want):
            return constant.name
        converted = eval(cast(constant.name, have, want), self.translation.namespace)
        return self.translation.name(converted)

    def define(self, register: int) -> str:
        """Note that the current block writes a register; return its name."""
        self.block.defs.add(register)
        self.block.flow.setdefault(register, set()).update(self.reads)
        return f"r{register}"

    def emit(self, line: str) -> None:
        """Append a line of source to the current block."""
        self.block.lines.append(line)

    def emit_location(self) -> None:
        """Append a line that says where the kernel stands, for reports and faults."""
        place = self.translation.place(self.file, self.line)
        if self.block.place != place:
            self.block.place = place
            self.emit(f"g.at = {place}")

    def assign(self, target: ir.Var, source: str, *, loads: bool = False) -> None:
        """Write an expression of the target's type into the target."""
        register = self.register_of(target.name)
        name = self.define(register)
        if loads:
            self.block.loads.add(register)
        self.emit(f"{name} = {source}")

    def set_constant(self, target: ir.Var, value: Any) -> None:
        """Bind a value that is known beforehand."""
        kind = types.unliteral(self.type(target))
        value = as_register(value, kind)
        name = self.translation.name(value)
        if target.name in self.assigned_once:
            self.constants[target.name] = Constant(name, value)
        else:
            self.assign(target, name)

    def cut(self) -> Block:
        """End the current block in a jump to a fresh one, and go on there."""
        following = self.translation.block()
        self.block.jump(following)
        self.block = following
        return following

    def operand(self, argument: Any, want: Any) -> str:
        """Return an expression for a call's argument, which may be an omitted default."""
        if isinstance(argument, ir.Var):
            if isinstance(want, types.Omitted):
                want = None
            return self.use(argument, want)
        kind = types.unliteral(type_of(argument.value))
        return self.translation.name(as_register(argument.value, kind))

    def pass_on(self, argument: Any, kind: Any) -> "int | Constant | Known":
        """Hand a call's argument to the function that is laid in."""
        if not isinstance(argument, ir.Var):
            name = self.operand(argument, None)
            return Constant(name, self.translation.namespace[name])
        if argument.name in self.known:
            return Known(self.known[argument.name])
        if argument.name in self.constants:
            name = self.use(argument, kind)
            return Constant(name, self.translation.namespace[name])
        register = self.translation.register()
        source = self.use(argument, kind)
        self.emit(f"{self.define(register)} = {source}")
        return register

    def convert(self, target: ir.Var, argument: Any, kind: Any) -> None:
        """Assign an argument converted to a type; a constant stays one."""
        source = self.operand(argument, kind)
        if isinstance(argument, ir.Var) and argument.name in self.constants:
            self.set_constant(target, self.translation.namespace[source])
        else:
            self.assign(target, source)

    def bind_object(self, target: ir.Var, value: Any) -> None:
        """Bind a module's member: an object of which the type says all, or a number."""
        kind = self.type(target)
        if isinstance(types.unliteral(kind), _KNOWN):
            self.known[target.name] = value
        elif isinstance(kind, types.Array):
            self.freeze(target, value)
        else:
            self.set_constant(target, value)

    def factors(self, product: str) -> list[str]:
        """Return the factors of a product that was put off until the sum that it feeds."""
        operands, signature = self.products.pop(product)
        return [self.use(each, want) for each, want in zip(operands, signature.args, strict=True)]

    def take_argument(self, target: ir.Var, argument: "int | Constant | Known") -> None:
        """Bind an argument of the function."""
        if isinstance(argument, Known):
            self.known[target.name] = argument.value
        elif isinstance(argument, Constant) and target.name in self.assigned_once:
            self.constants[target.name] = argument
        elif isinstance(argument, Constant):
            self.assign(target, argument.name)
        else:
            self.assign(target, self.read_register(argument))

    def copy(self, target: ir.Var, value: ir.Var, kind: Any) -> None:
        """Bind one variable to another, converted to a type."""
        if value.name in self.private:
            self.private.add(target.name)
        if value.name in self.known:
            self.known[target.name] = self.known[value.name]
        elif value.name in self.constants and target.name in self.assigned_once:
            constant = self.constants[value.name]
            name = self.constant_as(constant, self.type(value), kind)
            self.constants[target.name] = Constant(name, self.translation.namespace[name])
        else:
            self.assign(target, self.use(value, kind))

    def freeze(self, target: ir.Var, array: np.ndarray) -> None:
        """Bind an array that the compiler would freeze into the kernel."""
        self.constants[target.name] = Constant(
            self.translation.name(self.translation.constant_array(array)), None
        )

    def barrier(self, target: ir.Var, scope: str, combine: str | None, value: Any) -> None:
        """End the block at a barrier of all threads of the block, cluster or grid."""
        self.emit_location()
        source = result = None
        if combine is not None:
            source = self.translation.register()
            expression = self.use(value, types.boolean)
            self.emit(f"{self.define(source)} = {expression}")
            result = self.register_of(target.name)
        block = self.block
        following = self.cut()
        how = f"{scope!r}, {combine!r}, {source}, {result}"
        block.end = f"return g.machine.barriers.arrive(g, {{0}}, {how})"
        if result is None:
            self.set_constant(target, 0 if scope == "grid" else None)
        else:
            following.uses |= {source, result}

    def named_barrier(self, target: ir.Var, operands: list[str]) -> None:
        """End the block at a barrier of some threads of the block."""
        self.emit_location()
        block = self.block
        self.cut()
        block.end = f"return g.machine.named.arrive(g, {{0}}, {', '.join(operands)})"
        self.set_constant(target, None)

    def collective(
        self, target: ir.Var, operation: Operation, operands: list[str], *, loads: bool
    ) -> None:
        """End the block at a warp-wide operation."""
        result = None
        if not isinstance(self.type(target), types.NoneType):
            result = self.register_of(target.name)
            self.block.flow.setdefault(result, set()).update(self.reads)
            if loads:
                self.block.loads.add(result)
        block, name = self.block, self.translation.name(operation, "o")
        following = self.cut()
        values = "".join(f"{operand}, " for operand in operands)
        block.end = f"return g.machine.collectives.arrive(g, {{0}}, {name}, ({values}), {result})"
        if result is None:
            self.set_constant(target, None)
        else:
            following.uses.add(result)

    def unsupported(self, what: str, remedy: str) -> UnsupportedError:
        """Return the error for something at the current line that cannot be simulated."""
        return UnsupportedError(what, remedy, self.file, self.line)


def _count_uses(function_ir: Any) -> dict[str, list[Any]]:
    users: dict[str, list[Any]] = {}
    for block in function_ir.blocks.values():
        for statement in block.body:
            if isinstance(statement, ir.Del):
                continue
            target = getattr(statement, "target", None)
            for variable in statement.list_vars():
                if not isinstance(statement, ir.Assign) or variable is not target:
                    users.setdefault(variable.name, []).append(statement)
    return users


def _assigned_once(function_ir: Any) -> set[str]:
    counts: dict[str, int] = {}
    for block in function_ir.blocks.values():
        for statement in block.body:
            if isinstance(statement, ir.Assign):
                counts[statement.target.name] = counts.get(statement.target.name, 0) + 1
    return {name for name, count in counts.items() if count == 1}
