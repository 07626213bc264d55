"""What the engine's tests share: a count of blocks in use, and engines with odd cache sizes."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_numba import LLM

# What several modules of tests share: `decoding`.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler, also where a shell in the background has switched Ctrl-C off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def blocks_in_use() -> Callable[[LLM], int]:
    """Blocks of an engine's KV cache that somebody owns."""

    def count(llm: LLM) -> int:
        allocator = llm.engine._kv_cache.allocator
        return allocator.num_blocks - allocator.num_free

    return count


@pytest.fixture
def tiny_llm(tiny_llm: LLM, blocks_in_use) -> Iterator[LLM]:
    """The shared tiny model, held to it that every test gives its blocks back."""
    yield tiny_llm
    assert blocks_in_use(tiny_llm) == 0


@pytest.fixture
def new_llm(tiny_dir: Path) -> Callable[..., LLM]:
    """A fresh engine on the shared tiny weights; keyword arguments go to `LLM`."""

    def new(**options: Any) -> LLM:
        return LLM(tiny_dir, **{"device": "cpu", **options})

    return new
