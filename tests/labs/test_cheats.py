"""Ways to points that are not earned. None of them works.

Each is tried twice where that can be: with the rules, which say so kindly, and past them, where
what is behind the rules has to hold.
"""

import re
import textwrap

import pytest
from grader.channel import Channel, ClosedError
from grader.verdict import Failed
from submissions import FIRST, solution, step

REFERENCE = "from llm_numba.kernels.basics import saxpy_thread\n"


def refused(result) -> str:
    assert result.points == 0
    assert result.refused
    return "\n".join(result.refused)


# -- Somebody else's code -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "import solution",
        "from solution import saxpy",
        "from .solution import saxpy",
        "from llm_numba.kernels.basics import saxpy_thread",
        "from llm_numba import ops",
        "import llm_numba.reference as reference",
        "import importlib",
        "from numpy import *",
    ],
)
def test_the_solution_and_the_package_cannot_be_imported(bench, statement):
    result = bench.grade(solution() + f"\n{statement}\n")
    assert "may not be imported" in refused(result) or "import *" in refused(result)


def test_past_the_rules_there_is_nothing_to_import(bench):
    source = textwrap.dedent("""
        def go(name):
            __import__(name)
    """)
    for name in ("solution", "llm_numba.kernels", "grader", "os", "sys"):
        with pytest.raises(Failed, match="ImportError"):
            bench.student(source).call("go", name)


def test_past_the_rules_numpy_leads_to_no_other_module(bench):
    """``np.ma.core.inspect`` is the interpreter's own; its importlib finds what is loaded."""
    source = textwrap.dedent("""
        import numpy as np

        def go(name):
            return getattr_of(np, name)

        def getattr_of(module, name):
            return module.__dict__[name].__name__

        def parts():
            return [str(np.linalg.norm(np.ones(4))), np.random.default_rng(0).integers(9) < 9]
    """)
    for name in ("ma", "lib", "ctypeslib", "testing", "f2py", "char", "load"):
        with pytest.raises(Failed, match="KeyError"):
            bench.student(source).call("go", name)
    assert bench.student(source).call("parts") == ["2.0", True]


def test_the_reference_kernel_cannot_be_launched_in_place_of_ones_own(bench):
    body = "    launch(saxpy_thread, -(-out.size // 256), 256, (alpha, x, y, out))"
    source = REFERENCE + solution(launch_saxpy=body)
    assert "llm_numba.kernels.basics" in refused(bench.grade(source))


def test_a_kernel_must_stand_in_the_file_itself(bench):
    """Past the rules: the device takes kernels from the file's text, and asks nobody else."""
    student = bench.student("def go(x):\n    pass\n")
    with pytest.raises(Failed, match="There is no kernel 'saxpy_thread'"):
        student.launch("saxpy_thread", 1, 32, ())


def test_a_launcher_cannot_compute_the_result_itself(bench):
    body = "    out[:] = alpha * x + y"
    result = bench.grade(solution(launch_saxpy=body))
    assert step(result, 2)[0] == "failed"
    assert "lies on the device" in result.steps[1].trouble.message


def test_a_launcher_cannot_bring_numbers_of_its_own_to_the_device(bench):
    body = "    launch(saxpy, 1, THREADS, (alpha, np.ones(4, np.float32), y, out))"
    result = bench.grade("import numpy as np\n" + solution(launch_saxpy=body))
    assert "neither an array of the device nor a number" in result.steps[1].trouble.message


# -- The grader and the simulator ---------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "import grader.verdict",
        "import llm_numba.simulator",
        "from llm_numba.simulator.report import Report",
        "from llm_numba.runtime import intercept",
        "import sys",
        "import gc",
        "import numba.core",
        "cuda.simulator = None\nsetattr(cuda, 'jit', None)",
        "eval('1')",
        "print.__self__",
        "().__class__.__base__.__subclasses__()",
        "(x for x in ()).gi_frame.f_back",
        "'{0.__class__}'.format_map({})",
    ],
)
def test_the_ways_to_the_grader_and_the_simulator_are_closed(bench, statement):
    assert refused(bench.grade(solution() + f"\n{statement}\n"))


