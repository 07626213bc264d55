"""Kernels that measure the machine: they do what they say, and the compiler leaves it to them."""

import linecache
import re

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba.cuda import types

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import (
    basics_bandwidth,
    basics_banks,
    basics_chase,
    basics_divergence,
    basics_latency,
    basics_streams,
    basics_tensor,
)
from llm_numba.runtime import (
    Launch,
    has_capability,
    is_architecture,
    launch_all,
    to_device,
    to_host,
)
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate

OPERATIONS = {each.name: each for each in basics_latency.OPERATIONS}


def taken(device="sim"):
    return to_device(np.zeros(2, np.int64), device)


def source_of(line):
    return linecache.getline(line.file, line.line).strip()


def reported(report, text):
    """What a report says of the line with this source."""
    (line,) = (each for each in report.lines if source_of(each) == text)
    return line


# -- The chase ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num_bytes", [128, 256, 384, 4096, 12345])
def test_a_ring_visits_each_line_once_before_it_comes_back(num_bytes):
    ring = basics_chase.make_ring(num_bytes)
    lines = num_bytes // 128
    assert ring.size == 32 * lines
    visited = [0]
    for _ in range(lines):
        visited.append(int(ring[visited[-1]]))
    assert sorted(visited[:-1]) == list(range(0, 32 * lines, 32))
    assert visited[-1] == 0


def test_a_ring_is_in_no_order_that_one_could_guess():
    ring = basics_chase.make_ring(1 << 17)
    places = np.arange(0, ring.size, 32)
    steps = np.sort(ring[places].astype(np.int64) - places)
    # Of 1024 steps of random length hardly any two are equal; a pattern would repeat.
    assert len(np.unique(steps)) > 700


def test_a_ring_without_a_line_is_refused():
    with pytest.raises(KernelArgumentError, match="'num_bytes' is 127"):
        basics_chase.make_ring(127)


@pytest.mark.parametrize("shared", [False, True])
def test_a_walk_ends_where_the_ring_says_and_goes_on_from_there(shared, device):
    host = basics_chase.make_ring(2048)
    ring, place = to_device(host, device), to_device(np.zeros(1, np.uint32), device)
    kernel, shared_bytes = basics_chase.chase, 0
    if shared:
        kernel, shared_bytes = basics_chase.chase_shared, host.nbytes
    here = 0
    for steps in (1, 5, 0, 40):
        args = (ring, steps, place, taken(device))
        launch_all([Launch(kernel, (1,), (1,), args, shared_bytes)])
        for _ in range(steps):
            here = host[here]
        assert to_host(place)[0] == here


def test_a_walk_reads_one_sector_a_step():
    ring, place = basics_chase.make_ring(4096), np.zeros(1, np.uint32)
    report = simulate(basics_chase.chase, 1, 1, (ring, 32, place, np.zeros(2, np.int64)))
    line = reported(report, "here = ring[here]")
    assert line.global_requests == line.global_sectors == 32


# -- Instructions --------------------------------------------------------------------------------


def expected(name, start, operand, count):
    """What `count` operations make of a warp's numbers, in float64 and Python's integers."""
    x = start.astype(np.float64) if start.dtype.kind == "f" else start.astype(object)
    for _ in range(count):
        x = {
            "multiply_add": lambda x: x * operand + 1,
            "multiply_add_integers": lambda x: (x * int(operand) + 1) % 2**32,
            "power": np.exp2,
            "shuffle": lambda x: x[np.arange(32) ^ 1],
            "vote": lambda x: np.resize(bits_of(x != 0), 32),
            "reduce": lambda x: np.resize(signed(x.sum()), 32),
            "match": lambda x: bits_of(x[:, None] == x),
        }[name](x)
    return x.astype(np.float64)


def signed(word):
    return (word + 2**31) % 2**32 - 2**31


def bits_of(lanes):
    """The last axis as the bits of a word."""
    return signed((lanes.astype(int).astype(object) << np.arange(32).astype(object)).sum(axis=-1))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_chain_repeats_its_operation(name, device):
    operation = OPERATIONS[name]
    dtype = np.dtype(operation.dtype)
    start = (np.arange(32) % 5).astype(dtype) / (64 if dtype.kind == "f" else 1)
    start = start.astype(dtype)
    operand = np.array([0.5 if dtype.kind == "f" else 3], dtype)
    out = to_device(np.zeros(32, dtype), device)
    args = (to_device(start, device), to_device(operand, device), 1, out, taken(device))
    launch_all([Launch(operation.kernel, (1,), (32,), args)])
    with np.errstate(over="ignore"):  # 2**x grows beyond all bounds
        wanted = expected(name, start, operand[0], basics_latency.IN_A_ROUND)
    # Each round halves the error before it, so at most two roundings of 2**-24 are left.
    np.testing.assert_allclose(to_host(out).astype(np.float64), wanted, rtol=2 * 2**-24)


