"""Collectives of several ranks, all of them run at once in the simulator.

A sum is held to two things. Its bits are those of adding in float32 in the order of ranks and
rounding once, on every rank. And it is near the sum in float64: P - 1 additions in float32 are off
by at most (P - 1) u times the sum of magnitudes, and storing rounds by u_s of the result.
"""

import functools
import re

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference, runtime
from llm_numba.errors import KernelArgumentError, ParallelError
from llm_numba.kernels import peer, peer_push
from llm_numba.kernels.layernorm import add_rms_norm
from llm_numba.parallel.peer import simulated_links
from llm_numba.reference.rank_sums import combine_parts
from llm_numba.runtime import intercept, overlapping, to_device, to_host
from llm_numba.runtime.devices import simulate_ranks
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem, resources, signature_of
from llm_numba.runtime.overlap import begins_early

DTYPES = ["float32", "float16", "bfloat16"]
STEPS = ["push", "one_shot", "two_shot"]
FETCHED = STEPS[1:]
# One number, packets with a rest, three teams of which two show twice what they have room for. What
# is pushed is whole packets: one, two teams, three of which the last has fewer packets.
SIZES = {"one_shot": [1, 37, 383], "two_shot": [1, 37, 383], "push": [8, 192, 296]}

each_step = pytest.mark.parametrize("step", STEPS)
each_fetched = pytest.mark.parametrize("step", FETCHED)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """Blocks of one warp and a bit, or of less: a laptop runs eight ranks of several teams."""
    monkeypatch.setattr(peer, "THREADS", 40)
    monkeypatch.setattr(peer, "PUSH_THREADS", 12)


def parts_of(ranks, shape, dtype, seed=0):
    """What each rank has: numbers whose sum depends on the order."""
    rng = np.random.default_rng([seed, ranks])
    return [rng.normal(scale=3.0**rank, size=shape).astype(dtype) for rank in range(ranks)]


def on_device(arrays, offset=0):
    """Copy arrays to a place that is `offset` elements behind one aligned to 16 bytes."""
    copies = []
    for array in arrays:
        memory = to_device(np.zeros(array.size + offset, array.dtype), "sim")
        copy = memory[offset:].reshape(array.shape)
        copy[...] = array
        copies.append(copy)
    return copies


def programs(links, launch):
    """A program for each rank: `launch` of its number and its link."""
    return [functools.partial(launch, link.rank, link) for link in links]


def reduced(parts, step=None, *, offset=0, teams=3, room_bytes=256, **options):
    links = simulated_links(len(parts), teams=teams, room_bytes=room_bytes)
    xs = on_device(parts, offset)
    run = programs(links, lambda rank, link: peer.all_reduce(xs[rank], link, step=step))
    simulate_ranks(run, **options)
    return [to_host(x) for x in xs]


def gathered(parts, **layout):
    links = simulated_links(len(parts), **{"teams": 3, "room_bytes": 256} | layout)
    xs, outs = on_device(parts), []
    run = programs(links, lambda rank, link: outs.append(peer.all_gather(xs[rank], link)))
    simulate_ranks(run, schedule="ordered")
    return [to_host(out) for out in outs]


def bits(array):
    return array.view(np.uint8)


def assert_sum(results, parts):
    expected = combine_parts(np.stack(parts))
    for result in results:
        np.testing.assert_array_equal(bits(result), bits(expected))
    exact = np.sum([part.astype(np.float64) for part in parts], axis=0)
    magnitudes = np.sum([np.abs(part.astype(np.float64)) for part in parts], axis=0)
    u, u_s = 2.0**-24, float(ml_dtypes.finfo(expected.dtype).eps) / 2
    # The sum that is rounded to storage is the one in float32: hence the small product.
    bound = (len(parts) - 1) * u * magnitudes * (1 + u_s) + u_s * np.abs(exact)
    assert (np.abs(results[0].astype(np.float64) - exact) <= bound).all()


# -- Values -------------------------------------------------------------------------------------


