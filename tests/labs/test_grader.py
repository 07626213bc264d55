"""The grader itself: rules, constants, ranks, what it prints and writes."""

import ast
import io
import math
import textwrap

import numpy as np
import pytest
from grader import close, gamma, same
from grader.kernels import take_out
from grader.lab import find_labs
from grader.rules import breaches, unwritten_steps
from grader.run import run_lab
from grader.terminal import show_lab
from grader.verdict import Failed
from rich.console import Console
from submissions import solution

# -- Rules --------------------------------------------------------------------------------------


def test_what_an_ordinary_program_does_is_allowed():
    source = textwrap.dedent('''
        """A class, a private method, an exception of its own."""
        import math
        from collections import deque
        import numpy as np
        from numba import cuda, float32, int32
        from llm_numba.runtime import empty, launch, zeros

        class NoSpaceError(Exception):
            """None left."""

        class Queue:
            def __init__(self, input):
                super().__init__()
                self._waiting = deque(input)

            def _next(self):
                try:
                    return self._waiting.popleft()
                except IndexError:
                    raise NoSpaceError("empty") from None

        if __name__ == "__main__":
            print(Queue([1])._next if False else sorted([3, 1], key=lambda each: -each))
    ''').replace("Queue([1])._next if False else ", "")
    assert breaches(ast.parse(source), extra_imports=("collections",)) == []


def test_a_breach_names_its_line_and_what_is_allowed():
    (breach,) = breaches(ast.parse("import math\nimport os\n"))
    assert breach.line == 2
    assert "`os` may not be imported" in breach.message
    assert "numpy" in breach.message


def test_steps_that_are_not_written_are_found_without_running_them():
    source = textwrap.dedent("""
        def first():
            raise NotImplementedError("lab 3, step 2")
        def second():
            raise ValueError("lab 3, step 1")
    """)
    assert unwritten_steps(ast.parse(source)) == {2: 3}


# -- Constants of kernels -----------------------------------------------------------------------


def test_constants_of_kernels_are_plain_arithmetic():
    source = textwrap.dedent("""
        import math
        import numpy as np
        from numba import cuda, float32
        TILE = 32
        PITCH = TILE + 1
        SHAPE = (TILE, PITCH // 2)
        LOG2E = float32(math.log2(math.e))
        MINUS = -np.inf
        BITS = (1 << 5) | 2 ** 3
    """)
    found = take_out(ast.parse(source)).constants
    assert found["SHAPE"] == (32, 16)
    assert isinstance(found["LOG2E"], np.float32)
    assert found["LOG2E"] == np.float32(math.log2(math.e))
    assert (found["MINUS"], found["BITS"]) == (-math.inf, 40)


@pytest.mark.parametrize(
    "value", ["print('x')", "open('x')", "9 ** 9 ** 9", "1 << 10 ** 9", "(1,) * 10 ** 9", "[1, 2]",
              "1 // 0", "np.float32.fromhex('1')", "unknown"]
)  # fmt: skip
def test_what_is_no_arithmetic_is_no_constant(value):
    assert take_out(ast.parse(f"import numpy as np\nN = {value}\n")).constants == {}


def test_a_kernel_that_uses_what_is_no_constant_says_so(bench):
    source = solution(saxpy="    out[0] = THREADS").replace(
        "THREADS = 256", "THREADS = max(1, 256)"
    )
    result = bench.grade(source)
    trouble = result.steps[0].trouble
    assert "A kernel cannot use THREADS" in trouble.message
    assert source.splitlines()[trouble.line - 1] == "THREADS = max(1, 256)"


def test_only_plainly_decorated_kernels_are_taken_and_nothing_runs_where_they_are_defined():
    source = textwrap.dedent("""
        from numba import cuda
        @cuda.jit
        def one(x=print("a default"), y: print("an annotation") = 1):
            x[0] = 1
        @cuda.jit(device=True)
        def two(x):
            return x
        @print
        @cuda.jit
        def three(x):
            pass
        @cuda.jit(link=open("x"))
        def four(x):
            pass
    """)
    found = take_out(ast.parse(source))
    assert found.launchable() == {"one": ["x", "y"]}
    assert "print" not in ast.unparse(found.source)


