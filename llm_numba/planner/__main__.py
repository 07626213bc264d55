"""``python -m llm_numba.planner``: make the package's tables anew, from ``docs/results``.

That of kernels is for plans. Those of links are for plans, and for engines, which choose by them
what carries an array.
"""

import json

from llm_numba.bench.environment import checkout
from llm_numba.bench.record import write_text
from llm_numba.errors import LLMNumbaError
from llm_numba.parallel import measured
from llm_numba.planner.calibration import calibrate, read_records
from llm_numba.planner.links import tables_of
from llm_numba.planner.table import MEASURED, TABLES

_RECORDED_AS = "nvidia-h100-80gb-hbm3"


def main() -> None:
    """Write a table of the GPU that was measured, and one of each kind of machine."""
    root = checkout()
    if root is None:
        raise LLMNumbaError("There are no records here.", "Run this in a checkout of llm_numba.")
    results = root / "docs" / "results"
    table = calibrate(read_records(results, _RECORDED_AS))
    path = TABLES / f"{MEASURED}.json"
    write_text(path, json.dumps(table.to_json(), indent=1) + "\n")
    print(f"{path.relative_to(root)}: {len(table.products)} laws of products")
    tables = tables_of(results)
    for name, times in tables.items():
        write_text(measured.TABLES / name, json.dumps(times.to_json()) + "\n")
        print(f"{(measured.TABLES / name).relative_to(root)}: {times.kind}")
    for path in measured.TABLES.glob("*.json"):
        if path.name not in tables:
            path.unlink()


if __name__ == "__main__":
    main()
