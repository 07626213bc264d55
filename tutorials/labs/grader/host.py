"""The child in which a student's Python runs, and nothing of the grader's does.

It begins as a bare interpreter that waits for orders, and forks for each check: a check never sees
what an earlier one left behind. The forked child loads the student's file with few names, answers
calls, and hands each launch to the grader. Arrays of a launcher are names only; their numbers lie
elsewhere, as those of a GPU do.
"""

import ast
import contextlib
import functools
import importlib
import os
import resource
import signal
import socket
import sys
import types
from typing import Any

import numpy as np

from grader import rules
from grader.channel import Channel, ClosedError, NotDataError, OnDevice
from grader.ranks import Rank

MEMORY_BYTES = 2 << 30
_MAX_PRINTED = 4000
# Of NumPy, what reads or writes files.
_NOT_OF_NUMPY = frozenset(
    "DataSource fromfile fromregex genfromtxt load loadtxt memmap save savetxt savez "
    "savez_compressed test show_config info".split()
)
# Of NumPy's parts, those with functions alone; others lead to the interpreter's own modules.
_PARTS_OF_NUMPY = ("fft", "linalg", "random")
_DENIED_EVENTS = ("open", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "import", "gc.")


class TimeUp(BaseException):
    """The child has used the seconds that it was given."""


class DeviceArray:
    """An array that lies on the device: its shape and kind can be read here, its numbers cannot.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(self, number: int, shape: tuple[int, ...], dtype: str) -> None:
        self.device_number = number
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def _numbers(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "this array lies on the device: a launcher can pass it to a kernel and ask for its "
            "shape and dtype, and only a kernel can read or write its numbers"
        )

    __getitem__ = __setitem__ = __iter__ = __array__ = _numbers


class HostKernel:
    """What a launcher sees of a kernel: something to launch."""

    def __init__(self, name: str, launch: Any) -> None:
        self.name = name
        self._launch = launch

    def __getitem__(self, shape: tuple[Any, ...]) -> Any:
        """Return what launches the kernel: ``kernel[grid, block](*args)``."""

        def start(*args: Any) -> None:
            self._launch(self, shape[0], shape[1], args, *shape[3:4])

        return start

    def __call__(self, *_: Any) -> None:
        """Refuse: a kernel has a grid and a block."""
        raise TypeError(f"a kernel is launched, not called: launch({self.name}, grid, block, args)")


class Program:
    """A student's file, loaded; and the way from it to the grader.

    Parameters
    ----------
    channel : Channel
    path : str
        How the file is named in messages.
    source : str
    imports : list of str
        What the lab allows beside the usual modules.
    """

    def __init__(self, channel: Channel, path: str, source: str, imports: list[str]) -> None:
        self.channel = channel
        self.path = path
        self.printed = ""
        self.objects: list[Any] = []
        self._allowed = (*rules.IMPORTS, *imports)
        modules = {name: _public(name) for name in ("math", "numpy", *imports)}
        modules["numba"] = self._numba()
        modules["numba.cuda"] = modules["numba"].cuda
        modules["llm_numba.runtime"] = types.SimpleNamespace(
            launch=self.launch, empty=self.empty, zeros=self.zeros
        )
        self._modules = modules
        self.names: dict[str, Any] = {"__name__": "student", "__builtins__": self._builtins()}
        code = compile(ast.parse(source, path), path, "exec", dont_inherit=True)
        _forbid()
        exec(code, self.names)

    def _builtins(self) -> dict[str, Any]:
        import builtins

        names = {name: getattr(builtins, name) for name in rules.BUILTINS}
        return names | {
            "__build_class__": builtins.__build_class__,
            "__import__": self._import,
            "print": self._print,
        }

    def _import(self, name: str, _: Any = None, __: Any = None, asked: Any = (), level: int = 0):
        if level or name not in self._modules:
            raise ImportError(f"{name!r} may not be imported here")
        if asked or "." not in name:
            return self._modules[name]
        # `import numba.cuda` binds numba.
        return self._modules[name.partition(".")[0]]

    def _print(self, *values: Any, sep: str = " ", end: str = "\n", **_: Any) -> None:
        self.printed = (self.printed + sep.join(map(str, values)) + end)[:_MAX_PRINTED]

    # -- What stands in for numba and llm_numba.runtime -----------------------------------------

    def _numba(self) -> types.SimpleNamespace:
        def jit(function: Any = None, **_: Any) -> Any:
            return jit if function is None else HostKernel(function.__name__, self.launch)

        numbers = {name: getattr(np, name) for name in rules.NUMBA_NAMES if hasattr(np, name)}
        return types.SimpleNamespace(
            cuda=types.SimpleNamespace(jit=jit), boolean=np.bool_, **numbers
        )

    def launch(
        self,
        kernel: Any,
        grid: Any,
        block: Any,
        args: Any = None,
        shared_bytes: int = 0,
        *more: Any,
    ) -> None:
        """Ask the grader to launch a kernel; return when it has run."""
        if not isinstance(kernel, HostKernel):
            raise TypeError(f"{kernel!r} is no kernel: launch takes a function with @cuda.jit")
        if more or not isinstance(args, tuple | list):
            raise TypeError(
                f"launch({kernel.name}, grid, block, args) takes the kernel's arguments as one "
                "tuple: (x, y), or (x,) if there is one"
            )
        self.ask("launch", kernel=kernel.name, grid=_extents("grid", grid),
                 block=_extents("block", block), args=tuple(args), shared_bytes=int(shared_bytes),
                 line=self.line())  # fmt: skip

    def empty(self, shape: Any, dtype: Any = np.float32, like: Any = None) -> DeviceArray:
        """Ask for an array on the device; what it holds is whatever lay there."""
        return self._allocate(shape, dtype, False)

    def zeros(self, shape: Any, dtype: Any = np.float32, like: Any = None) -> DeviceArray:
        """Ask for an array of zeros on the device."""
        return self._allocate(shape, dtype, True)

    def _allocate(self, shape: Any, dtype: Any, zero: bool) -> DeviceArray:
        shape = tuple(shape) if isinstance(shape, tuple | list) else (int(shape),)
        name = np.dtype(dtype).name
        return DeviceArray(self.ask("allocate", shape=shape, dtype=name, zero=zero), shape, name)

    def ask(self, event: str, **details: Any) -> Any:
        """Tell the grader what happens, and wait for its answer."""
        self.tell(event, **details)
        return self.channel.receive()

    def tell(self, event: str, **details: Any) -> None:
        """Tell the grader what happens."""
        self.channel.send({"event": event, **details})

    def line(self) -> int:
        """Return the line of the student's file that runs."""
        frame = sys._getframe()
        while frame is not None and frame.f_code.co_filename != self.path:
            frame = frame.f_back
        return frame.f_lineno if frame else 0

    # -- Orders ---------------------------------------------------------------------------------

    def obey(self, order: dict[str, Any]) -> Any:
        """Do what the grader asks for, and return what it is answered."""
        if not order.get("may_raise"):
            return self._do(order)
        try:
            self._do(order)
        except Exception as failure:
            return type(failure).__name__
        return None

    def _do(self, order: dict[str, Any]) -> Any:
        args = tuple(
            DeviceArray(each.device_number, *order["arrays"][each.device_number])
            if isinstance(each, OnDevice)
            else each
            for each in order.get("args", ())
        )
        match order["op"]:
            case "call":
                return self.named(order["name"])(*args)
            case "rank":
                rank = Rank(self, order["rank"], order["size"], order["allow"])
                return self.named(order["name"])(rank, *args)
            case "new":
                self.objects.append(self.named(order["name"])(*args))
                return len(self.objects) - 1
            case "method":
                return getattr(self.objects[order["object"]], order["name"])(*args)
            case "get":
                return getattr(self.objects[order["object"]], order["name"])

    def named(self, name: str) -> Any:
        """Return a function or class of the file."""
        if not callable(self.names.get(name)):
            raise NameError(f"the file defines no function or class {name!r}")
        return self.names[name]