# -- Comparisons --------------------------------------------------------------------------------


def test_a_wrong_number_is_shown_with_its_place_and_the_right_one():
    with pytest.raises(Failed, match=r"out: 2 of 4 numbers are wrong\. The first, at \[0, 1\],"):
        close(np.array([[1.0, 3.0], [1.0, 9.0]]), np.ones((2, 2)), 0.5, "out")
    with pytest.raises(Failed, match=r"shape \[2\], and should have \[3\]"):
        close(np.ones(2), np.ones(3), 1.0, "out")
    with pytest.raises(Failed, match="nobody wrote there, or a NaN was computed"):
        close(np.array([np.nan]), np.ones(1), 1.0, "out")
    with pytest.raises(Failed, match="should be numbers"):
        close("ones", np.ones(1), 1.0, "out")


def test_what_is_right_is_let_pass_infinity_and_nan_too():
    right = np.array([1.0, np.inf, np.nan])
    close(right.astype(np.float32), right, 0.0, "out")
    same([1, (2, 3)], [1, (2, 3)], "a list")
    same({"a": None}, {"a": None}, "a dict")


@pytest.mark.parametrize(("given", "right"), [(1.0, 1), (True, 1), ((1,), [1]), (None, 0)])
def test_the_same_means_the_same_type_too(given, right):
    with pytest.raises(Failed, match="should be"):
        same(given, right, "it")


def test_gamma_bounds_a_sum_in_any_order():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    exact = x.astype(np.float64).sum()
    error = abs(float(np.add.accumulate(x)[-1]) - exact)
    assert 0 < error <= gamma(1000) * np.abs(x.astype(np.float64)).sum()


# -- Plain Python and classes -------------------------------------------------------------------

COUNTER = """
from collections import namedtuple

Pair = namedtuple("Pair", "a b")

class Counter:
    def __init__(self, start):
        self.value = start

    def add(self, n):
        if n < 0:
            raise ValueError("negative")
        self.value += n
        return Pair(self.value, {"seen": {n}})

def boom():
    return open_it()

def open_it():
    return [][1]

def strange():
    return object()
"""


def test_objects_keep_their_state_and_plain_data_comes_back(bench):
    student = bench.student(COUNTER, imports=("collections",))
    counter = student.new("Counter", 3)
    assert counter.call("add", 4) == (7, {"seen": {4}})
    assert counter.raises("add", -1) == "ValueError"
    assert counter.raises("add", 1) is None
    assert counter.get("value") == 8


def test_an_exception_is_shown_with_the_students_own_lines_only(bench):
    with pytest.raises(Failed) as failure:
        bench.student(COUNTER, imports=("collections",)).call("boom")
    lines = str(failure.value).splitlines()
    assert lines[1:] == [
        "    line 17, in boom: return open_it()",
        "    line 20, in open_it: return [][1]",
        "    IndexError: list index out of range",
    ]
    assert failure.value.line == 20


def test_what_is_no_plain_data_is_refused_in_words(bench):
    with pytest.raises(Failed, match="strange returned a object, where plain data is asked for"):
        bench.student(COUNTER, imports=("collections",)).call("strange")


# -- Ranks --------------------------------------------------------------------------------------

