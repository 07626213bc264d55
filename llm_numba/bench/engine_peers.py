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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.models import resolve_model

# What `generate` is told, and how a table says it. A static cache makes Transformers compile the
# model, with CUDA graphs, as its documentation advises for speed.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "eager": ("Transformers, eager", {}),
    "compiled": (
        "Transformers, static cache and torch.compile",
        {"cache_implementation": "static"},
    ),
}
_WARMUP = 20
_MOST_STEPS = 100
_PATIENCE_SECONDS = 150.0


def peer_results(
    model: str, context: int, steps: int, patience_seconds: float = _PATIENCE_SECONDS
) -> Iterator[Result]:
    """Time Transformers in a process of its own.

    Parameters
    ----------
    model : str
        As of :class:`~llm_numba.LLM`; its shape alone matters.
    context : int
        Tokens in the middle of the counted steps.
    steps : int
        Counted, 100 at most.
    patience_seconds : float
        Compiling may take minutes; what is not there by then is left out.

    Yields
    ------
    Result
        Milliseconds a token at batch 1. Nothing where PyTorch or Transformers is not installed.
    """
    if any(importlib.util.find_spec(each) is None for each in ("torch", "transformers")):
        return
    command = [sys.executable, "-m", "llm_numba.bench.engine_peers"]
    command += [str(resolve_model(model)), str(context), str(min(steps, _MOST_STEPS))]
    try:
        printed = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=patience_seconds,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as late:
        printed = late.stdout or b""
    # A line that was cut off has no end.
    for line in printed.decode().split("\n")[:-1]:
        if line.startswith("{"):
            yield _result(context, **json.loads(line))


def _result(context: int, name: str, versions: dict[str, str], seconds: list[float]) -> Result:
    return Result(
        f"peer/{name}",
        f"{PEERS[name][0]}: a token at batch 1, context {context}",
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
        ``name``, ``versions``, and ``seconds`` of each counted token.
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
        prompt = torch.randint(config.vocab_size, (1, max(1, context - steps // 2 - _WARMUP)))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    for name, (_, options) in PEERS.items():
        times = _token_times(model, prompt, _WARMUP + steps + 1, options)
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
