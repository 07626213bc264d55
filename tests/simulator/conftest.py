import sys
from pathlib import Path

# `expressions`, which two modules of tests share.
sys.path.insert(0, str(Path(__file__).parent))