RANKS = """
import numpy as np

def ring(comm, x):
    total, piece = x.copy(), x.copy()
    for _ in range(comm.size - 1):
        got = np.empty_like(piece)
        sending = comm.start_send(piece, (comm.rank + 1) % comm.size)
        comm.receive(got, (comm.rank - 1) % comm.size)
        sending.wait()
        comm.tick("add")
        total += got
        piece = got
    return total

def all_send_first(comm, x):
    comm.send(x, (comm.rank + 1) % comm.size)
    return comm.receive(x, (comm.rank - 1) % comm.size)

def nobody_receives(comm, x):
    if comm.rank == 0:
        comm.start_send(x, 1)

def too_early(comm, x):
    sending = comm.start_send(x, (comm.rank + 1) % comm.size)
    x[0] += 1
    comm.receive(np.empty_like(x), (comm.rank - 1) % comm.size)
    sending.wait()

def not_the_same(comm, x):
    return comm.all_reduce(x) if comm.rank == 0 else comm.all_gather(x)

def one_is_missing(comm, x):
    if comm.rank > 0:
        comm.barrier()

def other_shape(comm, x):
    if comm.rank == 0:
        comm.send(x, 1)
    if comm.rank == 1:
        comm.receive(x[:1].copy(), 0)

def collectives(comm, x):
    largest = comm.all_reduce(x.copy(), "max")
    total = comm.all_reduce(x.copy())
    whole = comm.all_gather(x)
    part = comm.reduce_scatter(whole.copy())
    return largest, total, whole, part, comm.broadcast(x.copy(), root=1)
"""


def numbers(rank: int) -> tuple[np.ndarray]:
    return (np.arange(3.0) + 10 * rank,)


def test_messages_between_ranks_are_carried_and_counted(bench):
    ran = bench.student(RANKS).ranks(3, "ring", numbers)
    for value in ran.values:
        assert value.tolist() == [30.0, 33.0, 36.0]
    assert [vars(each) for each in ran.traffic] == [{"messages": 2, "elements": 6, "bytes": 48}] * 3
    assert ran.events[0][:5] == [
        ("start_send", 1, 3), ("start_receive", 2, 3), ("received", 2, 3), ("sent", 1),
        ("tick", "add"),
    ]  # fmt: skip


def test_collectives_give_each_rank_what_the_package_gives(bench):
    from llm_numba.parallel import run_ranks

    ran = bench.student(RANKS).ranks(2, "collectives", numbers)
    names: dict = {}
    exec(RANKS, names)
    ours = run_ranks(2, lambda comm: names["collectives"](comm, *numbers(comm.rank)))
    for given, right in zip(ran.values, ours, strict=True):
        for one, other in zip(given, right, strict=True):
            np.testing.assert_array_equal(one, other)
    assert ran.events[0][0] == ("all_reduce", 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("all_send_first", "Deadlock.*rank 0 waits for rank 1 to receive, line 17"),
        ("nobody_receives", "never received"),
        ("too_early", "written before its transfer had been waited for"),
        ("not_the_same", "Ranks do not call the same: rank 0 calls all_reduce"),
        ("one_is_missing", "Deadlock.*rank 0 has returned; rank 1 waits in barrier"),
        ("other_shape", r"Rank 0 sends \[3\] of float64 at line \d+, and rank 1 receives \[1\]"),
    ],
)
def test_what_ranks_do_wrong_is_explained(bench, function, message):
    with pytest.raises(Failed, match=message):
        bench.student(RANKS).ranks(3, function, numbers)


def test_a_lab_may_allow_some_operations_only(bench):
    # Of two ranks that both may not, either is heard first.
    with pytest.raises(Failed, match=r"does not allow comm\.all_\w+; it allows send, receive"):
        bench.student(RANKS).ranks(2, "not_the_same", numbers, allow=("send", "receive"))


def test_a_function_without_a_return_fails_its_check_and_not_the_grader(children, tmp_path):
    (lab,) = find_labs("10")
    solution = (lab.folder / "solution.py").read_text()
    path = tmp_path / "mine.py"
    path.write_text(solution.replace("    return count * rank //", "    count * rank //"))
    trouble = run_lab(lab, path, children, stop=True).current.trouble
    assert "share returned None: that is not what its docstring promises" in trouble.message


def test_what_is_computed_in_float64_is_told_and_costs_no_points(bench):
    body = "    i = cuda.grid(1)\n    if i < out.size:\n        out[i] = 1.0 * alpha * x[i] + y[i]"
    slow = solution(saxpy=body)
    result = bench.grade(slow)
    assert result.passed
    (line,) = result.float64
    assert "1.0 * alpha" in slow.splitlines()[line - 1]
    console = Console(width=80, file=io.StringIO())
    show_lab(console, result)
    assert f"line {line}. Write float32(0)" in " ".join(console.file.getvalue().split())
