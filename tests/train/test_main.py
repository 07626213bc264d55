"""`python -m llm_numba.train` says what it lacks before it begins."""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm_numba.errors import CheckpointError, DependencyError, DeviceError
from llm_numba.train.__main__ import check, main


def options(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"device": "cpu", "resume": None, **changes})


@pytest.fixture
def torch_without_gpu(monkeypatch):
    """A stand-in for PyTorch: the tests run without it."""
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_without_pytorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    with pytest.raises(DependencyError, match="extra 'train'"):
        check(options())


def test_without_a_gpu_the_cpu_is_offered(torch_without_gpu):
    with pytest.raises(DeviceError, match="--device cpu"):
        check(options(device="cuda"))
    check(options())


def test_a_checkpoint_to_start_from_must_be_one(torch_without_gpu, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        check(options(resume=tmp_path))


def test_the_command_ends_with_2_and_no_traceback(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["train", "--output", "o", "--record", "r"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Training needs PyTorch" in capsys.readouterr().err