@each_step
@pytest.mark.parametrize(("dtype", "ranks"), [("float16", 2), ("bfloat16", 4), ("float32", 8)])
def test_all_ranks_get_the_same_sum(dtype, ranks, step):
    width = 4 if dtype == "float32" else 8
    for size in SIZES[step] if ranks == 2 else SIZES[step][-1:]:
        size = size * width // 8 if step == "push" else size
        parts = parts_of(ranks, size, dtype)
        assert_sum(reduced(parts, step, schedule="ordered"), parts)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "ranks"), [*zip(DTYPES, (2, 4, 8), strict=True)])
@each_step
def test_all_ranks_get_the_same_sum_of_blocks_of_the_usual_size(dtype, step, ranks, monkeypatch):
    monkeypatch.setattr(peer, "THREADS", 256)
    monkeypatch.setattr(peer, "PUSH_THREADS", 64)
    room_bytes = 4096 if step == "push" else 512
    for size in (8, 2048, 2504) if step == "push" else (1, 7, 2048, 2500, 3333):
        parts = parts_of(ranks, size, dtype)
        assert_sum(reduced(parts, step, room_bytes=room_bytes, schedule="ordered"), parts)


def test_a_thread_pushes_two_packets_if_there_are_many(monkeypatch):
    monkeypatch.setattr(peer, "MOST_THREADS", 32)
    for ranks, packets in ((2, 50), (4, 64)):  # of one team, whose last lanes have one, or none
        parts = parts_of(ranks, 8 * packets, "bfloat16")
        options = {"teams": 1, "room_bytes": 1024, "schedule": "ordered"}
        assert_sum(reduced(parts, "push", **options), parts)


@each_fetched
def test_threads_have_many_packets_under_way_and_take_no_more_than_there_are(step, monkeypatch):
    monkeypatch.setattr(peer, "THREADS", 32)
    for ranks, size in ((2, 3003), (3, 2700)):  # two rounds; the second ends within a batch
        parts = parts_of(ranks, size, "float32")
        options = {"teams": 1, "room_bytes": 8192, "schedule": "ordered"}
        assert_sum(reduced(parts, step, **options), parts)


@each_fetched
def test_arrays_that_are_not_aligned_are_added_one_by_one(step):
    parts = parts_of(2, (3, 67), "float16")
    assert_sum(reduced(parts, step, offset=1, schedule="ordered"), parts)


@each_step
def test_infinities_and_nan_stay_what_they_are(step):
    parts = [
        np.array([np.inf, np.inf, np.nan, 3e38], "f4"),
        np.array([1, -np.inf, 1, 3e38], "f4"),
    ]
    for result in reduced(parts, step, schedule="ordered"):
        np.testing.assert_array_equal(result, [np.inf, np.nan, np.nan, np.inf])


@pytest.mark.parametrize(
    ("dtype", "ranks"), [("bfloat16", 2), ("int32", 2), ("int64", 4), ("float16", 8)]
)
def test_all_ranks_gather_what_each_has(dtype, ranks):
    for shape in [(1,), (3, 11), (8, 40)]:
        parts = [part.astype(dtype) for part in parts_of(ranks, shape, "float32")]
        for out in gathered(parts):
            np.testing.assert_array_equal(bits(out), bits(np.concatenate(parts)))


def test_what_is_gathered_comes_in_batches_too(monkeypatch):
    monkeypatch.setattr(peer, "THREADS", 32)
    parts = parts_of(2, 3200, "float32")
    for out in gathered(parts, teams=1, room_bytes=8192):
        np.testing.assert_array_equal(bits(out), bits(np.concatenate(parts)))


def norm_operands(ranks, shape, dtype):
    rng = np.random.default_rng(list(shape))
    residual = rng.normal(scale=2, size=shape).astype(dtype)
    weight = rng.normal(1, 0.5, size=shape[1]).astype(dtype)
    return parts_of(ranks, shape, dtype), residual, weight


def normed(parts, residual, weight, eps=1e-5, *, in_place=False, teams=3, **options):
    """Return norm and sum of every rank."""
    links = simulated_links(len(parts), teams=teams, room_bytes=4096)
    xs, residuals = on_device(parts), on_device([residual] * len(parts))
    weight, results = to_device(weight, "sim"), []

    def launch(rank, link):
        x, r = xs[rank], residuals[rank]
        places = {"out": x, "total": r} if in_place else {}
        results.append(peer.all_reduce_norm(x, r, weight, eps, link, **places))

    simulate_ranks(programs(links, launch), **options)
    return [tuple(map(to_host, result)) for result in results]


