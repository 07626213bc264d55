"""Transformers on the same shape, GPU and context: as it comes, and compiled.

A process of its own, for its memory is gone when it ends, and what it imports disturbs nobody:
``python -m llm_numba.bench.engine_peers DIRECTORY CONTEXT STEPS`` prints a line of JSON a result.
"""

import importlib.util
import itertools
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from llm_numba.bench.budget import Budget
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.models import resolve_model


class Peer(NamedTuple):
    """A way to run Transformers.

    Attributes
    ----------
    what : str
        In a few words for a table.
    options : dict
        What its ``generate`` is told.
    most_steps : int
        Tokens that count, at most.
    """

    what: str
    options: dict[str, Any]
    most_steps: int


# The faster first: it is what others are held to. A static cache makes Transformers compile the
# model, with CUDA graphs, as its documentation advises for speed.
PEERS = {
    "compiled": Peer(
        "Transformers, static cache and torch.compile", {"cache_implementation": "static"}, 100
    ),
    "eager": Peer("Transformers, eager", {}, 30),
}
_WARMUP = 20


def peer_results(model: str, context: int, steps: int, budget: Budget) -> Iterator[Result]:
    """Time Transformers in a process of its own.

    Parameters
    ----------
    model : str
        As of :class:`~llm_numba.LLM`; its shape alone matters.
    context : int
        Tokens in the middle of the counted steps.
    steps : int
        Counted, at most.
    budget : Budget
        With a part "peers": compiling may take minutes. What is not there by its end is left out.

    Yields
    ------
    Result
        Milliseconds a token at batch 1.
    """
    why, printed = _run(model, context, steps, budget.seconds_left("peers"))
    missing = set(PEERS)
    # A line that was cut off has no end.
    for line in printed.split("\n")[:-1]:
        if line.startswith("{"):
            found = json.loads(line)
            missing.discard(found["name"])
            yield _result(context, **found)
    budget.left_out |= {f"peer/{name}": why for name in PEERS if name in missing}


def _run(model: str, context: int, steps: int, seconds: float) -> tuple[str, str]:
    """Run the process; return why it ended, should it have ended too early, and what it printed."""
    if any(importlib.util.find_spec(each) is None for each in ("torch", "transformers")):
        return "PyTorch or Transformers is not installed", ""
    command = [sys.executable, "-m", "llm_numba.bench.engine_peers"]
    command += [str(resolve_model(model)), str(context), str(steps)]
    # A file: processes that compile for it may keep a pipe open behind its end.
    with TemporaryFile("w+", errors="replace") as told:
        try:
            printed = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=told, timeout=seconds, check=False
            ).stdout
        except subprocess.TimeoutExpired as late:
            return "its time was up", (late.stdout or b"").decode()
        told.seek(0)
        lines = told.read().strip().splitlines()
    return lines[-1] if lines else "it printed nothing", printed.decode()


def _result(context: int, name: str, versions: dict[str, str], seconds: list[float]) -> Result:
    return Result(
        f"peer/{name}",
        f"{PEERS[name].what}: a token at batch 1, context {context}",
        summarize([1e3 * each for each in seconds], "ms", warmup=_WARMUP),
        {"batch": 1, "context": context, "mean_ms": 1e3 * sum(seconds) / len(seconds), **versions},
    )


def measure_here(directory: str, context: int, steps: int) -> Iterator[dict[str, Any]]:
    """Time Transformers in this process.

    Parameters
    ----------
    directory : str
        With a ``config.json``; weights are random.
    context, steps : int
        As of :func:`peer_results`.

    Yields
    ------
    dict
        ``name``, ``versions``, and ``seconds`` of each counted token. None of one that fails.
    """
    import torch
    import transformers

    fields = json.loads((Path(directory) / "config.json").read_text())
    # By its class: a shape's file need not name the type that AutoConfig goes by.
    model_class = getattr(transformers, fields["architectures"][0])
    config = model_class.config_class(**fields)
    torch.set_default_dtype(torch.bfloat16)
    # Made where it runs: on the host, billions of random numbers take minutes.
    with torch.device("cuda"):
        model = model_class(config).eval()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    for name, peer in PEERS.items():
        count = min(steps, peer.most_steps)
        length = max(1, context - count // 2 - _WARMUP)
        prompt = torch.randint(config.vocab_size, (1, length), device="cuda")
        try:
            times = _token_times(model, prompt, _WARMUP + count + 1, peer.options)
        except Exception:  # where nothing can be compiled, the other still runs
            traceback.print_exc()
            continue
        seconds = [after - before for before, after in itertools.pairwise(times)]
        yield {"name": name, "versions": versions, "seconds": seconds[_WARMUP:]}


def _token_times(model: Any, prompt: Any, count: int, options: dict[str, Any]) -> list[float]:
    """Return when each token of an answer was there; what is compiled is so by the first ones."""
    import torch
    import transformers

    times: list[float] = []

    def note(token_ids: Any, scores: Any, **_: Any) -> Any:
        torch.cuda.synchronize()
        times.append(time.perf_counter())
        return torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)

    with torch.no_grad():
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([note]),
            **options,
        )
    return times


if __name__ == "__main__":
    for found in measure_here(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])):
        print(json.dumps(found), flush=True)
