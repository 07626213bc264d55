"""Python's own forms in a kernel: loops, tuples, records, slices, calls."""

import math

import numpy as np
from numba import cuda
from numba.cuda import float32

from llm_numba.simulator import simulate


def test_loops_over_ranges_rows_pairs_and_counted_elements():
    @cuda.jit
    def loops(out, a):
        for i in range(10, 0, -3):
            out[0] = out[0] * 11 + i
        for row in a:
            for value in row:
                out[1] += value
        for i, value in enumerate(a[0]):
            out[2] += i * value
        for x, y in zip(a[0], a[1]):  # noqa: B905 (a kernel has no such keyword)
            out[3] += x * y
        for i, j in np.ndindex(a.shape):
            out[4] += a[i, j] * i

    a = np.arange(6.0).reshape(2, 3)
    out = np.zeros(5)
    simulate(loops, 1, 1, (out, a))
    down = 0
    for i in range(10, 0, -3):
        down = down * 11 + i
    assert out.tolist() == [down, a.sum(), a[0] @ [0, 1, 2], a[0] @ a[1], a[1].sum()]


def test_threads_leave_a_loop_by_different_ways():
    @cuda.jit
    def search(out, x):
        i = cuda.grid(1)
        for j in range(10):
            if j == x[i]:
                out[i] = j
                break
            if j % 2:
                continue
            out[i] -= 1
        else:
            out[i] = 100

    x = np.array([3, 20, 0, 9])
    out = np.zeros(4, np.int64)
    simulate(search, 1, 4, (out, x))
    assert out.tolist() == [3, 100, 0, 9]


def test_functions_take_keywords_stars_and_give_tuples():
    @cuda.jit(device=True)
    def digits(a, b=2, c=3):
        return a * 100 + b * 10 + c, (a, c)

    @cuda.jit(device=True)
    def add_all(*terms):
        return terms[0] + terms[1] + len(terms)

    @cuda.jit
    def calls(out):
        number, (a, c) = digits(c=5, a=1)
        pair = (4, 9)
        out[0], out[1], out[2] = number, a + c, add_all(*pair)

    out = np.zeros(3)
    simulate(calls, 1, 1, (out,))
    assert out.tolist() == [125, 6, 15]


def test_records_have_fields_arrays_in_them_and_are_copied_whole():
    dtype = np.dtype([("a", np.int32), ("b", np.float64), ("v", np.float32, (3,))], align=True)

    @cuda.jit
    def records(out, r, s):
        i = cuda.grid(1)
        r[i].a = i * 2
        r[i]["b"] = r[i].a * 1.5
        r.v[i, 2] = 9
        out[i] = r[i].b + r.v[i, 2] + r["a"][i]
        s[i] = r[i]

    r, s, out = np.zeros(3, dtype), np.zeros(3, dtype), np.zeros(3)
    simulate(records, 1, 3, (out, r, s))
    assert out.tolist() == [9, 14, 19]
    assert (r == s).all()
    assert s["v"].tolist() == [[0, 0, 9]] * 3


def test_slices_go_down_are_assigned_to_and_differ_between_threads():
    @cuda.jit
    def slices(out, filled, a):
        i = cuda.grid(1)
        part = a[-i - 1 :: -1]
        out[i] = len(part) * 100 + part[0]
        filled[i, :] = i + 1
        filled[i, 1:3] = a[0:2]

    a = np.arange(10.0)
    out, filled = np.zeros(4), np.zeros((4, 4))
    simulate(slices, 1, 4, (out, filled, a))
    assert out.tolist() == [len(a[-i - 1 :: -1]) * 100 + a[-i - 1] for i in range(4)]
    assert filled.tolist() == [[i + 1, 0, 1, i + 1] for i in range(4)]


def test_vectors_are_values_and_lie_in_shared_memory():
    kind = cuda.vector_types.vector_types["float32x4"]

    @cuda.jit
    def vectors(out):
        tile = cuda.shared.array(4, kind)
        i = cuda.grid(1)
        tile[i] = cuda.float32x4(i, 1, 2, 3)
        cuda.syncthreads()
        v = tile[3 - i]
        out[i] = v.x + v.w

    out = np.zeros(4)
    simulate(vectors, 1, 4, (out,))
    assert out.tolist() == [6, 5, 4, 3]


def test_tuples_compare_and_contain():
    @cuda.jit
    def tuples(out, x):
        i = cuda.grid(1)
        out[i, 0] = (x[i], 1) == (2, 1)
        out[i, 1] = x[i] in (1, 3)
        out[i, 2] = (x[i], 1) < (2, 2)
        out[i, 3] = min((4, 2, 9)) + max(x[i], 2, 1)

    out = np.zeros((4, 4))
    simulate(tuples, 1, 4, (out, np.arange(4)))
    want = [[(k, 1) == (2, 1), k in (1, 3), (k, 1) < (2, 2), 2 + max(k, 2)] for k in range(4)]
    assert out.tolist() == want


def test_mathematics_of_float32_is_within_a_rounding_of_the_truth():
    @cuda.jit
    def functions(out, x):
        i = cuda.grid(1)
        out[i, 0] = math.exp(x[i])
        out[i, 1] = math.tanh(x[i])
        out[i, 2] = math.erf(x[i])
        out[i, 3] = math.sqrt(abs(x[i])) / float32(3)

    x = np.linspace(-4, 4, 33, dtype=np.float32)
    out = np.zeros((33, 4), np.float32)
    simulate(functions, 1, 33, (out, x))
    truth = [[math.exp(v), math.tanh(v), math.erf(v), math.sqrt(abs(v)) / 3] for v in x.tolist()]
    np.testing.assert_allclose(out, truth, rtol=2.0**-23)