def assert_normed(results, parts, residual, weight):
    """Assert the bits of the sum and the norm in two kernels, and that they are near the exact.

    Let d be the largest error of a row's sum. The row's root mean square moves by at most d as
    well, so z = t / rms moves by at most d (1 + |z|) / (rms - d).
    """
    operands = map(functools.partial(to_device, device="sim"), (residual, weight))
    expected = add_rms_norm(to_device(combine_parts(np.stack(parts)), "sim"), *operands, 1e-5)
    for each in results:
        for found, wanted in zip(each, expected, strict=True):
            np.testing.assert_array_equal(bits(found), bits(to_host(wanted)))
    first = results[0]
    terms = [each.astype(np.float64) for each in (*parts, residual)]
    u, u_s = 2.0**-24, float(ml_dtypes.finfo(residual.dtype).eps) / 2
    t, scale = np.sum(terms, axis=0), np.sum(np.abs(terms), axis=0)
    # The sum over ranks is rounded to storage, and that with the residual once more.
    error = len(parts) * u * scale * (1 + u_s) ** 2 + u_s * np.abs(t)
    error += u_s * np.abs(np.sum(terms[:-1], axis=0)) * (1 + u_s)
    assert (np.abs(first[1].astype(np.float64) - t) <= error).all()
    y = reference.rms_norm(t, weight.astype(np.float64), 1e-5)
    rms, d = np.sqrt((t**2).mean(axis=1, keepdims=True)), error.max(axis=1, keepdims=True)
    moved = np.abs(weight.astype(np.float64)) * d * (1 + np.abs(t) / rms) / (rms - d)
    # Adding up the squares takes fewer additions than there are, and the rest a few roundings.
    arithmetic = ((t.shape[1] + 16) * u + u_s) * (np.abs(y) + moved)
    assert (np.abs(first[0].astype(np.float64) - y) <= moved + arithmetic).all()


@pytest.mark.parametrize(("dtype", "ranks"), [("float32", 2), ("float16", 4), ("bfloat16", 8)])
def test_sum_residual_and_norm_in_one_kernel(dtype, ranks):
    for rows in (1, 3):
        parts, residual, weight = norm_operands(ranks, (rows, 264), dtype)
        results = normed(parts, residual, weight, schedule="ordered")
        assert_normed(results, parts, residual, weight)


def test_results_may_replace_operands():
    operands = norm_operands(2, (3, 128), "bfloat16")
    apart = normed(*operands, schedule="ordered")
    for rank, each in enumerate(normed(*operands, in_place=True, schedule="ordered")):
        np.testing.assert_array_equal(bits(each[0]), bits(apart[rank][0]))
        np.testing.assert_array_equal(bits(each[1]), bits(apart[rank][1]))


def launched_for(shape, dtype="float32", ranks=2, **layout):
    parts, residual, weight = norm_operands(ranks, shape, dtype)
    link, launches = simulated_links(ranks, **layout)[0], []
    x, residual, weight = on_device([parts[0], residual, weight])
    with intercept(launches.append):
        peer.all_reduce_norm(x, residual, weight, 1e-5, link)
    return [launch.kernel.py_func.__name__ for launch in launches]


