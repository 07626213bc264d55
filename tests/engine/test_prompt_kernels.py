"""Prompts find their kernels compiled, whatever their length."""

import importlib
import itertools

import numpy as np
import pytest

from llm_numba import LLM, SamplingParams, simulator
from llm_numba.engine.prompt_kernels import PromptKernels, row_counts
from llm_numba.kernels.gemm_hopper_few import MOST_ROWS, fastest
from llm_numba.kernels.gemm_hopper_fused import whole_tile
from llm_numba.kernels.gemm_skinny import rule
from llm_numba.runtime import to_host
from llm_numba.runtime.room import Room

H100 = Room(132, 232448, True)
# Of an 8B and a 1B shape: behind attention, and gate and up in one.
WEIGHTS = [(4096, 4096, False), (28672, 4096, True), (2048, 8192, False), (16384, 2048, True)]


def test_every_number_of_rows_has_a_next_one():
    assert row_counts(0) == []
    assert row_counts(5) == [1, 2, 3, 4, 5]
    assert row_counts(20) == [1, 2, 3, 4, 5, 6, 7, 8, 16, 20]
    assert row_counts(300)[-4:] == [120, 128, 256, 300]
    assert row_counts(2048)[-2:] == [1920, 2048]


@pytest.mark.parametrize(("N", "K", "gated"), WEIGHTS)
def test_between_them_no_other_kernel_is_chosen(N, K, gated):
    def chosen(M: int):
        if M > MOST_ROWS:
            return whole_tile(M, N, gated, H100.multiprocessors)
        choice = fastest((M, N, K), gated, H100, rule((M, N, K), "bfloat16"))
        return choice.kernel, choice.cut

    counts = row_counts(4096)
    for fewer, more in itertools.pairwise(counts):
        choices = {chosen(M) for M in range(max(9, fewer + 1), more + 1)}
        assert choices <= {chosen(more)}


@pytest.mark.parametrize("num_tokens", [1, 6, 21])
def test_what_a_prompt_launches_is_compiled_and_not_run(tiny_checkpoint, monkeypatch, num_tokens):
    model = tiny_checkpoint(num_hidden_layers=4, sliding_window=8, max_window_layers=2)
    llm = LLM(model, device="sim", dtype="float32", max_model_len=24, max_num_seqs=8)
    runner = llm.engine.runner
    compiled, run = set(), set()
    with monkeypatch.context() as patch:
        launch = importlib.import_module("llm_numba.runtime.launch")
        patch.setattr(launch, "_compile", lambda item: compiled.add(item.kernel))
        kernels = PromptKernels(runner.model, runner.kv_cache, 8, 24)
        for each in row_counts(24):
            kernels.compile(each)
    assert not np.any(to_host(runner.kv_cache.keys))
    simulate = simulator.simulate
    monkeypatch.setattr(
        simulator,
        "simulate",
        lambda kernel, *rest, **more: run.add(kernel) or simulate(kernel, *rest, **more),
    )
    llm.generate([list(range(1, num_tokens + 1))], SamplingParams(max_tokens=1, temperature=0))
    assert run
    assert run <= compiled


@pytest.mark.gpu
def test_no_prompt_waits_for_a_compiler(tiny_checkpoint, monkeypatch):
    sizes = {"hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 1024}
    llm = LLM(tiny_checkpoint(**sizes), device="cuda", dtype="bfloat16", max_num_seqs=16)
    seen = []
    llm.warm_up(lambda done, total: seen.append((done, total)))
    counts = len(row_counts(2048))
    assert seen[:counts] == [(i, counts) for i in range(1, counts + 1)]
    assert len(seen) > counts

    from llm_numba.runtime import gpu

    monkeypatch.setattr(gpu, "_prepare", lambda kernel, *rest: pytest.fail(f"compiled {kernel}"))
    rng = np.random.default_rng(0)
    for params in (SamplingParams(max_tokens=2, temperature=0), SamplingParams(max_tokens=2)):
        lengths = [*range(1, 40), *rng.integers(40, 1000, 60).tolist()]
        for length in lengths:
            llm.generate([rng.integers(1, 250, length).tolist()], params)
        llm.generate([rng.integers(1, 250, length).tolist() for length in lengths], params)


def test_nothing_is_compiled_for_more_than_a_step_may_have(tiny_dir):
    few = LLM(tiny_dir, device="cpu", max_num_seqs=3, max_model_len=20).engine.runner
    assert few._row_counts == row_counts(60)
    many = LLM(tiny_dir, device="cpu", max_num_batched_tokens=300).engine.runner
    assert many._row_counts == row_counts(300)


def test_without_a_gpu_nothing_is_compiled_nor_computed(tiny_dir, monkeypatch):
    llm = LLM(tiny_dir, device="cpu")
    monkeypatch.setattr(llm.engine.runner.model, "forward", lambda *args: pytest.fail("computed"))
    llm.warm_up(lambda done, total: pytest.fail("compiled"))
