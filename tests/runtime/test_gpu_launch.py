"""A launch on a GPU up to the driver's call, with a made-up CuPy, driver and compiler."""

import importlib
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from numba.cuda import dispatcher, types

from llm_numba.errors import KernelArgumentError, LaunchError
from llm_numba.runtime import Launch, launch, launch_all
from llm_numba.runtime.cubins import Cubin, CubinCache

F32 = types.float32


class DeviceArray:
    """As much of a CuPy array as a launch looks at, in the host's memory."""

    def __init__(self, host, gpu=0):
        self.host = host
        self.data = SimpleNamespace(ptr=host.ctypes.data, device_id=gpu)

    def __getattr__(self, name):
        return getattr(self.host, name)


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
                kernel=SimpleNamespace(handle=f"kernel of {len(signature)}", attributes=attributes),
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


def two(x, y):
    pass


def one(x):
    pass


@pytest.fixture
def gpu(monkeypatch):
    """The made-up machine: its current device and stream, and what was done to it."""
    machine = SimpleNamespace(device=0, stream=Stream(7), launches=[], granted=[], ranges=[])
    machine.status = 0
    machine.devices = []
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(
            getDevice=lambda: machine.device,
            setDevice=lambda number: machine.devices.append(number),
        ),
        get_current_stream=lambda: machine.stream,
        nvtx=SimpleNamespace(
            RangePush=machine.ranges.append, RangePop=lambda: machine.ranges.append("end")
        ),
        Device=lambda number: SimpleNamespace(
            attributes={"MaxSharedMemoryPerBlockOptin": 101376}, compute_capability="90"
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=DeviceArray, cuda=cuda))
    monkeypatch.delitem(sys.modules, "llm_numba.runtime.gpu", raising=False)
    module = importlib.import_module("llm_numba.runtime.gpu")

    def record(stream, config, kernel, *parameters):
        machine.launches.append(SimpleNamespace(**locals()))

    def grant(attribute, value, kernel, device):
        assert attribute.name == "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        machine.granted.append((kernel, value, int(device)))
        return (module.driver.CUresult(machine.status),)

    monkeypatch.setattr(module, "driver_launch", record)
    monkeypatch.setattr(module, "Stream", SimpleNamespace(from_handle=lambda ptr: f"stream {ptr}"))
    monkeypatch.setattr(module.driver, "cuKernelSetAttribute", grant)
    yield machine
    monkeypatch.delitem(sys.modules, "llm_numba.runtime.gpu", raising=False)


def array(shape=(4,), dtype=np.float32, gpu=0):
    return DeviceArray(np.zeros(shape, dtype), gpu)


# -- What a kernel is compiled for --------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "numba_type"),
    [
        (array((3,)), types.Array(F32, 1, "C")),
        (array((3, 4)), types.Array(F32, 2, "C")),
        (DeviceArray(np.zeros((3, 4), np.float32).T), types.Array(F32, 2, "F")),
        (DeviceArray(np.zeros((3, 4), np.float32)[:, ::2]), types.Array(F32, 2, "A")),
        (array((3,), np.float16), types.Array(types.float16, 1, "C")),
        (array((3,), ml_dtypes.bfloat16), types.Array(types.uint16, 1, "C")),
        (array((3,), np.int64), types.Array(types.int64, 1, "C")),
        (array(()), types.Array(F32, 0, "C")),
        (array((0, 5)), types.Array(F32, 2, "C")),
        (3, types.int64),
        (2.5, types.float64),
        (True, types.boolean),
        (np.int32(3), types.int32),
        (np.uint64(3), types.uint64),
        (np.float32(3), types.float32),
        (np.float16(3), types.float16),
        (np.bool_(True), types.boolean),
    ],
)
def test_types_of_arguments_are_numbas(value, numba_type, gpu):
    kernel = Kernel(two)
    launch(kernel, 1, 1, (value, array()))
    assert kernel.compiled[0][0] == numba_type


def test_the_same_types_compile_once(gpu):
    kernel = Kernel(two)
    for n in (3, 5, 3):
        launch(kernel, 1, 1, (array((n,)), n))
    launch(kernel, 1, 1, (array(), np.int64(3)))
    assert len(kernel.compiled) == 1
    launch(kernel, 1, 1, (array(), np.int32(3)))
    launch(kernel, 1, 1, (array((2, 2)), 3))
    assert len(kernel.compiled) == 3
    assert len(gpu.launches) == 6