def test_one_kernel_takes_few_rows_of_packets(monkeypatch):
    narrow, wide = {"room_bytes": 256}, {"room_bytes": 32 * 1024}
    assert launched_for((2, 64), **narrow) == ["pushed_norm"]
    assert launched_for((2, 128), "bfloat16", **narrow) == ["pushed_norm"]
    two_kernels = ["pushed", "norm_added"]
    assert launched_for((2, 68), **narrow) == two_kernels  # more than a team has room for
    assert launched_for((5, 64)) == two_kernels  # more rows than teams
    assert launched_for((2, 66), **narrow) == ["pushed", "norm_activated"]  # packets and a half
    assert launched_for((1, 4096), **wide) == ["pushed_norm"]
    assert launched_for((1, 4100), **wide) == two_kernels  # more than a block holds
    assert launched_for((1, 4096), ranks=8, **wide) == two_kernels  # with words of so many ranks
    assert launched_for((1, 2048), ranks=8, **wide) == ["pushed_norm"]
    monkeypatch.setattr(peer, "push_is_shorter", lambda nbytes, ranks: nbytes < 1000)
    assert launched_for((3, 64)) == ["pushed_norm"]
    assert launched_for((4, 64)) == ["one_shot", "norm_added"]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    # Two warps of two packets a thread; more rows than teams; a rest that is no packet; more than a
    # team has room for.
    [("bfloat16", (2, 904)), ("float32", (7, 512)), ("float16", (3, 67)), ("float32", (1, 1028))],
)
def test_rows_of_any_length_and_number(dtype, shape):
    operands = norm_operands(2, shape, dtype)
    assert_normed(normed(*operands, schedule="ordered"), *operands)


# -- Any order, and calls one after another -----------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@each_step
def test_whatever_thread_goes_first(step, seed):
    parts = parts_of(2, 160 if step == "push" else 155, "bfloat16")
    assert_sum(reduced(parts, step, teams=2, seed=seed), parts)


def mixed_calls(links, xs, outs):
    """Programs in which ranks call all collectives, of different sizes, one after another."""

    def launch(rank, link):
        for call, x in enumerate(xs[rank]):
            if call % 4 == 3:
                outs[rank].append(peer.all_gather(x, link))
            else:
                step = STEPS[call % 4] if x.size % 4 == 0 else "one_shot"
                outs[rank].append(peer.all_reduce(x, link, step=step))

    return programs(links, launch)


def run_mixed_calls(ranks, calls, **options):
    """Run them on one link a rank; return what each rank had and what it got, by calls."""
    sizes = [(16, 70, 1, 33, 128)[call % 5] for call in range(calls)]
    parts = [parts_of(ranks, size, "float32", seed=call) for call, size in enumerate(sizes)]
    xs = [on_device([parts[call][rank] for call in range(calls)]) for rank in range(ranks)]
    outs = [[] for _ in range(ranks)]
    links = options.pop("links", None) or simulated_links(ranks, teams=2, room_bytes=256)
    simulate_ranks(mixed_calls(links, xs, outs), **options)
    return parts, outs


def assert_mixed_calls(parts, outs):
    for rank in outs:
        for call, (result, given) in enumerate(zip(rank, parts, strict=True)):
            expected = np.concatenate(given) if call % 4 == 3 else combine_parts(np.stack(given))
            np.testing.assert_array_equal(bits(to_host(result)), bits(expected))


def test_calls_one_after_another_while_ranks_run_ahead():
    assert_mixed_calls(*run_mixed_calls(2, 9, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "orders"), [(2, 10), (4, 4), (8, 2)])
def test_many_calls_in_many_orders(ranks, orders):
    for seed in range(orders):
        assert_mixed_calls(*run_mixed_calls(ranks, 12, seed=seed))


@pytest.mark.parametrize(("size", "step"), [(70, "one_shot"), (72, "pushed")])
def test_a_replayed_graph_repeats_one_launch_with_the_same_arguments(size, step):
    parts, launches = parts_of(2, size, "float32"), [[], []]
    links, xs = simulated_links(2), on_device(parts)
    for rank, link in enumerate(links):
        with intercept(launches[rank].append):
            peer.all_reduce(xs[rank], link)
    assert launches[0][0].kernel.py_func.__name__ == step

    def replay(rank):
        for _ in range(20):
            runtime.launch(*launches[rank][0])

    simulate_ranks([functools.partial(replay, rank) for rank in range(2)], schedule="ordered")
    expected = combine_parts(np.stack(parts)) * np.float32(2**19)
    for x in xs:
        np.testing.assert_array_equal(bits(to_host(x)), bits(expected))


