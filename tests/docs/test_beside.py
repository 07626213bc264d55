"""What stands beside our listings, in PyTorch or CUDA C++, does the same, or at least compiles."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llm_numba.runtime.offline import compiler_problem

HERE = Path(__file__).parent
THEIRS = sorted((HERE / "beside").iterdir())
LISTINGS = HERE / "listings"
PAGES = HERE.parents[1] / "docs" / "coming-from"


def ours(path: Path) -> Path:
    return LISTINGS / f"beside_{path.stem.removesuffix('_torch')}.py"


@pytest.mark.parametrize("path", THEIRS, ids=lambda path: path.name)
def test_each_stands_beside_a_listing_of_ours(path):
    pages = "\n".join(page.read_text() for page in PAGES.glob("*.md"))
    assert f"```{{beside}} {path.name}\n" in pages
    assert ours(path).exists()


def test_each_listing_of_ours_has_something_beside_it():
    assert {ours(path) for path in THEIRS} == set(LISTINGS.glob("beside_*.py"))


@pytest.mark.parity
@pytest.mark.parametrize(
    "path", [path for path in THEIRS if path.suffix == ".py"], ids=lambda path: path.stem
)
def test_pytorch_prints_the_same(path):
    if find_spec("torch") is None:
        pytest.skip("PyTorch is not installed (extra `parity`)")
    printed = subprocess.run(
        [sys.executable, str(path)], check=True, capture_output=True, text=True, timeout=300
    ).stdout
    assert printed == ours(path).with_suffix(".out").read_text()


def compiled(source: str) -> str:
    """PTX of CUDA C++, by the compiler that Numba comes with; without a driver."""
    from cuda.bindings import nvrtc

    def call(function, *arguments):
        status, *results = function(*arguments)
        assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, status
        return results[0] if results else None

    program = call(nvrtc.nvrtcCreateProgram, source.encode(), b"kernel.cu", 0, [], [])
    call(nvrtc.nvrtcCompileProgram, program, 1, [b"--gpu-architecture=compute_90"])
    ptx = b" " * call(nvrtc.nvrtcGetPTXSize, program)
    call(nvrtc.nvrtcGetPTX, program, ptx)
    return ptx.decode()


@pytest.mark.ptx
@pytest.mark.parametrize(
    "path", [path for path in THEIRS if path.suffix == ".cu"], ids=lambda path: path.stem
)
def test_cuda_compiles(path, request):
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)
    assert ".entry" in compiled(path.read_text())