def test_each_gpu_loads_a_kernel_of_its_own(gpu):
    kernel = Kernel(one)
    launch(kernel, 1, 1, (array(gpu=0),))
    gpu.device = 1
    launch(kernel, 1, 1, (array(gpu=1),))
    launch(kernel, 1, 1, (array(gpu=1),))
    assert len(kernel.bound) == 2
    assert gpu.devices == [0, 1, 1]


# -- What the driver is told --------------------------------------------------------------------


def numbas_own_layout(value, numba_type):
    """Lay an argument out as Numba's launch does, given the same memory."""
    if isinstance(value, DeviceArray):
        host = value.view(np.uint16) if value.dtype == ml_dtypes.bfloat16 else value.host
        view = SimpleNamespace(
            size=host.size,
            dtype=host.dtype,
            ptr=host.ctypes.data,
            shape=host.shape,
            _layout=SimpleNamespace(
                strides_in_bytes=host.strides,
                is_contiguous_c=host.flags.c_contiguous,
                is_contiguous_f=host.flags.f_contiguous,
            ),
        )
        value = SimpleNamespace(__cuda_memory__=True, _strided_memory_view_shim=view)
    parameters = []
    launcher = dispatcher._Kernel.__new__(dispatcher._Kernel)
    launcher.extensions = []
    launcher._prepare_args(numba_type, value, 0, [], parameters)
    return parameters


@pytest.mark.parametrize(
    "value",
    [
        array((5,)),
        array((3, 4, 2), np.float16),
        array((3, 4), ml_dtypes.bfloat16),
        DeviceArray(np.zeros((6, 4), np.int32)[::2, 1:3]),
        DeviceArray(np.zeros((6, 4), np.int32).T),
        array((0, 5)),
        array(()),
    ],
)
def test_arrays_are_laid_out_as_numba_lays_them_out(value, gpu):
    kernel = Kernel(one)
    launch(kernel, 1, 1, (value,))
    parameters = gpu.launches[0].parameters
    assert list(parameters) == numbas_own_layout(value, kernel.compiled[0][0])


def test_scalars_go_as_they_are_and_in_order(gpu):
    x = array((2,))
    launch(Kernel(two), 1, 1, (np.float32(0.5), x))
    assert type(gpu.launches[0].parameters[0]) is np.float32
    assert gpu.launches[0].parameters[1:] == (0, 0, 2, 4, x.data.ptr, 2, 4)


def test_grid_block_and_shared_memory_are_told(gpu):
    launch(Kernel(one), (5, 6), 128, (array(),), 1024)
    config = gpu.launches[0].config
    assert (config.grid, config.block, config.shmem_size) == ((5, 6, 1), (128, 1, 1), 1024)
    assert not config.is_cooperative


def test_kernels_that_synchronise_the_grid_are_launched_together(gpu, monkeypatch):
    # The real description of such a launch asks the driver whether the GPU can do it.
    module = sys.modules["llm_numba.runtime.gpu"]
    monkeypatch.setattr(module, "LaunchConfig", lambda **options: SimpleNamespace(**options))
    launch(Kernel(one, cooperative=True), 1, 1, (array(),))
    assert gpu.launches[0].config.is_cooperative


@pytest.mark.parametrize(
    ("stream", "pointer"),
    [
        (None, 7),
        (Stream(0), 0),
        (Stream(11), 11),
        (SimpleNamespace(__cuda_stream__=lambda: (0, 13)), 13),
    ],
    ids=["current", "null", "cupy", "numba"],
)
def test_the_stream_is_cupys_current_one_or_the_one_given(stream, pointer, gpu):
    launch(Kernel(one), 1, 1, (array(),), stream=stream)
    assert gpu.launches[0].stream == f"stream {pointer}"


def test_launches_of_a_plan_share_the_stream(gpu):
    launch_all([Launch(Kernel(one), (1,), (1,), (array(),))] * 2, stream=Stream(11))
    assert [each.stream for each in gpu.launches] == ["stream 11"] * 2