def halves(*numbers):
    return np.array(numbers, "bfloat16").view(np.uint16)


@pytest.mark.parametrize("chains", [1, 3])
def test_warps_multiply_as_often_as_they_are_counted(chains, device):
    out, clocks = to_device(np.zeros(64, np.float32), device), taken(device)
    if not has_capability(out, (8, 0)):
        pytest.skip("this GPU has no mma.sync of bfloat16")
    args = (to_device(halves(1.5, 2), device), 2, out, clocks)
    launch_all([Launch(basics_tensor.by_warps(chains), (1,), (64,), args)])
    # Each of a thread's four sums of each chain grows by 16 products of 3.
    wanted = 2 * basics_tensor.IN_A_ROUND * chains * 4 * 16 * 3
    np.testing.assert_array_equal(to_host(out), wanted)
    assert basics_tensor.MMA_FLOPS * 3 == 2 * 16 * 3 * 128


def test_warpgroups_multiply_as_often_as_they_are_counted(device):
    out, clocks = to_device(np.zeros(128, np.float32), device), taken(device)
    if not is_architecture(out, (9, 0)):
        pytest.skip("this GPU has no wgmma")
    args = (to_device(halves(1.5, 2), device), 2, out, clocks)
    kernel, shared_bytes = basics_tensor.multiply_by_warpgroups, basics_tensor.SHARED_BYTES
    launch_all([Launch(kernel, (1,), (128,), args, shared_bytes)])
    np.testing.assert_array_equal(to_host(out), 2 * basics_tensor.BATCH * 128 * 16 * 3)


# -- Conflicts, paths ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "ways"), [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (33, 1)]
)
def test_each_load_has_as_many_conflicts_as_its_stride_makes(stride, ways):
    out = np.zeros(64, np.uint32)
    report = simulate(basics_banks.stay, 1, 64, (stride, 1, out, np.zeros(2, np.int64)))
    np.testing.assert_array_equal(out, np.arange(64) % 32 * stride)
    line = reported(report, "here = words[here]")
    assert line.max_bank_ways == ways
    assert line.shared_wavefronts == ways * line.shared_requests == ways * 2 * 32


