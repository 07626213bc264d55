"""What the modules of tests of kernels find."""

import sys
from pathlib import Path

# What several modules of tests share: `attention_cases`, `gemv_cases`.
sys.path.insert(0, str(Path(__file__).parent))
