"""Fixtures that several folders of tests share."""

import gc
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# One BLAS thread a test worker: the arrays are small, and workers share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from llm_numba import LLM
from llm_numba.engine import core
from llm_numba.models import parse_config
from llm_numba.models.llama import llama_tensors
from llm_numba.runtime import gpu_problem

# The same examples on every machine and in every run; and no deadline, for the machine may be busy.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")

TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 272,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "dtype": "bfloat16",
}
SPECIAL_TOKENS = ["<s>", "</s>", "<user>", "<assistant>", "<end>"]
CHAT_TEMPLATE = (
    "<s>{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer() -> tokenizers.Tokenizer:
    """A tokenizer with one token a byte (ids 0-255) and the special tokens after them."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)]
    )
    return tokenizer


def write_tiny_checkpoint(directory: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a random Llama of some 20,000 parameters, with a byte tokenizer and chat template."""
    config = TINY_CONFIG | changes
    (directory / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.normal(scale=0.3 if len(shape) > 1 else 1.0, size=shape)
        for name, shape in llama_tensors(parse_config(config)).items()
    }
    save_file(
        {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()},
        directory / "model.safetensors",
    )
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE})
    )
    (directory / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [257, 260], "temperature": 0.7})
    )
    return directory


SANITISED = bool(os.environ.get("LLM_NUMBA_UNPOOLED"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Draw seeds from the test's name; skip what cannot run here.

    That is, what needs a GPU where there is none, or what compute-sanitizer is in the way of.
    """
    # A request without a seed draws one. What a test samples is then new in each test, and the same
    # in each run of it: no luck decides whether it passes.
    core.secrets = SimpleNamespace(randbits=random.Random(item.nodeid).getrandbits)
    if item.get_closest_marker("gpu") and (problem := gpu_problem()):
        pytest.skip(f"no GPU here: {problem}")
    mark = item.get_closest_marker("unsanitised")
    if SANITISED and mark:
        pytest.skip(f"under compute-sanitizer {mark.kwargs['reason']}")


@pytest.fixture(scope="module", autouse=True)
def _young_heap() -> Iterator[None]:
    """Leave what a module of tests has made for others out of the garbage collector's sight.

    Compiled kernels are kept for all tests. Behind some thousand of these, the collector takes
    seconds to look through everything, and benchmarks ask it to.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _each_allocation_by_itself() -> None:
    """Under compute-sanitizer: memory of a pool has no ends that it could see."""
    if SANITISED:
        import cupy

        cupy.cuda.set_allocator(None)


@pytest.fixture(params=["sim", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """A device that runs kernels: the simulator always, a GPU where there is one."""
    return request.param


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """A factory of tiny checkpoints; keyword arguments change config.json."""

    def write(name: str = "tiny", **changes: Any) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        return write_tiny_checkpoint(directory, **changes)

    return write


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny checkpoint that nobody changes."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_llm(tiny_dir: Path) -> LLM:
    """A tiny random model on the CPU, for tests that leave no request behind."""
    return LLM(tiny_dir, device="cpu")


@pytest.fixture(scope="session")
def storyteller() -> LLM:
    """The bundled model on the CPU."""
    return LLM("storyteller", device="cpu")
