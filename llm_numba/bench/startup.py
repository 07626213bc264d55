"""Costs that are paid once a process: imports, loading time, and the memory that loading peaks at.

Each sample is a fresh interpreter, for a second import in the same one is free and memory that was
once touched is never given back.

Memory is ``VmHWM`` of ``/proc/self/status``: the largest resident set so far, mapped file pages
included. It is read once all modules are imported and again after loading; the difference is what
loading costs.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

_LOAD = """
import json, sys, time
import jinja2, ml_dtypes, safetensors, tokenizers
from llm_numba.engine import LLM

def peak():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

before = peak()
begin = time.perf_counter()
llm = LLM(sys.argv[1], device="cpu", num_blocks=64)
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "peak_bytes": peak() - before}))
"""


def process_time(arguments: Sequence[str]) -> float:
    """Return the wall time of a Python process, from start to exit, in seconds.

    Parameters
    ----------
    arguments : sequence of str
        Of the interpreter, for example ``["-c", "import llm_numba"]``.
    """
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def load_cost(model: str) -> dict[str, Any]:
    """Load a model in a fresh process.

    Parameters
    ----------
    model : str
        Bundled name or directory.

    Returns
    -------
    dict
        ``seconds`` and ``peak_bytes``: by how much the peak of the resident set grew.
    """
    child = subprocess.run(
        [sys.executable, "-c", _LOAD, model], check=True, capture_output=True, text=True
    )
    return json.loads(child.stdout)