@pytest.mark.parametrize("schedule", ["ordered", "random"])
def test_calls_are_counted_beyond_what_32_bits_hold(schedule):
    for before in (2**30 - 3, 2**31 - 3):  # where the numbers wrap around, and the counters
        links = simulated_links(2, teams=2, room_bytes=256)
        for link in links:
            link.counters[...] = before
            link.flags[...] = np.array(2 * before).astype(np.int32)
            # All words were written again half way.
            link.calls[...], link.lines[...] = 2**32 - 2, np.uint64(2**31) << np.uint64(32)
        assert_mixed_calls(*run_mixed_calls(2, 9, links=links, schedule=schedule))
        # Two calls are pushed; of 70 numbers there is room for half, so two others count twice.
        assert links[0].counters[0] == np.array(before + 9).astype(np.int32)
        assert links[0].calls[0] == 0


def numbers_of(link, team, sender):
    """The numbers of all words that a rank has of another, by slots."""
    words = to_host(link.lines).view(np.uint32).reshape(2, link.calls.size, link.ranks, -1, 2)
    return words[:, team, sender, :, 1]


def test_no_word_grows_so_old_that_its_number_comes_again():
    """Slots that a long vector filled, and short ones did not, get new numbers in time."""
    links = simulated_links(2, teams=2, room_bytes=256)
    xs = [[to_device(np.zeros(n, "f4"), "sim") for n in (128, 128, 4, 4)] for _ in links]

    def run(first, last):
        calls = [
            lambda x=x, link=link: [peer.all_reduce(each, link, step="push") for each in x]
            for x, link in zip([each[first:last] for each in xs], links, strict=True)
        ]
        simulate_ranks(calls, schedule="ordered")

    run(0, 2)
    for rank, link in enumerate(links):
        for team in range(2):
            np.testing.assert_array_equal(
                *np.broadcast_arrays(numbers_of(link, team, 1 - rank), [[2], [1]])
            )
        link.calls[...] = 2**31 - 1
    run(2, 4)  # by the first team alone
    for rank, link in enumerate(links):
        found = numbers_of(link, 0, 1 - rank)
        np.testing.assert_array_equal(*np.broadcast_arrays(found, [[2**31], [2**31 + 1]]))


def test_rows_are_normed_in_any_order():
    operands = norm_operands(2, (3, 64), "bfloat16")
    results = normed(*operands, teams=2, seed=1)
    assert_normed(results, *operands)


# -- Which step, and bad arguments --------------------------------------------------------------


def test_short_vectors_are_pushed_and_long_ones_go_in_two_shots():
    assert peer.one_shot_is_shorter(1 << 30, 2)
    for ranks in (2, 4, 8):
        assert peer.push_is_shorter(64 * 1024, ranks)
        assert not peer.push_is_shorter(2 << 20, ranks)
        assert peer.one_shot_is_shorter(64 * 1024, ranks)
    for ranks in (4, 8):
        assert not peer.one_shot_is_shorter(1 << 20, ranks)


def test_the_step_is_chosen_by_size():
    x, launches = to_device(np.zeros(1 << 18, "f4"), "sim"), []
    link = simulated_links(4)[0]
    with intercept(launches.append):
        peer.all_reduce(x[:1024], link)
        peer.all_reduce(x[:1028], link)  # more than there is room for
        peer.all_reduce(x[:6], link)  # a packet and a half
        peer.all_reduce(x[2:6], link)  # between two packets
        peer.all_reduce(x, link)
        peer.all_reduce(x[:0], link)
    names = [launch.kernel.py_func.__name__ for launch in launches]
    assert names == ["pushed", "one_shot", "one_shot", "one_shot", "two_shot"]


def test_wrong_arguments_are_refused():
    link = simulated_links(2)[0]
    x = to_device(np.zeros((4, 8), "f4"), "sim")
    cases = {
        "'x' has dtype int32": lambda: peer.all_reduce(x.astype("i4"), link),
        "'x' has strides": lambda: peer.all_reduce(x.T, link),
        "'x' is a NumPy array": lambda: peer.all_reduce(np.zeros(3, "f4"), link),
        "'step' is 'ring'": lambda: peer.all_reduce(x, link, step="ring"),
        "'x' of 8 bytes cannot be pushed": lambda: peer.all_reduce(x[0, :2], link, step="push"),
        "'x' has dtype float64": lambda: peer.all_gather(x.astype("f8"), link),
        "'out' has shape": lambda: peer.all_gather(x, link, out=x),
        "'residual' has shape": lambda: peer.all_reduce_norm(x, x[:2], x[0], 1e-5, link),
        "'weight' has shape": lambda: peer.all_reduce_norm(x, x, x[0, :4], 1e-5, link),
        "'eps' is -1": lambda: peer.all_reduce_norm(x, x, x[0], -1, link),
        "of 9 ranks": lambda: peer.all_reduce(x, link._replace(ranks=9)),
        "is of 9 ranks": lambda: peer.all_reduce(x, link._replace(ranks=9), step="two_shot"),
    }
    for message, call in cases.items():
        with pytest.raises(KernelArgumentError, match=message):
            call()