def test_a_profiler_sees_the_kernels_name(gpu):
    launch(Kernel(two), 1, 1, (array(), 1))
    assert gpu.ranges == ["two", "end"]


def test_an_array_of_another_gpu_is_refused_by_name(gpu):
    with pytest.raises(KernelArgumentError, match="'y' lies on GPU 1, the current GPU is 0"):
        launch(Kernel(two), 1, 1, (array(gpu=0), array(gpu=1)))
    assert not gpu.launches


# -- Compiled kernels on disk -------------------------------------------------------------------


def test_what_the_cache_has_is_loaded_and_not_compiled(gpu, monkeypatch, tmp_path):
    module = sys.modules["llm_numba.runtime.gpu"]
    cache = CubinCache(tmp_path)
    asked = []
    monkeypatch.setattr(module, "cubin_cache", lambda: cache)
    monkeypatch.setattr(module, "fingerprint", lambda *what: asked.append(what) or "key")
    attributes = SimpleNamespace(shared_size_bytes=1024, num_regs=40, local_size_bytes=0)
    loaded = SimpleNamespace(handle="from disk", attributes=attributes)
    kernels = {(b"code", "entry"): loaded}
    object_code = SimpleNamespace(
        from_cubin=lambda code: SimpleNamespace(get_kernel=lambda entry: kernels[code, entry])
    )
    monkeypatch.setattr(module, "ObjectCode", object_code)
    cache.write("key", Cubin("entry", False, b"code"))
    kernel = Kernel(one)
    launch(kernel, 1, 1, (array(),), 48 * 1024)
    assert kernel.compiled == []
    assert gpu.launches[0].kernel is loaded
    # Static shared memory is known of it too.
    assert gpu.granted == [("from disk", 48 * 1024, 0)]
    assert asked == [(kernel, (types.Array(F32, 1, "C"),), "90")]


def test_what_was_compiled_is_kept(gpu, monkeypatch, tmp_path):
    module = sys.modules["llm_numba.runtime.gpu"]
    monkeypatch.setattr(module, "cubin_cache", lambda: CubinCache(tmp_path))
    monkeypatch.setattr(module, "fingerprint", lambda *what: "key")
    launch(Kernel(one), 1, 1, (array(),))
    assert CubinCache(tmp_path).read("key") == Cubin("entry of 1", False, b"code of 1")


@pytest.mark.parametrize("cached", [False, True])
def test_without_a_cache_or_a_name_in_it_each_process_compiles(cached, gpu, monkeypatch, tmp_path):
    module = sys.modules["llm_numba.runtime.gpu"]
    monkeypatch.setattr(module, "cubin_cache", lambda: CubinCache(tmp_path) if cached else None)
    monkeypatch.setattr(module, "fingerprint", lambda *what: None if cached else "key")
    kernel = Kernel(one)
    launch(kernel, 1, 1, (array(),))
    assert len(kernel.compiled) == 1
    assert CubinCache(tmp_path).files() == []


# -- Shared memory above 48 KiB -----------------------------------------------------------------


@pytest.mark.parametrize(("static", "dynamic"), [(0, 48 * 1024), (16, 48 * 1024 - 16), (9, 0)])
def test_48_kib_need_no_permission(static, dynamic, gpu):
    launch(Kernel(one, static), 1, 1, (array(),), dynamic)
    assert gpu.granted == []


def test_permission_for_more_is_asked_once_and_never_lowered(gpu):
    kernel = Kernel(two, static=1024)
    for shared_bytes in (48 * 1024, 100_000, 60_000, 100_000):
        launch(kernel, 1, 1, (array(), 1), shared_bytes)
    # The same compiled kernel by another key.
    launch(kernel, 1, 1, (array(), np.int64(1)), 70_000)
    assert gpu.granted == [("kernel of 2", 48 * 1024, 0), ("kernel of 2", 100_000, 0)]
    assert len(gpu.launches) == 5


def test_more_than_the_gpu_has_is_refused_with_what_it_has(gpu):
    gpu.status = 1
    with pytest.raises(LaunchError, match="asks for 200000 bytes") as caught:
        launch(Kernel(one), 1, 1, (array(),), 200_000)
    assert "GPU 0 gives a block 101376 bytes" in caught.value.remedy
    assert not gpu.launches
