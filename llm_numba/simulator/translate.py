"""From Numba's typed IR to the blocks of a program.

One :class:`Scope` translates one function for one place it is called from. Each IR statement becomes
a line of Python over registers; what is known beforehand (modules, functions, dtypes, literals)
never becomes a register at all.
"""

import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba.cuda import types
from numba.cuda.core import ir

from llm_numba.simulator import arithmetic
from llm_numba.simulator.arithmetic import SYMBOLS, cast, dtype_name
from llm_numba.simulator.calls import translate_call
from llm_numba.simulator.errors import UnsupportedError
from llm_numba.simulator.frontend import TypedFunction
from llm_numba.simulator.members import translate_member
from llm_numba.simulator.memory import Buffer, View
from llm_numba.simulator.program import Block
from llm_numba.simulator.values import register_dtype
from numba.cuda.typing.typeof import typeof

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
)
_ALIGNMENT = 16
_ALL_LANES = np.int64(0xFFFFFFFF)
_CONTRACTED = {operator.add, operator.sub, operator.iadd, operator.isub}
_PRODUCTS = {operator.mul, operator.imul}


@dataclass
class Translation:
    """What all scopes of one kernel share.

    Attributes
    ----------
    blocks : list of Block
    namespace : dict
        Objects that the generated source refers to by name.
    locations : list of (file, line)
        A statement's location is an index into it.
    shared_bytes, local_bytes : int
        Static shared memory and local arrays laid out so far.
    """

    contract: bool = True
    fine: bool = False
    blocks: list[Block] = field(default_factory=list)
    namespace: dict[str, Any] = field(default_factory=lambda: dict(arithmetic.NAMESPACE))
    locations: list[tuple[str, int]] = field(default_factory=list)
    shared_bytes: int = 0
    local_bytes: int = 0
    registers: int = 0
    grid_sync: bool = False
    frozen: dict[int, Any] = field(default_factory=dict)

    def register(self) -> int:
        """Return a fresh register."""
        self.registers += 1
        return self.registers - 1

    def name(self, value: Any, prefix: str = "k") -> str:
        """Return the name under which the generated source finds a Python object."""
        name = f"{prefix}{len(self.namespace)}"
        self.namespace[name] = value
        return name

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
            self.frozen[id(array)] = (array, View.of_host(frozen, Buffer.of_host(frozen, "constant"), "a constant array"))
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
        self.products: dict[str, tuple[list[Any], Any]] = {}
        self.reads: set[int] = set()
        self.block = start
        self._users = _count_uses(typed.ir)
        self._assigned_once = _assigned_once(typed.ir)
        labels = sorted(typed.ir.blocks)
        self.starts = {label: translation.block() for label in labels}
        start.jump(self.starts[labels[0]])
        for label in labels:
            self.block = self.starts[label]
            for statement in typed.ir.blocks[label].body:
                self.translate(statement)

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
            return self._constant_as(self.constants[name], self.type(variable), want)
        source = self._read(name)
        return source if want is None else cast(source, self.type(variable), want)

    def _read(self, name: str) -> str:
        if name in self.products:
            return f"({' * '.join(self._factors(name))})"
        return self.read_register(self._register(name))

    def read_register(self, register: int) -> str:
        """Note that the current block reads a register; return its name."""
        self.reads.add(register)
        if register not in self.block.defs:
            self.block.uses.add(register)
        return f"r{register}"

    def _register(self, name: str) -> int:
        if name not in self.registers:
            self.registers[name] = self.translation.register()
        return self.registers[name]

    def _constant_as(self, constant: Constant, have: Any, want: Any) -> str:
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
        place = (self.file, self.line)
        locations = self.translation.locations
        if place not in locations:
            locations.append(place)
        line = f"g.at = {locations.index(place)}"
        previous = [each for each in self.block.lines if each.startswith("g.at = ")]
        if not previous or previous[-1] != line:
            self.emit(line)

    def assign(self, target: ir.Var, source: str, *, loads: bool = False) -> None:
        """Write an expression of the target's type into the target."""
        register = self._register(target.name)
        name = self.define(register)
        if loads:
            self.block.loads.add(register)
        self.emit(f"{name} = {source}")

    def set_constant(self, target: ir.Var, value: Any) -> None:
        """Bind a value that is known beforehand."""
        kind = types.unliteral(self.type(target))
        value = as_register(value, kind)
        name = self.translation.name(value)
        if target.name in self._assigned_once:
            self.constants[target.name] = Constant(name, value)
        else:
            self.assign(target, name)

    def cut(self) -> Block:
        """End the current block in a jump to a fresh one, and go on there."""
        following = self.translation.block()
        self.block.jump(following)
        self.block = following
        return following

    def child(
        self,
        typed: TypedFunction,
        arguments: list["int | Constant | Known"],
        start: Block,
        exit_block: Block,
        result: int | None,
    ) -> "Scope":
        """Lay a device function in, from the end of ``start`` to ``exit_block``."""
        return Scope(self.translation, typed, arguments, start, exit_block, result, self.depth + 1)

    def operand(self, argument: Any, want: Any) -> str:
        """Return an expression for a call's argument, which may be an omitted default."""
        if isinstance(argument, ir.Var):
            if isinstance(want, types.Omitted):
                want = None
            return self.use(argument, want)
        return self.translation.name(as_register(argument.value, types.unliteral(typeof(argument.value))))

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

    def begin_collective(self, mask: ir.Var | None) -> None:
        """Begin a block at a warp-wide operation.

        Parameters
        ----------
        mask : Var or None
            The member mask; None for all 32 lanes.
        """
        block = self.cut()
        block.mask = _ALL_LANES if mask is None else self._mask_of(mask)
        self.emit_location()
        block.location = self.translation.locations.index((self.file, self.line))

    def _mask_of(self, variable: ir.Var) -> Any:
        """Return a member mask: its value if it is known, else its register."""
        if variable.name in self.constants:
            return np.int64(int(self.constants[variable.name].value) & 0xFFFFFFFF)
        self._read(variable.name)
        return self.registers[variable.name]

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
            self._constant_array(target, value)
        else:
            self.set_constant(target, value)

    def barrier(self, target: ir.Var, scope: str, combine: str | None, value: Any) -> None:
        """End the block at a barrier of all threads of the block or grid."""
        self.emit_location()
        source = result = None
        if combine is not None:
            source = self.translation.register()
            expression = self.use(value, types.boolean)
            self.emit(f"{self.define(source)} = {expression}")
            result = self._register(target.name)
        block = self.block
        following = self.cut()
        block.end = f"return g.machine.barrier(g, {{0}}, {scope!r}, {combine!r}, {source}, {result})"
        if result is None:
            self.set_constant(target, None)
        else:
            following.uses |= {source, result}

    def unsupported(self, what: str, remedy: str) -> UnsupportedError:
        """Return the error for something at the current line that cannot be simulated."""
        return UnsupportedError(what, remedy, self.file, self.line)

    # -- Statements -----------------------------------------------------------------------------

    def translate(self, statement: Any) -> None:
        """Translate one IR statement."""
        self.line = statement.loc.line
        self.reads = set()
        if self.translation.fine and self.block.lines and self._touches_memory(statement):
            self.cut()
        method = getattr(self, f"_{type(statement).__name__.lower()}", None)
        if method is None:
            raise self.unsupported(
                f"the statement `{statement}` cannot be simulated.", "Write it in another way."
            )
        method(statement)

    def _touches_memory(self, statement: Any) -> bool:
        if isinstance(statement, ir.SetItem | ir.StaticSetItem | ir.SetAttr):
            return True
        value = getattr(statement, "value", None)
        if not isinstance(value, ir.Expr):
            return False
        if value.op in ("getitem", "static_getitem", "typed_getitem"):
            return not isinstance(self.type(value.value), types.BaseTuple)
        return value.op == "call" and any(
            isinstance(self.type(each), types.Array) for each in value.args
        )

    def _del(self, statement: ir.Del) -> None:
        pass

    def _jump(self, statement: ir.Jump) -> None:
        self.block.jump(self.starts[statement.target])

    def _branch(self, statement: ir.Branch) -> None:
        condition = self.use(statement.cond, types.boolean)
        targets = [self.starts[statement.truebr], self.starts[statement.falsebr]]
        if statement.cond.name in self.constants:
            taken = targets[0] if self.constants[statement.cond.name].value else targets[1]
            self.block.jump(taken)
            return
        self.emit_location()
        self.block.successors = targets
        self.block.condition = self.registers[statement.cond.name]
        self.block.end = f"return g.machine.branch(g, {condition}, {{0}}, {{1}})"

    def _return(self, statement: ir.Return) -> None:
        if self.exit_block is None:
            self.block.successors = []
            self.block.end = "return g.machine.exit(g)"
            return
        if self.result is not None:
            source = self.use(statement.value, self.typed.return_type)
            self.emit(f"{self.define(self.result)} = {source}")
        self.block.jump(self.exit_block)

    def _staticraise(self, statement: ir.StaticRaise) -> None:
        error = getattr(statement.exc_class, "__name__", "an exception")
        self._raise(error, ", ".join(map(str, statement.exc_args or ())))

    def _dynamicraise(self, statement: ir.DynamicRaise) -> None:
        self._raise(getattr(statement.exc_class, "__name__", "an exception"), "")

    def _raise(self, error: str, text: str) -> None:
        self.emit_location()
        self.block.successors = []
        message = self.translation.name(f"{error}: {text}" if text else error)
        self.block.end = f"return g.machine.raised(g, {message})"

    def _print(self, statement: ir.Print) -> None:
        parts = ", ".join(self.use(each) for each in statement.args)
        self.emit(f"g.machine.print(g, ({parts},))")

    def _setitem(self, statement: ir.SetItem) -> None:
        self._store(statement, statement.target, self.use(statement.index), statement.value)

    def _staticsetitem(self, statement: ir.StaticSetItem) -> None:
        self._store(statement, statement.target, self._static_index(statement), statement.value)

    def _store(self, statement: Any, target: ir.Var, index: str, value: ir.Var) -> None:
        self.emit_location()
        array = self.type(target)
        if isinstance(array, types.Record):
            self.emit(
                f"g.store({self.use(target)}.field({index}), (), {self.use(value)})"
            )
            return
        want = self.type(value)
        if register_dtype(array.dtype) is not None and register_dtype(want) is not None:
            want = array.dtype
        self.emit(f"g.store({self.use(target)}, {index}, {self.use(value, want)})")

    def _setattr(self, statement: ir.SetAttr) -> None:
        record = self.type(statement.target)
        self.emit_location()
        value = self.use(statement.value, record.typeof(statement.attr))
        self.emit(f"g.store({self.use(statement.target)}.field({statement.attr!r}), (), {value})")

    def _static_index(self, statement: Any) -> str:
        if statement.index_var is not None:
            return self.use(statement.index_var)
        return self.translation.name(as_index(statement.index))

    def _assign(self, statement: ir.Assign) -> None:
        target, value = statement.target, statement.value
        kind = self.type(target)
        if isinstance(value, ir.Global | ir.FreeVar | ir.Const):
            self.bind_object(target, value.value)
        elif isinstance(value, ir.Arg):
            self._take_argument(target, self.arguments[value.index])
        elif isinstance(value, ir.Var):
            self._copy(target, value, kind)
        else:
            translate_expression = getattr(self, f"_expr_{value.op}", None)
            if translate_expression is None:
                raise self.unsupported(
                    f"the operation `{value.op}` cannot be simulated.", "Write it in another way."
                )
            translate_expression(target, value)

    def _take_argument(self, target: ir.Var, argument: "int | Constant | Known") -> None:
        if isinstance(argument, Known):
            self.known[target.name] = argument.value
        elif isinstance(argument, Constant) and target.name in self._assigned_once:
            self.constants[target.name] = argument
        elif isinstance(argument, Constant):
            self.assign(target, argument.name)
        else:
            self.assign(target, self.read_register(argument))

    def _copy(self, target: ir.Var, value: ir.Var, kind: Any) -> None:
        if value.name in self.known:
            self.known[target.name] = self.known[value.name]
        elif value.name in self.constants and target.name in self._assigned_once:
            constant = self.constants[value.name]
            name = self._constant_as(constant, self.type(value), kind)
            self.constants[target.name] = Constant(name, self.translation.namespace[name])
        else:
            self.assign(target, self.use(value, kind))

    def _constant_array(self, target: ir.Var, array: np.ndarray) -> None:
        self.constants[target.name] = Constant(
            self.translation.name(self.translation.constant_array(array)), None
        )

    # -- Expressions ----------------------------------------------------------------------------

    def _expr_binop(self, target: ir.Var, value: ir.Expr) -> None:
        self._operator(target, value, value.fn, [value.lhs, value.rhs])

    def _expr_inplace_binop(self, target: ir.Var, value: ir.Expr) -> None:
        self._operator(target, value, value.immutable_fn, [value.lhs, value.rhs])

    def _expr_unary(self, target: ir.Var, value: ir.Expr) -> None:
        if value.fn is operator.not_:
            self.assign(target, f"np.logical_not({self.use(value.value, types.boolean)})")
            return
        self._operator(target, value, value.fn, [value.value])

    def _operator(self, target: ir.Var, value: ir.Expr, function: Any, operands: list[Any]) -> None:
        if function in (operator.is_, operator.is_not):
            self._identity(target, function, operands)
            return
        signature = self.typed.calltypes[value]
        if function is operator.pow:
            parts = [
                self.use(each, kind) for each, kind in zip(operands, signature.args, strict=True)
            ]
            kind = dtype_name(register_dtype(signature.return_type))
            self.assign(target, f"power({', '.join(parts)}).astype({kind})")
            return
        if function not in SYMBOLS or any(register_dtype(kind) is None for kind in signature.args):
            raise self.unsupported(
                f"`{getattr(function, '__name__', function)}` of {signature.args} cannot be "
                "simulated.",
                "Use numbers here.",
            )
        self._arithmetic(target, function, operands, signature)

    def _arithmetic(
        self, target: ir.Var, function: Any, operands: list[Any], signature: Any
    ) -> None:
        kind = signature.return_type
        if function in _CONTRACTED and self._contract(target, function, operands, signature):
            return
        if function in _PRODUCTS and self._feeds_a_sum(target, kind):
            # The sum will read the factors in place of the product.
            self.products[target.name] = (operands, signature)
            return
        parts = [self.use(each, want) for each, want in zip(operands, signature.args, strict=True)]
        symbol = SYMBOLS[function]
        if len(parts) == 1:
            source = f"({symbol}{parts[0]})"
        else:
            source = f"({parts[0]} {symbol} {parts[1]})"
        have = signature.args[0] if not isinstance(kind, types.Boolean) else types.boolean
        if isinstance(kind, types.Integer) and kind.bitwidth < 64:
            source = f"wrap({source}, {kind.bitwidth}, {kind.signed})"
        elif register_dtype(kind) != register_dtype(have):
            source = f"{source}.astype({dtype_name(register_dtype(kind))})"
        self.assign(target, source)

    def _feeds_a_sum(self, target: ir.Var, kind: Any) -> bool:
        """Tell whether a product is used once, by a sum behind it in the same block."""
        if not self.translation.contract or kind not in (types.float32, types.float64):
            return False
        users = self._users.get(target.name, [])
        if len(users) != 1 or target.name not in self._assigned_once:
            return False
        expression = getattr(users[0], "value", None)
        if not isinstance(expression, ir.Expr) or expression.op not in ("binop", "inplace_binop"):
            return False
        signature = self.typed.calltypes[expression]
        inplace = expression.op == "inplace_binop"
        function = expression.immutable_fn if inplace else expression.fn
        same_block = any(users[0] is each for each in self._current_body(target))
        return same_block and function in _CONTRACTED and all(
            types.unliteral(each) == kind for each in signature.args
        )

    def _current_body(self, target: ir.Var) -> list[Any]:
        return next(
            block.body
            for block in self.typed.ir.blocks.values()
            if any(getattr(each, "target", None) is target for each in block.body)
        )

    def _contract(self, target: ir.Var, function: Any, operands: list[Any], signature: Any) -> bool:
        left, right = operands
        minus = function in (operator.sub, operator.isub)
        kind = signature.return_type
        if left.name in self.products:
            a, b = self._factors(left.name)
            c = self.use(right, kind)
            self.assign(target, f"fma({a}, {b}, {'-' if minus else ''}{c})")
            return True
        if right.name in self.products:
            a, b = self._factors(right.name)
            c = self.use(left, kind)
            self.assign(target, f"fma({'-' if minus else ''}{a}, {b}, {c})")
            return True
        return False

    def _factors(self, product: str) -> list[str]:
        operands, signature = self.products.pop(product)
        return [self.use(each, want) for each, want in zip(operands, signature.args, strict=True)]

    def _identity(self, target: ir.Var, function: Any, operands: list[Any]) -> None:
        none = [isinstance(types.unliteral(self.type(each)), types.NoneType) for each in operands]
        same = none[0] and none[1]
        self.set_constant(target, same if function is operator.is_ else not same)

    def _expr_cast(self, target: ir.Var, value: ir.Expr) -> None:
        self._copy(target, value.value, self.type(target))

    def _expr_build_tuple(self, target: ir.Var, value: ir.Expr) -> None:
        kinds = self.type(target)
        parts = [self.use(each, kind) for each, kind in zip(value.items, kinds, strict=True)]
        self.assign(target, f"({', '.join(parts)},)" if parts else "()")

    def _expr_exhaust_iter(self, target: ir.Var, value: ir.Expr) -> None:
        self.assign(target, self.use(value.value))

    def _expr_getiter(self, target: ir.Var, value: ir.Expr) -> None:
        kind = types.unliteral(self.type(value.value))
        if isinstance(kind, types.RangeType):
            self.assign(target, self.use(value.value))
        elif isinstance(kind, types.BaseTuple | types.Array):
            self.assign(target, f"sequence({self.use(value.value)})")
        else:
            raise self.unsupported(f"a loop over {kind} cannot be simulated.", "Loop over a range.")

    def _expr_iternext(self, target: ir.Var, value: ir.Expr) -> None:
        iterator = self.use(value.value)
        self.emit_location()
        self.assign(target, f"peek(g, {iterator})")
        register = self._register(value.value.name)
        self.emit(f"{self.define(register)} = advance({iterator})")

    def _expr_pair_first(self, target: ir.Var, value: ir.Expr) -> None:
        self.assign(target, f"{self.use(value.value)}[0]")

    def _expr_pair_second(self, target: ir.Var, value: ir.Expr) -> None:
        self.assign(target, f"{self.use(value.value)}[1]")

    def _expr_getitem(self, target: ir.Var, value: ir.Expr) -> None:
        self._load(target, value.value, self.use(value.index))

    def _expr_typed_getitem(self, target: ir.Var, value: ir.Expr) -> None:
        self._load(target, value.value, self.use(value.index))

    def _expr_static_getitem(self, target: ir.Var, value: ir.Expr) -> None:
        kind = types.unliteral(self.type(value.value))
        if isinstance(kind, types.BaseTuple):
            self.assign(target, f"{self.use(value.value)}[{value.index!r}]")
        elif isinstance(kind, types.Record):
            self._load_field(target, value.value, value.index)
        else:
            self._load(target, value.value, self._static_index(value))

    def _load(self, target: ir.Var, container: ir.Var, index: str) -> None:
        kind = types.unliteral(self.type(container))
        if isinstance(kind, types.BaseTuple):
            self.assign(target, f"pick({self.use(container)}, {index})")
            return
        self.emit_location()
        source = self.use(container)
        if isinstance(self.type(target), types.Array | types.Record):
            self.assign(target, f"{source}.part(g, {index})")
        else:
            self.assign(target, f"g.load({source}, {index})", loads=True)

    def _load_field(self, target: ir.Var, record: ir.Var, name: str) -> None:
        self.emit_location()
        source = f"{self.use(record)}.field({name!r})"
        if isinstance(self.type(target), types.Array | types.Record):
            self.assign(target, source)
        else:
            self.assign(target, f"g.load({source}, ())", loads=True)

    def _expr_getattr(self, target: ir.Var, value: ir.Expr) -> None:
        if isinstance(self.type(value.value), types.Record):
            self._load_field(target, value.value, value.attr)
        else:
            translate_member(self, target, value)

    def _expr_call(self, target: ir.Var, value: ir.Expr) -> None:
        translate_call(self, target, value)


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
