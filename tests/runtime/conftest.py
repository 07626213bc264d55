"""What tests of launches share: a made-up GPU."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up import made_up_gpu


@pytest.fixture
def gpu(monkeypatch):
    """The made-up machine: its current device and stream, and what was done to it."""
    yield from made_up_gpu(monkeypatch)