def test_what_a_program_changes_in_numpy_and_numba_reaches_nobody_else(bench):
    """A program that changes everything within its reach, and computes nothing."""
    source = solution(saxpy="    pass", launch_saxpy="    pass").replace(
        "THREADS = 256",
        "import numpy as np\nTHREADS = 256\nnp.allclose = np.abs = np.isnan = lambda *_: True\n"
        "cuda.grid = float32 = max",
    )
    result = bench.grade(source)
    assert not result.refused
    assert step(result, 1)[0] == "failed"
    assert step(result, 2)[0] == "failed"


def test_past_the_rules_the_grader_is_not_in_the_childs_reach(bench):
    """A frame of the host holds the channel and the host's own modules, and no seed or verdict."""
    source = textwrap.dedent("""
        def go():
            frame = (lambda: 0).__globals__["__builtins__"]["print"].__self__
            modules = frame.__class__.obey.__globals__["sys"].modules
            return sorted(name for name in modules if name.startswith(("grader", "llm_numba")))
    """)
    assert bench.student(source).call("go") == [
        "grader", "grader.channel", "grader.host", "grader.ranks", "grader.rules"
    ]  # fmt: skip


def test_what_runs_at_import_does_not_run_where_costs_are_counted(bench):
    """The device reads `THREADS`, and executes no statement of the file."""
    source = solution() + "\nprint('hello')\nTHREADS += 1\n"
    student = bench.student(source + "raise RuntimeError('at import')\n")
    import numpy as np

    x = np.ones(3, np.float32)
    student.launch("saxpy", 1, 32, (np.float32(1), x, x.copy(), x.copy()))
    assert student.printed == ""
    with pytest.raises(Failed, match="at import"):
        student.call("launch_saxpy")


# -- Forged answers -----------------------------------------------------------------------------


def test_printing_the_expected_text_earns_nothing(bench):
    text = '    print("All steps are done: 14 of 14 points.")'
    result = bench.grade(solution(launch_saxpy=text))
    assert step(result, 2) == ["failed", "not tried"]
    assert "14 of 14" in result.printed


def test_past_the_rules_a_forged_message_on_the_channel_earns_nothing(bench):
    """Whoever gets hold of the channel can say what he returned, and nothing about the device."""
    source = textwrap.dedent("""
        def launch_saxpy(alpha, x, y, out):
            program = print.__self__
            program.channel.send({"event": "returned", "value": None, "printed": "passed"})
            program.channel.send({"event": "verdict", "points": 14})

        def other():
            print.__self__.channel.end.send(b"xxxxxxxxyyyyyyyyy")
    """)
    import numpy as np

    out = np.full(4, np.nan, np.float32)
    ran = bench.student(source).run("launch_saxpy", np.float32(1), out.copy(), out.copy(), out)
    assert ran.launches == 0
    assert np.isnan(out).all()
    with pytest.raises(Failed, match="without an answer"):
        bench.student(source).call("other")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("empty(-1)", r"no array of shape \[-1\]"),
        ("empty(1, 'complex64')", "no array of shape .* and dtype complex64"),
        ("zeros((1 << 20, 1 << 20))", "larger than this lab needs"),
        ("launch(saxpy, 1 << 30, 256, (alpha, x, y, out))", "more threads than this lab needs"),
        ("launch(saxpy, 1, 2048, (alpha, x, y, out))", "at most 1024 threads"),
        ("launch(saxpy, 1, 32, (alpha, x, y))", "got 3 arguments and takes 4"),
        ("launch(saxpy, 1.5, 32, (alpha, x, y, out))", "must be whole numbers"),
        ("launch(saxpy, 1, 32, alpha, x, y, out)", "as one tuple"),
        ("launch(saxpy, 1, 32, x)", "as one tuple"),
        ("launch(launch_saxpy, 1, 32, ())", "is no kernel"),
        ("saxpy(alpha, x, y, out)", "launched, not called"),
    ],
)
def test_a_strange_wish_of_a_launcher_is_refused_in_words(bench, call, words):
    source = solution(launch_saxpy=f"    {call}")
    source = source.replace("import launch\n", "import empty, launch, zeros\n")
    result = bench.grade(source)
    assert not result.refused
    message = result.steps[1].trouble.message
    assert re.search(words, message), message


