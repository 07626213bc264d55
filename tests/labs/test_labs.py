"""All labs alike: stubs fail, solutions pass, each wrong version is rejected for its own reason."""

import ast
import re
import textwrap
from pathlib import Path

import pytest
from grader.hints import LEVELS, read_hints
from grader.lab import lab_folders, load_lab
from grader.mistakes import named, planted
from grader.run import PUBLIC_KEY, run_lab

DOCS = Path(__file__).parents[2] / "docs"
LABS = {folder.name: load_lab(folder) for folder in lab_folders()}
REGION = re.compile(
    r"^ *# --- your code: step (\d+) ---\n(.*?)^ *# --- end ---\n", flags=re.MULTILINE | re.DOTALL
)
REJECTED = re.compile(r'^# Rejected: step (\d+), "([^"]+)": (.+)$', flags=re.MULTILINE)


# Of each lab, so many wrong versions run in `make test`; all of them in `make test-slow`.
QUICK = 1


def marked(*values, slow, name):
    return pytest.param(*values, marks=pytest.mark.slow if slow else (), id=name)


EACH_LAB = [
    marked(name, key, slow=lab.slow or key != PUBLIC_KEY, name=f"{name}-{key}")
    for name, lab in LABS.items()
    for key in (PUBLIC_KEY, "hidden")
]
EACH_WRONG = [
    marked(name, path, slow=lab.slow or number >= QUICK, name=f"{name}-{path.stem}")
    for name, lab in LABS.items()
    for number, path in enumerate(sorted((lab.folder / "wrong").glob("*.py")))
]


def test_there_are_labs_and_each_has_a_number_of_its_own():
    numbers = [lab.number for lab in LABS.values()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1


# -- What a lab's folder holds ------------------------------------------------------------------


@pytest.mark.parametrize("name", LABS)
def test_a_stub_is_its_solution_without_the_marked_regions(name):
    folder = LABS[name].folder
    stub, solution = ((folder / file).read_text() for file in ("exercise.py", "solution.py"))
    assert REGION.sub("", stub) == REGION.sub("", solution)
    regions = [(int(step), content.strip()) for step, content in REGION.findall(stub)]
    assert [step for step, _ in REGION.findall(stub)] == [s for s, _ in REGION.findall(solution)]
    for step, content in regions:
        wanted = f'raise NotImplementedError("lab {LABS[name].number}, step {step}")'
        assert content == wanted
    assert {step for step, _ in regions} == {step.number for step in LABS[name].steps}


@pytest.mark.parametrize("name", LABS)
def test_each_step_has_three_hints_and_a_place_in_the_readme(name):
    lab = LABS[name]
    readme = (lab.folder / "README.md").read_text()
    assert readme.startswith(f"# Lab {lab.number}: {lab.title}\n")
    hints = read_hints(lab)
    assert list(hints) == [step.number for step in lab.steps]
    for step in lab.steps:
        assert len(hints[step.number]) == LEVELS
        assert all(hints[step.number])
        assert f"Step {step.number}" in readme


@pytest.mark.parametrize("name", LABS)
def test_each_function_of_an_exercise_says_what_is_wanted(name):
    tree = ast.parse((LABS[name].folder / "exercise.py").read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}: {node.name}"


@pytest.mark.parametrize("name", LABS)
def test_a_lab_has_at_least_four_wrong_versions(name):
    assert len(list((LABS[name].folder / "wrong").glob("*.py"))) >= 4


@pytest.mark.parametrize("name", LABS)
def test_a_wrong_version_holds_only_what_differs_from_the_solution(name):
    right = code_by_name(LABS[name].folder / "solution.py")
    for path in (LABS[name].folder / "wrong").glob("*.py"):
        wrong = code_by_name(path)
        assert wrong, path
        assert not wrong.items() & right.items(), path


def code_by_name(path):
    lines = path.read_text().splitlines()
    return {
        name: code_of(textwrap.dedent("\n".join(lines[begin:end])))
        for name, (begin, end) in named("\n".join(lines))
    }


def code_of(source):
    """What a definition does: a copy that says less of itself is a copy all the same."""
    (node,) = ast.parse(source).body
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
        node.body = node.body[1:]
    return ast.dump(node)


def test_a_mistake_takes_the_place_of_what_is_right(tmp_path):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "solution.py").write_text(
        "A = 1\nB = A\n\n\n@kernel\ndef f():\n    return B\n\n\n"
        "class K:\n    def g(self):\n        return 7\n\n    def h(self):\n        return 8\n"
    )
    mistake = tmp_path / "wrong" / "it.py"
    mistake.write_text(
        '"""Too much."""\nC = 2\nB = C\n\n\ndef f():\n    return -B\n\n\n'
        "class K:\n    def g(self):\n        return 9\n\n\nD = 3\n"
    )
    names = {}
    exec(planted(mistake), names)
    assert [names[name] for name in "ABCD"] == [1, 2, 2, 3]
    assert names["f"]() == -2
    assert (names["K"]().g(), names["K"]().h()) == (9, 8)


# -- What the grader says -----------------------------------------------------------------------


@pytest.mark.parametrize("name", LABS)
def test_a_stub_stops_at_its_first_step(name, children):
    lab = LABS[name]
    result = run_lab(lab, lab.exercise, children, stop=True)
    assert not result.refused
    assert result.points == 0
    assert result.current.number == 1
    assert result.current.trouble.state == "not written"
    assert "Step 1 is not written yet" in result.current.trouble.message


@pytest.mark.parametrize(("name", "key"), EACH_LAB)
def test_a_solution_gets_all_points(name, key, children):
    lab = LABS[name]
    result = run_lab(lab, lab.folder / "solution.py", children, key=key)
    assert not result.refused
    assert trouble(result) == []
    assert result.points == lab.points > 0
    assert result.float64 == []


@pytest.mark.parametrize("name", LABS)
def test_a_lab_has_a_page(name):
    page = (DOCS / "labs" / f"{name}.md").read_text()
    assert f"tutorials/labs/{name}/README.md" in page
    assert f"{{lab-steps}} {LABS[name].number}\n" in page


@pytest.mark.parametrize(("name", "path"), EACH_WRONG)
def test_a_wrong_version_is_rejected_for_its_own_reason(name, path, children, tmp_path):
    expected = REJECTED.findall(path.read_text())
    assert len(expected) == 1, path
    step, title, words = expected[0]
    handed_in = tmp_path / "exercise.py"
    handed_in.write_text(planted(path))
    result = run_lab(LABS[name], handed_in, children, stop=True)
    assert not result.refused
    first = trouble(result)[0]
    assert (first[0], first[1]) == (int(step), title)
    assert words.lower() in first[2].lower()


def trouble(result) -> list[tuple[int, str, str]]:
    """Step, check and message of all that failed."""
    return [
        (step.number, check.title, check.message)
        for step in result.steps
        for check in step.checks
        if check.state in ("failed", "not written")
    ]