def _public(name: str) -> types.SimpleNamespace:
    """Return a module's public names, without the modules among them."""
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None) or [n for n in dir(module) if not n.startswith("_")]
    found = {each: getattr(module, each) for each in set(names) - _NOT_OF_NUMPY}
    kept = {each: value for each, value in found.items() if not isinstance(value, types.ModuleType)}
    if name == "numpy":
        kept |= {part: _public(f"numpy.{part}") for part in _PARTS_OF_NUMPY}
    return types.SimpleNamespace(**kept)


def _extents(name: str, value: Any) -> tuple[int, ...]:
    axes = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(each, int | np.integer) for each in axes):
        raise TypeError(f"the {name} is {value!r}, and must be whole numbers")
    return tuple(map(int, axes))


@functools.cache
def _forbid() -> None:
    """Deny this process, from now on, what no lab needs."""
    sys.addaudithook(_deny)


def _deny(event: str, _: Any) -> None:
    if event.startswith(_DENIED_EVENTS):
        raise PermissionError(f"a lab's program may not do this ({event})")


def describe(failure: BaseException, path: str) -> dict[str, Any]:
    """Describe an exception by the lines of the student's own file.

    Parameters
    ----------
    failure : BaseException
    path : str
        Of that file.
    """
    frames, step = [], failure.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == path:
            frames.append((step.tb_lineno, step.tb_frame.f_code.co_name))
        step = step.tb_next
    if isinstance(failure, SyntaxError) and not frames:
        frames = [(failure.lineno or 1, "<module>")]
    try:
        message = str(failure)[:2000]
    except Exception:
        message = ""
    return {
        "event": "raised",
        "type": type(failure).__name__,
        "message": message,
        "frames": frames[-8:],
    }


def run_program(channel: Channel) -> None:
    """Load a file as the grader says, and obey orders until it has no more."""
    order = channel.receive()
    _limit(order["seconds"])
    program = None
    path = order["path"]
    try:
        program = Program(channel, path, order["source"], order["imports"])
        channel.send({"event": "returned", "value": None, "printed": program.printed})
        while True:
            order = channel.receive()
            value = program.obey(order)
            message = {"event": "returned", "value": value, "printed": program.printed}
            try:
                channel.send(message)
            except NotDataError as what:
                raise TypeError(
                    f"{order['name']} returned {what}, where plain data is asked for"
                ) from None
    except ClosedError:
        return
    except BaseException as failure:
        with contextlib.suppress(ClosedError):
            printed = program.printed if program else ""
            channel.send(describe(failure, path) | {"printed": printed})


def _limit(seconds: int) -> None:
    def time_up(*_: Any) -> None:
        raise TimeUp

    signal.signal(signal.SIGXCPU, time_up)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(number: int) -> None:
    """Fork a child for each socket that arrives, and say its process id.

    Parameters
    ----------
    number : int
        File descriptor of the socket that orders come from.
    """
    control = socket.socket(fileno=number)
    for name in ("math", "numpy"):
        _public(name)  # NumPy imports parts of itself when they are first asked for
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        child = os.fork()
        if child == 0:
            control.close()
            run_program(Channel(socket.socket(fileno=fds[0])))
            os._exit(0)
        os.close(fds[0])
        control.sendall(child.to_bytes(4, "little"))
