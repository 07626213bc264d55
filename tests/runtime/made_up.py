"""As much of a GPU as a launch needs, in the host's memory: a made-up CuPy, driver and compiler."""

import contextlib
import ctypes
import importlib
import sys
from types import SimpleNamespace

import numpy as np

MODULES = tuple(f"llm_numba.runtime.{name}" for name in ("prepared", "gpu", "replays"))


class Memory:
    """A pointer of CuPy's, into the host's memory."""

    def __init__(self, ptr, device_id=0, owner=None):
        self.ptr, self.device_id, self._owner = ptr, device_id, owner

    def __add__(self, offset):
        return Memory(self.ptr + offset, self.device_id, self._owner)


class Device(contextlib.nullcontext):
    """A GPU of CuPy's."""

    def __init__(self, number):
        super().__init__()
        self.id = number
        self.attributes = {"MaxSharedMemoryPerBlockOptin": 101376, "MultiProcessorCount": 132}
        self.compute_capability = "90"


class DeviceArray:
    """As much of a CuPy array as launchers look at."""

    def __init__(self, shape, dtype=float, memptr=None, strides=None):
        dtype = np.dtype(dtype)
        steps = strides or np.zeros(shape, np.uint8).strides * np.array(dtype.itemsize)
        span = sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) + dtype.itemsize
        buffer = (ctypes.c_char * int(span)).from_address(memptr.ptr)
        self.host, self.data = np.ndarray(shape, dtype, buffer, 0, strides), memptr

    @classmethod
    def of(cls, host, gpu=0):
        """Take a NumPy array's memory for a GPU's."""
        array = cls.__new__(cls)
        array.host, array.data = host, Memory(host.ctypes.data, gpu, host)
        return array

    @property
    def device(self):
        return Device(self.data.device_id)

    def __getattr__(self, name):
        if name in ("reshape", "view"):
            return lambda *args: self.of(getattr(self.host, name)(*args), self.data.device_id)
        return getattr(self.host, name)

    def __getitem__(self, index):
        return self.of(self.host[index], self.data.device_id)

    def __len__(self):
        return len(self.host)


class DriverError(RuntimeError):
    def __init__(self, status):
        super().__init__(status)
        self.status = status


class Stream:
    def __init__(self, ptr):
        self.ptr = ptr


class Kernel:
    """A kernel whose compilation is noted; ``static`` is its static shared memory."""

    def __init__(self, py_func, static=0, cooperative=False):
        self.py_func = py_func
        self.static = static
        self.cooperative = cooperative
        self.compiled, self.bound = [], []
        self._overloads = {}

    def compile(self, signature):
        if signature not in self._overloads:
            self.compiled.append(signature)
            attributes = SimpleNamespace(
                shared_size_bytes=self.static, num_regs=40, local_size_bytes=0
            )
            function = SimpleNamespace(
                kernel=SimpleNamespace(handle=100 + len(signature), attributes=attributes),
            )
            self._overloads[signature] = SimpleNamespace(
                cooperative=self.cooperative,
                bind=lambda: self.bound.append(signature),
                entry_name=f"entry of {len(signature)}",
                library=SimpleNamespace(
                    get_cufunc=lambda: function,
                    get_cubin=lambda: SimpleNamespace(code=b"code of %d" % len(signature)),
                ),
            )
        return self._overloads[signature]


def array(shape=(4,), dtype=np.float32, gpu=0):
    """Zeros, at an address as a GPU's allocator gives it: none, if there are no elements."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 512, np.uint8)
    begin = -memory.ctypes.data % 512
    made = DeviceArray.of(memory[begin : begin + size].view(dtype).reshape(shape), gpu)
    if size == 0:
        made.data = Memory(0, gpu)
    return made


def made_up_gpu(monkeypatch):
    """The made-up machine: its current device and stream, and what was done to it."""
    machine = SimpleNamespace(device=0, stream=Stream(7), launches=[], granted=[], ranges=[])
    machine.status = machine.launch_status = 0
    machine.devices, machine.allocated = [], []
    machine.before_launch = lambda: None
    cuda = SimpleNamespace(
        driver=SimpleNamespace(CUDADriverError=DriverError),
        runtime=SimpleNamespace(
            getDevice=lambda: machine.device,
            setDevice=lambda number: machine.devices.append(number),
        ),
        get_current_stream=lambda: machine.stream,
        nvtx=SimpleNamespace(
            RangePush=machine.ranges.append, RangePop=lambda: machine.ranges.append("end")
        ),
        Device=Device,
    )

    def new(shape, dtype):
        made = array(shape if isinstance(shape, tuple) else (shape,), dtype, machine.device)
        machine.allocated.append(made)
        return made

    cupy = SimpleNamespace(ndarray=DeviceArray, cuda=cuda, empty=new)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    prepared, module, machine.replays = map(importlib.import_module, MODULES)

    def record(config, function, arguments, extra):
        machine.before_launch()
        # The driver reads as many addresses as the kernel has parameters, and each one's bytes.
        lengths = sizes[arguments]
        addresses = (ctypes.c_void_p * len(lengths)).from_address(arguments)
        parameters = list(map(ctypes.string_at, addresses, lengths))
        stream, function = int(config.hStream), int(function)
        machine.launches.append(SimpleNamespace(**locals()))
        return (prepared.driver.CUresult(machine.launch_status),)

    def prepare(launch, *what):
        init(launch, *what)
        begin, length = launch.slots.buffer_info()
        sizes[launch._address] = np.diff([*launch._list, begin + 8 * length]).tolist()

    def grant(attribute, value, kernel, device):
        assert attribute.name == "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        machine.granted.append((kernel, value, int(device)))
        return (module.driver.CUresult(machine.status),)

    init, sizes = prepared.PreparedLaunch.__init__, {}
    monkeypatch.setattr(prepared.PreparedLaunch, "__init__", prepare)
    monkeypatch.setattr(prepared.driver, "cuLaunchKernelEx", record)
    monkeypatch.setattr(module.driver, "cuKernelSetAttribute", grant)
    yield machine
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
