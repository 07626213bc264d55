"""A measured table stands in front of a rule, as far as it fits."""

import dataclasses
import json
from typing import NamedTuple

import numpy as np
import pytest

from llm_numba.errors import LLMNumbaError
from llm_numba.kernels import tuning
from llm_numba.kernels.basics import LADDER
from llm_numba.kernels.tuning import Tunable, choose
from llm_numba.runtime import to_device

GPU = "NVIDIA Test 80GB"


class Config(NamedTuple):
    threads: int
    items: int = 1


TUNABLE = Tunable(
    LADDER,
    rule=lambda shape, dtype: Config(128),
    candidates=lambda shape, dtype: tuple(Config(threads) for threads in (64, 128, 256)),
    plan=lambda config, **operands: (),
    shapes=((4096,),),
    bucket=lambda shape: (-(-shape[0] // 1024) * 1024,),
)
KEY = "saxpy/float32/4096"


class OnGPU:
    """What stands for an array of a GPU."""

    class device:  # noqa: N801  as CuPy's attribute
        id = 0


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(tuning, "_gpu_name", lambda device: GPU)
    monkeypatch.setattr(tuning, "kind_of", lambda like: "cuda" if like is OnGPU else "sim")
    tuning.forget()
    yield
    tuning.forget()


def write(path, **config):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"entries": {KEY: {"config": config}}}))
    tuning.forget()


def chosen(shape=(4000,), dtype="float32", like=OnGPU):
    return choose(TUNABLE, shape, dtype, like)


def test_without_a_table_the_rule_decides():
    assert chosen() == Config(128)


def test_the_package_s_table_comes_before_the_rule_and_the_user_s_before_both():
    write(tuning.shipped_table(GPU), threads=64, items=1)
    assert chosen() == Config(64)
    write(tuning.user_table(GPU), threads=256, items=1)
    assert chosen() == Config(256)


def test_an_entry_stands_for_the_shapes_of_its_bucket_and_its_format():
    write(tuning.user_table(GPU), threads=256, items=1)
    assert chosen((3073,)) == Config(256)
    assert chosen((3072,)) == Config(128)
    assert chosen(dtype="float16") == Config(128)


def test_the_simulator_runs_the_rule_s_choice():
    write(tuning.user_table(GPU), threads=256, items=1)
    assert chosen(like=to_device(np.zeros(1, np.float32), "sim")) == Config(128)


@pytest.mark.parametrize(
    "config", [{"threads": 96, "items": 1}, {"threads": 64}, {"threads": 64, "rows": 1}]
)
def test_an_entry_of_other_kernels_is_passed_over(config):
    write(tuning.user_table(GPU), **config)
    assert chosen() == Config(128)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"entries": {"a": {}}}', '{"entries": 3}'])
def test_what_is_no_table_is_named(text):
    path = tuning.user_table(GPU)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(LLMNumbaError, match=r"nvidia-test-80gb\.json is no table.*Delete it"):
        chosen()


def test_two_tunables_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(tuning, "ONE", TUNABLE, raising=False)
    assert tuning.all_tunables()["saxpy"] is TUNABLE
    monkeypatch.setattr(tuning, "TWO", dataclasses.replace(TUNABLE), raising=False)
    with pytest.raises(ValueError, match="two of Tunable are named 'saxpy'"):
        tuning.all_tunables()


@pytest.mark.parametrize("name", tuning.all_tunables())
def test_the_rule_is_one_of_the_candidates(name):
    tunable = tuning.all_tunables()[name]
    for shape in tunable.shapes:
        for dtype in tunable.ladder.dtypes:
            candidates = tunable.candidates(shape, dtype)
            assert tunable.rule(shape, dtype) in candidates
            assert len({*candidates}) == len(candidates)
            assert tunable.bucket(tunable.bucket(shape)) == tunable.bucket(shape)
