"""What a process on a GPU pays for once: kernels to compile or to find, weights to bring.

A start is measured from outside, from the beginning of a fresh process to the first token. *Cold*
is one with an empty cache of compiled kernels, *warm* one that finds them. The large model has
random weights, made on the GPU: what is left is what a start costs besides reading weights. How
fast these come, :mod:`llm_numba.bench.gpu_upload` measures.

Compiling may take minutes. So each part has its share of the time, and what is left out is said.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any

from llm_numba import variables
from llm_numba.bench.budget import Budget
from llm_numba.bench.gpu_upload import upload_results
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.errors import LLMNumbaError

_UPLOAD_SHARE = 0.25  # of the time
# "besides reading weights": the second start of a model of 8 billion weights.
_WARM_AT_MOST = 5.0

_START = """
import json, sys, time
begin = float(sys.argv[2])
from llm_numba import LLM, SamplingParams
from llm_numba.runtime import gpu

compiled, compile_one = [], gpu._compile
gpu._compile = lambda kernel, *rest: (compiled.append(1), compile_one(kernel, *rest))[1]
llm = LLM(sys.argv[1], device="cuda", dtype="bfloat16", max_model_len=256, num_blocks=64)
loaded = time.time() - begin
llm.generate([list(range(1, 33))], SamplingParams(max_tokens=2, seed=0, ignore_eos=True))
print(json.dumps({"loaded": loaded, "first": time.time() - begin, "compiled": len(compiled)}))
"""


@dataclass(frozen=True)
class StartSettings:
    """What is started and brought, and how often.

    Attributes
    ----------
    shape, disk_shape : str
        Of the checkpoints that are written and loaded, from the system's cache and from the disk.
    repeats : int
        Loads of them.
    models : tuple of str
        Each is started cold once and warm several times.
    processes : int
        Warm starts of each.
    """

    shape: str = "llama-3-8b"
    disk_shape: str = "llama-3.2-1b"
    repeats: int = 3
    models: tuple[str, ...] = ("random:llama-3-8b", "storyteller")
    processes: int = 3

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    def budget(self, limit_seconds: float) -> Budget:
        """Return one for uploads and for the starts of each model.

        Parameters
        ----------
        limit_seconds : float
            From now on.
        """
        each = (1 - _UPLOAD_SHARE) / len(self.models)
        starts = {f"start/{_label(model)}": each for model in self.models}
        return Budget(limit_seconds, {"upload": _UPLOAD_SHARE, **starts})


def measure(settings: StartSettings, budget: Budget) -> Iterator[Result]:
    """Measure the bringing of weights, and starts, on the current GPU.

    Parameters
    ----------
    settings : StartSettings
    budget : Budget
        As of :meth:`StartSettings.budget`. It notes what was left out.

    Yields
    ------
    Result
        As they come; a cold start takes a minute.

    Raises
    ------
    LLMNumbaError
        If nothing can be measured at all.
    """
    uploads = upload_results(settings.shape, settings.disk_shape, settings.repeats, budget)
    yield from budget.results("upload", uploads)
    for model in settings.models:
        started = _starts(model, settings.processes, budget)
        yield from budget.results(f"start/{_label(model)}", started)


def _label(model: str) -> str:
    return model.removeprefix("random:")


def _starts(model: str, processes: int, budget: Budget) -> Iterator[Result]:
    label = _label(model)
    part = f"start/{label}"
    with TemporaryDirectory() as cache:
        cold = _start(model, cache, budget.seconds_left(part))
        kernels = {"kernels": cold["compiled"]}
        yield Result(
            f"start/cold/{label}",
            f"{label}: cold start, {cold['compiled']} kernels compiled",
            summarize([cold["first"]], "s"),
            kernels,
        )
        warm = [_start(model, cache, budget.seconds_left(part))]
        # One that is stopped tells nothing, and a process takes longer than to its first token.
        while len(warm) < processes and budget.seconds_left(part) > 2 * warm[-1]["first"]:
            warm.append(_start(model, cache, budget.seconds_left()))
    yield Result(
        f"start/warm/{label}",
        f"{label}: warm start, to the first token",
        summarize([each["first"] for each in warm], "s"),
        kernels,
        at_most=_WARM_AT_MOST,
    )
    yield Result(
        f"start/loaded/{label}",
        f"{label}: of that, until the model is loaded",
        summarize([each["loaded"] for each in warm], "s"),
    )


def _start(model: str, cache: str, seconds: float) -> dict[str, Any]:
    """Start a process and wait, for so many seconds at most, until it tells how long it took."""
    command = [sys.executable, "-c", _START, model, str(time.time())]
    environment = variables.passed_on() | {"LLM_NUMBA_CACHE": cache}
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise LLMNumbaError(
            f"A start of {model} took longer than {seconds:.0f} s.", "Raise --limit."
        ) from None
    if child.returncode:
        said = child.stderr.strip().splitlines() or ["It said nothing."]
        raise LLMNumbaError(
            f"A start of {model} failed: {said[-1]}", f"Run: llm-numba generate Hi -m {model}."
        )
    return json.loads(child.stdout.splitlines()[-1])
