"""A launch on a GPU up to the driver's call, with a made-up CuPy, driver and compiler."""

import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from made_up import DeviceArray, DriverError, Kernel, Stream, array
from numba.cuda import dispatcher, types

from llm_numba.errors import KernelArgumentError, LaunchError
from llm_numba.runtime import Launch, launch, launch_all
from llm_numba.runtime.cubins import Cubin, CubinCache
from llm_numba.simulator.clusters import in_clusters

F32 = types.float32


def two(x, y):
    pass


def one(x):
    pass


def nothing():
    pass


def numbers(parameters):
    """What 64-bit numbers of parameters say."""
    return [int.from_bytes(each, "little", signed=True) for each in parameters]


# -- What a kernel is compiled for --------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "numba_type"),
    [
        (array((3,)), types.Array(F32, 1, "C")),
        (array((3, 4)), types.Array(F32, 2, "C")),
        (DeviceArray.of(np.zeros((3, 4), np.float32).T), types.Array(F32, 2, "F")),
        (DeviceArray.of(np.zeros((3, 4), np.float32)[:, ::2]), types.Array(F32, 2, "A")),
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
            ptr=value.data.ptr,
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
        DeviceArray.of(np.zeros((6, 4), np.int32)[::2, 1:3]),
        DeviceArray.of(np.zeros((6, 4), np.int32).T),
        array((0, 5)),
        array(()),
    ],
)
def test_arrays_are_laid_out_as_numba_lays_them_out(value, gpu):
    kernel = Kernel(one)
    launch(kernel, 1, 1, (value,))
    expected = numbas_own_layout(value, kernel.compiled[0][0])
    assert numbers(gpu.launches[0].parameters) == expected


@pytest.mark.parametrize(
    "value",
    [
        3,
        -2,
        2.5,
        True,
        np.float16(0.1),
        np.float32(0.1),
        np.float64(0.1),
        np.int8(-3),
        np.uint16(2**16 - 1),
        np.int32(-(2**31)),
        np.uint64(2**64 - 1),
        np.bool_(True),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}",
)
def test_scalars_go_bit_for_bit_and_in_order(value, gpu):
    x = array((2,))
    launch(Kernel(two), 1, 1, (value, x))
    scalar, *rest = gpu.launches[0].parameters
    expected = np.asarray(value).tobytes()
    assert scalar == expected + bytes(8 - len(expected))
    assert numbers(rest) == [0, 0, 2, 4, x.data.ptr, 2, 4]


def test_a_number_that_no_kernel_takes_is_refused(gpu):
    with pytest.raises(KernelArgumentError, match="of type complex"):
        launch(Kernel(two), 1, 1, (1j, array()))


def test_a_kernel_without_arguments_is_launched(gpu, monkeypatch):
    module = sys.modules["llm_numba.runtime.launch"]
    monkeypatch.setattr(module, "kernel_device", lambda: "cuda")
    launch(Kernel(nothing), 1, 1, ())
    assert gpu.launches[0].parameters == []


def test_grid_block_and_shared_memory_are_told(gpu):
    launch(Kernel(one), (5, 6), 128, (array(),), 1024)
    config = gpu.launches[0].config
    assert (config.gridDimX, config.gridDimY, config.gridDimZ) == (5, 6, 1)
    assert (config.blockDimX, config.blockDimY, config.blockDimZ) == (128, 1, 1)
    assert (config.sharedMemBytes, config.numAttrs) == (1024, 0)


def test_kernels_that_synchronise_the_grid_are_launched_together(gpu):
    launch(Kernel(one, cooperative=True), 1, 1, (array(),))
    config = gpu.launches[0].config
    assert config.numAttrs == 1
    assert config.attrs[0].id.name == "CU_LAUNCH_ATTRIBUTE_COOPERATIVE"
    assert config.attrs[0].value.cooperative == 1


def test_a_kernel_starts_early_where_both_sides_want_it(gpu, monkeypatch):
    kernel = Kernel(one)
    monkeypatch.setattr(sys.modules["llm_numba.runtime.gpu"], "begins_early", lambda kernel: True)
    launch(kernel, 1, 1, (array(),))
    (attribute,) = gpu.launches[0].config.attrs
    assert attribute.id.name == "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION"
    assert attribute.value.programmaticStreamSerializationAllowed == 1


def test_blocks_form_clusters_where_the_kernel_says_so(gpu):
    launch(in_clusters(4)(Kernel(one)), (8, 3), 32, (array(),))
    config = gpu.launches[0].config
    (attribute,) = config.attrs
    assert (config.gridDimX, config.gridDimY) == (8, 3)
    assert attribute.id.name == "CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION"
    lengths = attribute.value.clusterDim
    assert (lengths.x, lengths.y, lengths.z) == (4, 1, 1)


def test_what_the_driver_refuses_is_cupys_error(gpu):
    gpu.launch_status = 1
    with pytest.raises(DriverError, match="1"):
        launch(Kernel(one), 1, 1, (array(),))
    assert gpu.ranges == ["one", "end"]


def test_blocks_that_find_no_room_together_are_an_error_with_a_remedy(gpu):
    gpu.launch_status = 720  # CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE
    with pytest.raises(LaunchError, match=r"6 blocks of kernel 'one' wait .* Launch fewer blocks"):
        launch(Kernel(one), (3, 2), 1, (array(),))


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
    assert gpu.launches[0].stream == pointer


def test_launches_of_a_plan_share_the_stream(gpu):
    launch_all([Launch(Kernel(one), (1,), (1,), (array(),))] * 2, stream=Stream(11))
    assert [each.stream for each in gpu.launches] == [11] * 2


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
    loaded = SimpleNamespace(handle=5, attributes=attributes)
    kernels = {(b"code", "entry"): loaded}
    object_code = SimpleNamespace(
        from_cubin=lambda code: SimpleNamespace(get_kernel=lambda entry: kernels[code, entry])
    )
    monkeypatch.setattr(module, "ObjectCode", object_code)
    cache.write("key", Cubin("entry", False, b"code"))
    kernel = Kernel(one)
    launch(kernel, 1, 1, (array(),), 48 * 1024)
    assert kernel.compiled == []
    assert gpu.launches[0].function == 5
    # Static shared memory is known of it too.
    assert gpu.granted == [(5, 48 * 1024, 0)]
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
    assert gpu.granted == [(102, 48 * 1024, 0), (102, 100_000, 0)]
    assert len(gpu.launches) == 5


def test_more_than_the_gpu_has_is_refused_with_what_it_has(gpu):
    gpu.status = 1
    with pytest.raises(LaunchError, match="asks for 200000 bytes") as caught:
        launch(Kernel(one), 1, 1, (array(),), 200_000)
    assert "GPU 0 gives a block 101376 bytes" in caught.value.remedy
    assert not gpu.launches