@pytest.mark.parametrize(
    ("paths", "group", "ways"), [(1, 1, 1), (2, 1, 2), (32, 1, 32), (2, 32, 1), (4, 16, 2)]
)
def test_a_warp_goes_as_many_ways_as_its_lanes_do(paths, group, ways):
    out = np.zeros(64, np.float32)
    args = (paths, group, 1, out, np.zeros(2, np.int64))
    report = simulate(basics_divergence.part, 1, 64, args)
    assert len({t // group % paths for t in range(32)}) == ways
    # At each of its ways a warp of several parts; where all go one way it never does.
    parted = {source_of(each): each.divergent for each in report.lines if each.divergent}
    warps = 2
    assert parted.pop("if mine == path:", 0) == (ways * warps if ways > 1 else 0)
    assert parted == {"if t == 0:": 1}
    # x -> x / 2 + 1 comes ever closer to 2.
    np.testing.assert_allclose(out, 2, atol=64 / 2**32)


# -- Bandwidth -------------------------------------------------------------------------------------


def test_what_is_read_around_is_read_as_often_as_it_fits(device):
    x = np.random.default_rng(0).integers(-8, 8, 1024).astype(np.float32)
    sums = to_device(np.zeros(64, np.float32), device)
    packets = 64 * basics_bandwidth.AT_ONCE * 3
    args = (to_device(x, device), packets, sums)
    launch_all([Launch(basics_bandwidth.read_around, (2,), (32,), args)])
    read = np.resize(x, 4 * packets)
    # Small integers: no addition is rounded.
    assert to_host(sums).sum() == read.sum()


@pytest.mark.parametrize(("stride", "offset"), [(1, 0), (1, 1), (4, 0), (32, 5)])
def test_a_stride_reads_each_of_its_words_once(stride, offset, device):
    count = 32 * basics_bandwidth.AT_ONCE * 2
    x = np.random.default_rng(0).integers(-8, 8, stride * count + offset).astype(np.float32)
    sums = to_device(np.zeros(32, np.float32), device)
    args = (to_device(x, device), stride, offset, count, sums)
    launch_all([Launch(basics_bandwidth.read_strided, (1,), (32,), args)])
    assert to_host(sums).sum() == x[offset::stride][:count].sum()


def test_shared_memory_is_read_without_a_conflict():
    sums = np.zeros(64, np.float32)
    report = simulate(basics_bandwidth.read_shared, 1, 64, (2, sums, np.zeros(2, np.int64)))
    line = reported(
        report, "a = ptx.load16(words, (i + 32 * j) * PACKET_WORDS & _SHARED_WORDS - 1)"
    )
    assert line.shared_wavefronts == line.ideal_wavefronts == 4 * line.shared_requests
    packets = np.arange(64)[:, None] + 32 * np.arange(8)
    np.testing.assert_array_equal(sums, (16 * (packets % 1024) + 6).sum(axis=1))


def test_grinding_takes_each_element_as_many_rounds(device):
    x = to_device(np.arange(50, dtype=np.float32), device)
    launch_all([Launch(basics_streams.grind, (2,), (32,), (x, 3))])
    np.testing.assert_array_equal(to_host(x), np.arange(50) / 8 + 1.75)


# -- Compiled --------------------------------------------------------------------------------------


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


WORDS, FLOATS, CLOCKS = types.uint32[::1], types.float32[::1], types.int64[::1]
NUMBER, HALVES = types.int64, types.uint16[::1]
KERNELS = {
    "chase": (basics_chase.chase, (WORDS, NUMBER, WORDS, CLOCKS)),
    "chase_shared": (basics_chase.chase_shared, (WORDS, NUMBER, WORDS, CLOCKS)),
    "stay": (basics_banks.stay, (NUMBER, NUMBER, WORDS, CLOCKS)),
    "part": (basics_divergence.part, (NUMBER, NUMBER, NUMBER, FLOATS, CLOCKS)),
    "read_around": (basics_bandwidth.read_around, (FLOATS, NUMBER, FLOATS)),
    "read_shared": (basics_bandwidth.read_shared, (NUMBER, FLOATS, CLOCKS)),
    "read_strided": (basics_bandwidth.read_strided, (FLOATS, *[NUMBER] * 3, FLOATS)),
    "grind": (basics_streams.grind, (FLOATS, NUMBER)),
    "by_warps": (basics_tensor.by_warps(8), (HALVES, NUMBER, FLOATS, CLOCKS)),
    "by_warpgroups": (basics_tensor.multiply_by_warpgroups, (HALVES, NUMBER, FLOATS, CLOCKS)),
}
for _name, _operation in OPERATIONS.items():
    _numbers = getattr(types, _operation.dtype)[::1]
    KERNELS[_name] = (_operation.kernel, (_numbers, _numbers, NUMBER, _numbers, CLOCKS))

# What is timed, and how often it must be there.
TIMED = {
    "chase": ("ld.global.[ub]32", 2),
    "chase_shared": ("ld.shared.[ub]32", 1),
    "stay": ("ld.shared.[ub]32", 32),
    "part": ("fma.rn.f32", 32),
    "read_shared": ("ld.shared.v4", 4),
    "multiply_add": ("fma.rn.f32", 32),
    "multiply_add_integers": ("mad.lo.[su]32", 32),
    "power": ("ex2.approx.ftz.f32", 32),
    "shuffle": ("shfl.sync.bfly", 32),
    "vote": ("vote.sync.ballot", 32),
    "reduce": ("redux.sync.add", 32),
    "match": ("match.any.sync", 32),
    "by_warps": ("mma.sync", 8 * basics_tensor.IN_A_ROUND),
    "by_warpgroups": ("wgmma.mma_async", basics_tensor.BATCH),
}
# What only some GPUs have: the least capability, or the one architecture.
LEAST = {each.name: each.capability for each in basics_latency.OPERATIONS} | {"by_warps": (8, 0)}
ONLY = {"by_warpgroups": basics_tensor.HOPPER}


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize("name", KERNELS)
def test_the_compiler_leaves_what_is_timed_where_it_is(name, capability):
    kernel, signature = KERNELS[name]
    if capability < LEAST.get(name, (7, 5)):
        pytest.skip("the instruction is newer")
    if name in ONLY:
        if capability != ONLY[name][:2]:
            pytest.skip("the instruction is another architecture's")
        capability = ONLY[name]
    text = compile_to_ptx(kernel, signature, capability)
    assert "0 bytes spill stores, 0 bytes spill loads" in assemble(text, capability)
    assert ".f64" not in text
    if name in TIMED:
        instruction, least = TIMED[name]
        assert len(re.findall(instruction, text)) >= least
        assert text.count("%clock64;") == 2


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("name", TIMED)
def test_it_stands_between_the_two_readings_of_the_clock(name):
    # Compilers for newer GPUs write blocks in another order than they run in.
    text = compile_to_ptx(*KERNELS[name], ONLY.get(name, (8, 0)))
    _, between, _ = text.split("%clock64;")
    instruction, least = TIMED[name]
    assert len(re.findall(instruction, between)) >= least - (name == "chase")
