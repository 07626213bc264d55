"""Our engine and the installed Transformers, side by side on random configurations.

    make parity
    LLM_NUMBA_PARITY_CASES=200 make parity        # configurations of each family, 10 by default

A case is its number: `test_random_configuration[llama-7]` is the same model on every machine and
under every release of Transformers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `parity`)")
transformers = pytest.importorskip(
    "transformers", reason="Transformers is not installed (extra `parity`)"
)

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
# Both folders hold helpers beside their tests, and pytest's importlib mode adds neither.
sys.path[:0] = [str(HERE), str(GOLDEN)]
import checkpoints  # noqa: E402
from draws import draw  # noqa: E402

from llm_numba import LLM, SamplingParams, ops  # noqa: E402

if TYPE_CHECKING:
    from draws import Draw

pytestmark = [
    pytest.mark.parity,
    # Their deprecations are not ours to fix.
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
]

CASES = int(os.environ.get("LLM_NUMBA_PARITY_CASES", "10"))
# See tests/golden/test_golden.py: some thirty times what Transformers differs from itself.
TOLERANCE = 1e-4
ATTEMPTS = 50
MIN_DISTINCT_TOKENS = 3


@pytest.fixture(autouse=True, scope="module")
def quiet_and_modest():
    """One thread: the models are far too small for more."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)


def decisive_reference(
    family: str, drawn: Draw, directory: Path, **options: float
) -> checkpoints.Reference:
    """Write the checkpoint into `directory`, with weights that leave no near tie."""
    for seed in range(ATTEMPTS):
        model = checkpoints.random_model(family, drawn.config, seed)
        checkpoints.save(model, directory, drawn.storage, drawn.shard_size)
        loaded = checkpoints.load(directory)
        reference = checkpoints.reference(loaded, drawn.prompt, drawn.steps, **options)
        if reference.is_decisive(MIN_DISTINCT_TOKENS):
            return reference
    raise AssertionError(f"{ATTEMPTS} draws of weights leave near ties or repeat: {drawn}")


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("number", range(CASES))
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_random_configuration(family, number, tmp_path, record_property):
    drawn = draw(family, number)
    reference = decisive_reference(family, drawn, tmp_path)
    llm = LLM(str(tmp_path), device="cpu", dtype="float32", block_size=drawn.block_size)

    error = relative_error(llm.logits(drawn.prompt + reference.greedy), reference.logits)
    record_property("relative_error", error)
    assert error <= TOLERANCE, drawn
    greedily = SamplingParams(temperature=0.0, max_tokens=drawn.steps, ignore_eos=True)
    output = llm.generate([drawn.prompt], greedily)[0].outputs[0]
    assert output.token_ids == reference.greedy, drawn


@pytest.mark.parametrize("number", range(CASES))
@pytest.mark.parametrize("penalty", [0.7, 1.3, 3.0])
def test_repetition_penalty(penalty, number, tmp_path):
    drawn = draw("llama", number)
    reference = decisive_reference("llama", drawn, tmp_path, repetition_penalty=penalty)
    params = SamplingParams(
        temperature=0.0, max_tokens=drawn.steps, ignore_eos=True, repetition_penalty=penalty
    )
    output = LLM(str(tmp_path), device="cpu").generate([drawn.prompt], params)[0].outputs[0]
    assert output.token_ids == reference.greedy, drawn


def test_partial_rotation():
    """None of the five families turns a part of the head only; Phi-3 does, in the same layout."""
    from transformers.models.phi3 import modeling_phi3

    config = transformers.Phi3Config(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=4,
        partial_rotary_factor=0.5,
        rope_theta=100.0,
    )
    rng = np.random.default_rng(0)
    q = rng.standard_normal((20, 4, 16), dtype=np.float32)
    positions = np.arange(5, 25)
    cos, sin = modeling_phi3.Phi3RotaryEmbedding(config)(
        torch.empty(0), torch.from_numpy(positions)[None]
    )
    heads_first = torch.from_numpy(q).transpose(0, 1)[None]
    expected, _ = modeling_phi3.apply_rotary_pos_emb(heads_first, heads_first, cos, sin)

    frequencies = ops.rope_frequencies(8, 100.0, ops.RopeScaling())
    tables = ops.rope_tables(frequencies, 25, np.dtype(np.float32))
    ours = ops.rope(q, positions, *tables)
    np.testing.assert_allclose(ours, expected[0].transpose(0, 1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(ours[..., 8:], q[..., 8:])


@pytest.mark.parametrize(
    "case", json.loads((GOLDEN / "manifest.json").read_text()), ids=lambda case: case["name"]
)
def test_golden_fixture_is_what_this_release_computes(case):
    """The fixtures come from three releases: a later reading must give the same logits."""
    directory = GOLDEN / "fixtures" / case["name"]
    config = json.loads((directory / "config.json").read_text())
    if "rope_parameters" in config and transformers.__version__ < "5":
        pytest.skip("Transformers 4 does not read the RoPE parameters of Transformers 5")
    logits = checkpoints.logits(checkpoints.load(directory), case["prompt"] + case["greedy"])
    assert relative_error(logits, np.load(directory / "logits.npy")) <= TOLERANCE / 10