def test_links_that_cannot_be_are_refused():
    for ranks in (1, 9):
        with pytest.raises(ParallelError, match="cannot be joined as peers"):
            simulated_links(ranks)
    bad = {"teams": 0}, {"room_bytes": 100}, {"room_bytes": 0}, {"pushed_bytes": 300}
    for wrong in bad:
        with pytest.raises(ParallelError, match="cannot be had"):
            simulated_links(2, **wrong)


# -- Compiled -----------------------------------------------------------------------------------


def launches_of(ranks, dtype):
    """A launch of each kernel."""
    link, launches = simulated_links(ranks, room_bytes=64 * 1024)[0], []
    x = to_device(np.zeros(1024, dtype), "sim")
    with intercept(launches.append):
        for step in STEPS:
            peer.all_reduce(x, link, step=step)
        peer.all_gather(x, link)
        longer = to_device(np.zeros(4 * 600 * 16 // x.itemsize, dtype), "sim")
        peer.all_reduce(longer, link, step="push")  # two packets a thread
        packets = 1000 if ranks <= 4 else 500
        row = to_device(np.zeros((1, 16 * packets // x.itemsize), dtype), "sim")
        peer.all_reduce_norm(row, row, row[0], 1e-5, link, out=row, total=row)
    return launches


def test_a_launch_of_each_is_compiled():
    names = [launch.kernel.py_func.__name__ for launch in launches_of(2, "float32")]
    assert names == ["pushed", "one_shot", "two_shot", "gather", "pushed", "pushed_norm"]


def test_what_is_pushed_may_begin_before_the_kernel_before_it_has_ended():
    with overlapping():
        early = [begins_early(launch.kernel) for launch in launches_of(2, "float32")]
    assert early == [True, False, False, False, True, True]


def assert_waits_before_it_touches_a_step(launch, text):
    """Assert that it loads addresses and weights before it waits, and does nothing else."""
    before, behind = text.split("griddepcontrol.wait;")
    packets = peer_push.HELD if launch.kernel.py_func.__name__ == "pushed_norm" else 0
    assert "griddepcontrol.launch_dependents" in before
    assert re.findall(r"\bst\.|\bld\.relaxed|\bbar\.", before) == []
    loads = re.findall(r"\bld\.(?!param)\S+", before)
    assert [".v4." in load for load in loads].count(True) == packets
    assert ["64" in load for load in loads].count(True) == len(loads) - packets
    assert "st.relaxed.sys" in behind


def most_under_way(text):
    """Of the loads of packets that follow each other with no store between, the most."""
    return max(part.count("L1::no_allocate.v4") for part in re.split(r"\bst\.", text))


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
def test_kernels_keep_to_registers_and_compute_in_float32(capability, ranks):
    for launch in launches_of(ranks, "bfloat16" if ranks < 8 else "float32"):
        found = resources(launch, capability)
        assert (found.spill_stores, found.spill_loads, found.stack_bytes) == (0, 0, 0)
        assert found.float64 == ()
        text = compile_to_ptx(launch.kernel, signature_of(launch), capability)
        if launch.kernel.py_func.__name__.startswith("pushed"):
            assert "st.relaxed.sys.global.v2.b64" in text
            if capability >= (9, 0):
                assert_waits_before_it_touches_a_step(launch, text)
        else:
            assert "st.release.sys.global.u32" in text
            is_copy = launch.kernel.py_func.__name__ == "gather"
            assert most_under_way(text) == (8 if is_copy else 16)
        # Through the cache of what nobody writes, a rank might see what was shown two calls ago.
        assert "ld.global.nc" not in text