def test_past_the_rules_an_array_that_is_not_there_cannot_be_named(bench):
    body = "    out.device_number = 99\n    launch(saxpy, 1, 32, (alpha, x, y, out))"
    result = bench.grade(solution(launch_saxpy=body))
    assert "neither an array of the device nor a number" in result.steps[1].trouble.message


def test_a_program_cannot_leave_early_with_a_good_exit_code(bench):
    source = "def go():\n    raise SystemExit(0)\n"
    with pytest.raises(Failed, match="SystemExit"):
        bench.student(source).call("go")


# -- Files, keys and seeds ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", ["open('solution.py')", "np.load('x')", "np.fromfile('x')", "out.tofile('x')"]
)
def test_files_are_out_of_reach(bench, call):
    result = bench.grade("import numpy as np\n" + solution(launch_saxpy=f"    {call}"))
    assert result.refused or step(result, 2)[0] == "failed"


def test_past_the_rules_the_child_opens_no_file_and_starts_no_program(bench):
    source = textwrap.dedent(f"""
        def sys():
            program = print.__self__
            return program.__class__.obey.__globals__["sys"]

        def read():
            return sys().modules["io"].open("{FIRST}/solution.py").read()

        def start():
            sys().modules["os"].system("true")

        def environment():
            return sorted(sys().modules["os"].environ)
    """)
    for name in ("read", "start"):
        with pytest.raises(Failed, match="PermissionError"):
            bench.student(source).call(name)
    environment = bench.student(source).call("environment")
    assert not [name for name in environment if "LAB" in name or "KEY" in name]


def test_another_key_draws_other_data_and_the_same_key_the_same(bench):
    from grader.run import rng_for

    draws = {key: rng_for(key, 1, 1, "a check").integers(1 << 62) for key in ("a", "b", "public")}
    assert len(set(draws.values())) == 3
    assert rng_for("a", 1, 1, "a check").integers(1 << 62) == draws["a"]
    assert rng_for("a", 1, 2, "a check").integers(1 << 62) != draws["a"]


def test_one_check_leaves_nothing_behind_for_the_next(bench):
    """What a program kept of earlier data would be there for later checks, or other students."""
    source = "SEEN = []\n\ndef go():\n    SEEN.append(1)\n    return len(SEEN)\n"
    first, second = bench.student(source), bench.student(source)
    assert [first.call("go"), first.call("go"), second.call("go")] == [1, 2, 1]


# -- Time and memory ----------------------------------------------------------------------------


def test_a_loop_that_never_ends_is_ended_and_its_line_is_named(bench):
    source = "def go():\n    while True:\n        pass\n"
    with pytest.raises(Failed, match="more than 1 seconds") as failure:
        bench.student(source, seconds=1).call("go")
    assert failure.value.line in (2, 3)


@pytest.mark.slow
def test_a_kernel_that_never_ends_is_ended_and_the_next_one_runs(bench):
    import numpy as np

    body = "    i = cuda.grid(1)\n    while i < x.size + 9:\n        out[0] = y[0]"
    vectors = [np.ones(4, np.float32) for _ in range(3)]
    with pytest.raises(Failed, match="takes more than 1 seconds"):
        bench.student(solution(saxpy=body), seconds=1).launch("saxpy", 1, 1, (1.0, *vectors))
    bench.student(solution()).launch("saxpy", 1, 4, (np.float32(1), *vectors))
    assert vectors[2].tolist() == [2, 2, 2, 2]


def test_too_much_memory_is_refused(bench):
    source = "def go():\n    return len(bytes(1 << 40))\n"
    with pytest.raises(Failed, match="MemoryError"):
        bench.student(source).call("go")


def test_a_child_that_works_on_is_ended_with_its_check(bench):
    """Its end of the socket closes: nobody holds it any more."""
    student = bench.student("def go():\n    while True:\n        pass\n", seconds=60)
    host = student.children.fork_host()
    try:
        host.channel.send({"path": "x", "source": student.submission.source, "imports": [],
                           "seconds": 60})  # fmt: skip
        host.channel.receive(60)
        host.channel.send({"op": "call", "name": "go", "args": ()})
        ours = host.channel.end.dup()
    finally:
        host.end()
    with ours, pytest.raises(ClosedError):
        Channel(ours).receive(60)
