"""The choice among kernels of few rows: what was measured is what is chosen, or nearly as fast."""

import pytest

from llm_numba.kernels.gemm_hopper_few import choices, fastest
from llm_numba.kernels.gemm_skinny import rule
from llm_numba.kernels.gemm_skinny_multicast import slice_for
from llm_numba.runtime.room import Room

H100 = Room(multiprocessors=132, shared_bytes=227 * 1024, has_clusters=True)
# Microseconds on an H100, of one trial each.
MEASURED = {
    (32, 4096, 4096): {"streamed": 18.3, "multicast": 17.1},
    (32, 6144, 4096): {"streamed": 23.7, "multicast": 22.7},
    (32, 28672, 4096): {"streamed": 84.9, "multicast": 86.1},
    (32, 4096, 14336): {"streamed": 46.1, "multicast": 45.9},
    (128, 4096, 4096): {"streamed": 25.7, "multicast": 20.3, "whole": 24.7, "split": 21.9},
    (128, 6144, 4096): {"streamed": 33.5, "multicast": 25.0, "whole": 25.9, "split": 25.8},
    (128, 28672, 4096): {"streamed": 94.0, "multicast": 94.6, "whole": 87.7},
    (128, 4096, 14336): {"streamed": 60.1, "multicast": 55.5, "whole": 74.8, "split": 52.0},
    (128, 8192, 8192): {"whole": 53.5, "split": 54.4},
    (128, 10240, 8192): {"whole": 64.2, "split": 66.8},
    (256, 4096, 4096): {"whole": 25.0, "split": 23.7},
    (256, 6144, 4096): {"whole": 26.8},
    (256, 4096, 14336): {"whole": 74.5, "split": 59.9},
    (256, 8192, 8192): {"whole": 55.8},
    (256, 8192, 28672): {"whole": 188.2},
    (256, 10240, 8192): {"whole": 81.3},
    (256, 28672, 4096): {"whole": 100.5},
}
# Of a 70B model and of halves of an 8B one.
OTHERS = [(57344, 8192), (8192, 28672), (2048, 4096), (3072, 4096), (14336, 4096), (4096, 7168)]


def chosen(M, N, K, gated=False):
    return fastest((M, N, K), gated, H100, rule((M, N, K), "bfloat16"))


def predicted(M, N, K, gated=False):
    found = choices((M, N, K), gated, H100, rule((M, N, K), "bfloat16"))
    times = {}
    for choice in found:
        times[choice.kernel] = min(choice.time, times.get(choice.kernel, choice.time))
    return times


@pytest.mark.parametrize("shape", MEASURED)
def test_what_is_chosen_was_the_fastest_or_nearly_so(shape):
    times = MEASURED[shape]
    assert times[chosen(*shape).kernel] <= 1.03 * min(times.values())


@pytest.mark.parametrize("shape", MEASURED)
def test_times_are_about_those_that_were_measured(shape):
    """To a sixth: the laws are straight, and the clock of a busy GPU goes down."""
    times = predicted(*shape)
    for kernel, time in MEASURED[shape].items():
        if kernel in times:
            assert times[kernel] == pytest.approx(time, rel=1 / 6)


@pytest.mark.parametrize(("M", "N"), [(70, 4096), (128, 4096), (65, 28672)])
def test_all_numbers_of_rows_that_take_the_same_kernels_are_treated_alike(M, N):
    assert chosen(M, N, 4096) == chosen(128, N, 4096)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("N", "K"), OTHERS)
@pytest.mark.parametrize("M", [17, 64, 65, 128])
def test_it_is_never_expected_to_be_slower_than_weights_that_stream(M, N, K, gated):
    assert chosen(M, N, K, gated).time <= predicted(M, N, K, gated)["streamed"]


@pytest.mark.parametrize(("M", "N", "K"), [(32, 2048, 4096), (64, 1024, 8192), (128, 1024, 8192)])
def test_few_columns_are_left_to_blocks_that_share_k(M, N, K):
    assert -(-N // slice_for((M, N, K), False, H100).columns) <= 64  # half of the multiprocessors
    assert chosen(M, N, K).kernel == "streamed"


@pytest.mark.parametrize(
    ("shape", "columns", "blocks"), [((128, 4096, 14336), 192, 4), ((256, 4096, 14336), 128, 2)]
)
def test_what_shares_k_is_the_cut_that_was_the_fastest(shape, columns, blocks):
    tile, shared = chosen(*shape).cut
    assert (tile.columns, shared) == (columns, blocks)
