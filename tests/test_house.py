"""The rules of the house: what may be imported, how long a file may be, what must be documented."""

import ast
import importlib
import inspect
import itertools
import os
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import llm_numba

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llm_numba"
MAX_LINES = 400
MAX_KERNEL_LINES = 60

# Records every attempt to import, so that `try: import cupy` shows on a machine without CuPy too.
WATCH_IMPORTS = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        print(name)

sys.meta_path.insert(0, Watch())
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=60,
    )


def imported_by(statement: str) -> set[str]:
    result = run_python("-c", f"{WATCH_IMPORTS}\n{statement}")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


# -- Imports ------------------------------------------------------------------------------------


def test_importing_the_package_imports_nothing_but_the_standard_library():
    others = {name.partition(".")[0] for name in imported_by("import llm_numba")}
    assert "llm_numba" in others
    assert others - {"llm_numba"} <= sys.stdlib_module_names


def test_the_engine_asks_for_no_package_that_a_laptop_may_lack():
    names = imported_by("from llm_numba import LLM")
    assert "numpy" in names
    heavy = {"numba", "cupy", "cuda", "mpi4py", "torch", "transformers", "huggingface_hub"}
    assert not heavy & {name.partition(".")[0] for name in names}


def test_each_name_that_a_module_takes_from_another_is_there():
    """Without importing: some modules load late, on a machine with GPUs alone."""

    def names_of(module: str) -> set[str]:
        path = ROOT / module.replace(".", "/")
        if path.is_dir():
            beside = {each.stem for each in path.iterdir()}
            return beside | _names_of_file(path / "__init__.py")
        return _names_of_file(path.with_suffix(".py"))

    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llm_numba"):
                names = names_of(node.module)
                missing = [each.name for each in node.names if each.name not in names]
                assert "__getattr__" in names or not missing, f"{path}: {node.module}, {missing}"


def _names_of_file(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {each.asname or each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_imports_only_go_down_the_floors():
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    script = "from importlinter.cli import lint_imports_command as lint; lint()"
    result = run_python("-c", script, "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert f"Contracts: {len(contracts['contracts'])} kept, 0 broken" in result.stdout


# -- Public names -------------------------------------------------------------------------------


def packages() -> list[str]:
    found = pkgutil.walk_packages(llm_numba.__path__, "llm_numba.")
    return ["llm_numba", "llm_numba.ops", *(module.name for module in found if module.ispkg)]


@pytest.mark.parametrize("package", packages())
def test_public_names_exist_and_say_what_they_are(package):
    module = importlib.import_module(package)
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        public = getattr(module, name)
        if not inspect.isclass(public) and not inspect.isfunction(public):
            continue
        assert inspect.getdoc(public), f"{package}.{name} has no docstring"
        members = vars(public) if inspect.isclass(public) else {}
        for attribute, member in members.items():
            if not attribute.startswith("_") and (
                inspect.isfunction(member) or is_property(member)
            ):
                assert inspect.getdoc(member), f"{package}.{name}.{attribute} has no docstring"


@pytest.mark.parametrize("package", packages())
def test_public_functions_and_classes_document_each_parameter(package):
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", []):
        public = getattr(module, name)
        if not inspect.isclass(public) and not inspect.isfunction(public):
            continue
        documented = "\n".join(inspect.getdoc(each) for each in documenting(public))
        for parameter in inspect.signature(public).parameters.values():
            # A protocol's constructor, and only that, takes *args and **kwargs.
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                assert parameter.name in documented, f"{package}.{name}: {parameter.name}?"


def documenting(public: object) -> list[object]:
    """A function; or a class with its bases of ours, whose parameters it may pass on."""
    if inspect.isfunction(public):
        return [public]
    return [base for base in public.__mro__ if base.__module__.startswith("llm_numba")]


def is_property(member: object) -> bool:
    return isinstance(member, property)


# -- Files --------------------------------------------------------------------------------------


def test_no_source_file_is_longer_than_400_lines():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def kernel_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """What is decorated with ``cuda.jit``, with or without options, under the name of its file."""
    for path in sorted((PACKAGE / "kernels").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(each).startswith("cuda.jit") for each in node.decorator_list
            ):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", node


def test_no_kernel_is_longer_than_60_lines_without_its_docstring():
    lengths = {}
    for name, node in kernel_functions():
        body = node.body[1:] if ast.get_docstring(node) else node.body
        lengths[name] = body[-1].end_lineno - body[0].lineno + 1 if body else 0
    assert lengths
    assert {name: length for name, length in lengths.items() if length > MAX_KERNEL_LINES} == {}


def test_each_kernel_says_what_it_does():
    without = [name for name, node in kernel_functions() if not ast.get_docstring(node)]
    assert [name for name in without if ":_" not in name] == []


def test_machine_instructions_are_written_in_one_place():
    files = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "InlineAsm" in path.read_text()
    }
    assert files
    assert {name for name in files if not name.startswith("kernels/ptx/")} == set()


def test_each_dependency_gives_its_reason():
    """A dependency on a line of its own has a comment above; so has a group of short extras."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = [line.strip() for line in text.splitlines()]
    for dependency in itertools.chain.from_iterable(groups):
        number = next(i for i, line in enumerate(lines) if f'"{dependency}"' in line)
        above = number - 1
        while lines[number].endswith("]") and lines[above].endswith("]"):
            above -= 1
        assert lines[above].startswith("#"), f"{dependency} has no comment with its reason"
