"""A vocabulary spread over ranks: lookups and argmax of parts, against those of the whole."""

import ml_dtypes
import numpy as np
import pytest

from llm_numba import ops, reference
from llm_numba.errors import KernelArgumentError
from llm_numba.runtime import intercept, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture(params=["cpu", "sim", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request):
    """A function that puts an array where it is to be worked on."""
    if request.param == "cpu":
        return np.asarray
    return lambda array: to_device(array, request.param)


def shares(count, ranks):
    return [slice(count * p // ranks, count * (p + 1) // ranks) for p in range(ranks)]


# -- Lookups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocabulary", "width", "ranks"), [(37, 20, 2), (37, 7, 4), (3, 1, 3)])
def test_the_parts_add_up_to_the_rows_of_the_whole_table(place, dtype, vocabulary, width, ranks):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(vocabulary, width)).astype(DTYPES[dtype])
    tokens = np.concatenate([rng.permutation(vocabulary), [0, vocabulary - 1]]).astype(np.int32)
    parts = [
        to_host(ops.embedding_part(place(tokens), place(weight[rows]), rows.start))
        for rows in shares(vocabulary, ranks)
    ]
    found = np.sum([part.astype(np.float32) for part in parts], axis=0)
    np.testing.assert_array_equal(found, weight[tokens].astype(np.float32))
    for part, rows in zip(parts, shares(vocabulary, ranks), strict=True):
        outside = (tokens < rows.start) | (tokens >= rows.stop)
        assert part.dtype == weight.dtype
        assert not part[outside].view("u1").any()


def test_a_token_of_nobody_is_zero_everywhere(place):
    weight, tokens = np.ones((4, 3), np.float32), np.array([-1, 3, 8], np.int32)
    found = to_host(ops.embedding_part(place(tokens), place(weight), 4))
    np.testing.assert_array_equal(found, np.zeros((3, 3)))


# -- The best token -----------------------------------------------------------------------------


def best(logits, ranks, place):
    """Cut rows among ranks, let each find its best, and choose."""
    parts = [
        to_host(ops.argmax_part(place(np.ascontiguousarray(logits[:, columns])), columns.start))
        for columns in shares(logits.shape[1], ranks)
    ]
    return to_host(ops.argmax_of_parts(place(np.stack(parts))))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("vocabulary", [4, 67, 2100])
def test_ranks_find_the_token_that_the_whole_row_has(place, vocabulary, ranks):
    logits = np.random.default_rng(vocabulary).normal(size=(5, vocabulary)).astype(np.float32)
    found = best(logits, ranks, place)
    np.testing.assert_array_equal(found, reference.argmax(logits))
    assert found.dtype == np.int64


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_first_of_equals_wins_on_whichever_ranks_they_are(place, ranks):
    columns = [(0, 11), (5, 6), (4, 8), (10, 11), (3, 7)]
    logits = np.zeros((len(columns) + 1, 12), np.float32)
    for row, (one, other) in zip(logits, columns, strict=False):
        row[[one, other]] = 2.5
    # Of both zeros, too, none is larger.
    logits[-1] = -1.0
    logits[-1, [2, 9]] = -0.0, 0.0
    expected = [one for one, _ in columns] + [2]
    assert best(logits, ranks, place).tolist() == expected


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_rows_without_a_finite_best_are_marked(place, ranks):
    """As of a whole row: NaN anywhere, +inf anywhere, or -inf everywhere."""
    cases = np.zeros((7, 8), np.float32)
    cases[0, 6] = np.nan
    cases[1, 1], cases[1, 5] = np.nan, 9.0
    cases[2, 7] = np.inf
    cases[3] = -np.inf
    cases[4, :5] = -np.inf  # whole parts of it, but not the row
    cases[5, 2:] = -np.inf
    cases[6, 0], cases[6, 4] = np.inf, np.nan
    found = best(cases, ranks, place)
    np.testing.assert_array_equal(found, reference.argmax(cases))
    assert found.tolist() == [-1, -1, -1, -1, 5, 0, -1]


def test_float64_is_told_apart_by_its_last_bit():
    logits = np.ones((1, 6))
    logits[0, 4] += 2**-52
    assert best(logits, 2, np.asarray).tolist() == [4]


# -- Refusals and code --------------------------------------------------------------------------


def test_tokens_that_float32_cannot_count_are_refused():
    logits = to_device(np.zeros((1, 8), np.float32), "sim")
    ops.argmax_part(logits, (1 << 24) - 8)
    with pytest.raises(KernelArgumentError, match="'first'"):
        ops.argmax_part(logits, (1 << 24) - 7)


def test_other_formats_and_shapes_are_refused():
    sim = {name: to_device(np.zeros((2, 4), DTYPES[name]), "sim") for name in DTYPES}
    with pytest.raises(KernelArgumentError, match="'logits' has dtype bfloat16"):
        ops.argmax_part(sim["bfloat16"], 0)
    with pytest.raises(KernelArgumentError, match="'parts' has shape"):
        ops.argmax_of_parts(sim["float32"])
    with pytest.raises(KernelArgumentError, match="'token_ids'"):
        ops.embedding_part(sim["float32"], sim["float32"], 0)


@pytest.mark.ptx
@pytest.mark.parametrize("operation", ["embedding_part", "argmax_part", "argmax_of_parts"])
def test_the_kernels_compile_without_float64_and_without_a_stack(operation):
    if problem := compiler_problem():
        pytest.skip(problem)
    tokens = to_device(np.zeros(3, np.int32), "sim")
    table = to_device(np.zeros((4, 16), np.float32), "sim")
    parts = to_device(np.zeros((2, 3, 2), np.float32), "sim")
    arguments = {
        "embedding_part": (tokens, table, 0),
        "argmax_part": (table, 0),
        "argmax_of_parts": (parts,),
    }
    launches = []
    with intercept(launches.append):
        getattr(ops, operation)(*arguments[operation])
    for launch in launches:
        found = resources(launch, (9, 0))
        assert (found.stack_bytes, found.spill_stores, found.float64) == (0, 0, ())
