"""A prompt's products by the kernels for compute capability 9.0: the answers of the others."""

import numpy as np
import pytest

from llm_numba import LLM
from llm_numba.kernels import gemm_hopper_fused, linear
from llm_numba.runtime import is_architecture, to_device


@pytest.mark.slow
def test_the_logits_of_a_long_prompt_are_the_models(tiny_checkpoint, device, monkeypatch):
    """131 tokens are two tiles below each other. To 2 %, as those of other kernels in bfloat16."""
    if not is_architecture(to_device(np.zeros(1), device), (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")
    monkeypatch.setenv("LLM_NUMBA_SIM_CAPABILITY", "9.0")
    monkeypatch.setattr(gemm_hopper_fused, "FEWEST_TILES", 1)
    fused, used = gemm_hopper_fused.gemm_fused, []

    def noted(*args, **options):
        used.append((options["activation"], options["residual"] is not None))
        return fused(*args, **options)

    monkeypatch.setattr(linear, "gemm_fused", noted)
    directory = tiny_checkpoint(max_position_embeddings=256)
    tokens = np.random.default_rng(0).integers(1, 60, 131).tolist()
    reference = LLM(directory, device="cpu").logits(tokens)
    logits = LLM(directory, device=device, dtype="bfloat16").logits(tokens)
    assert {("silu_mul", False), (None, True), (None, False)} <= set(used)
    assert np.linalg.norm(logits - reference) <= 2e-2 * np.linalg.norm(reference)
