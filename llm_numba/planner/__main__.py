"""``python -m llm_numba.planner``: make the package's kernel table anew, from ``docs/results``."""

import json

from llm_numba.bench.environment import checkout
from llm_numba.bench.record import write_text
from llm_numba.errors import LLMNumbaError
from llm_numba.planner.calibration import calibrate, read_records
from llm_numba.planner.table import MEASURED, TABLES

_RECORDED_AS = "nvidia-h100-80gb-hbm3"


def main() -> None:
    """Write the table of the GPU that the records are of."""
    root = checkout()
    if root is None:
        raise LLMNumbaError("There are no records here.", "Run this in a checkout of llm_numba.")
    table = calibrate(read_records(root / "docs" / "results", _RECORDED_AS))
    path = TABLES / f"{MEASURED}.json"
    write_text(path, json.dumps(table.to_json(), indent=1) + "\n")
    print(f"{path.relative_to(root)}: {len(table.products)} laws of products")


if __name__ == "__main__":
    main()
