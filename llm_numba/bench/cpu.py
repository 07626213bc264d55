"""``llm-numba bench cpu``: how fast the NumPy path is, and what loading costs.

Targets stand beside the figures they are for. They are what a laptop of two cores should reach,
and no test holds anybody to them: a busy machine is not a bug.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from llm_numba.bench.bandwidth import weight_bandwidth
from llm_numba.bench.engine_steps import EngineTimer
from llm_numba.bench.record import Result
from llm_numba.bench.startup import load_cost, process_time
from llm_numba.bench.synthetic import write_checkpoint
from llm_numba.bench.timing import repeat, summarize
from llm_numba.engine import LLM
from llm_numba.models import open_model, resolve_model

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class CPUSettings:
    """What to run.

    Attributes
    ----------
    model : str
        Bundled name or directory.
    repeats, warmup : int
        Counted and uncounted runs of each measurement in this process.
    processes : int
        Fresh interpreters for each start-up measurement.
    prefill_tokens : int
        Length of the prompt whose prefill is timed.
    prompt_tokens, new_tokens : int
        Lengths for decoding.
    batch_sizes : tuple of int
        Sequences decoded together; the first is what the others are compared with.
    synthetic_megabytes : float
        Size of the random bfloat16 checkpoint whose loading is measured: a small model drowns in
        the interpreter's own memory.
    bandwidth_megabytes : float
        Size of the matrix whose reading is timed.
    """

    model: str = "storyteller"
    repeats: int = 9
    warmup: int = 2
    processes: int = 15
    prefill_tokens: int = 400
    prompt_tokens: int = 16
    new_tokens: int = 128
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    synthetic_megabytes: float = 200.0
    bandwidth_megabytes: float = 400.0

    def to_json(self) -> dict:
        """Return the settings as a JSON object."""
        return asdict(self)


def measure(settings: CPUSettings) -> Iterator[Result]:
    """Run the benchmark.

    Parameters
    ----------
    settings : CPUSettings
        What to run.

    Yields
    ------
    Result
        As soon as it is measured.
    """
    yield from _startup(settings)
    yield from _loading(settings)
    timer = EngineTimer(LLM(settings.model, device="cpu"))
    yield _prefill(timer, settings)
    yield from _decode(timer, settings)
    yield _bandwidth(settings)


def _prefill(timer: EngineTimer, settings: CPUSettings) -> Result:
    tokens = settings.prefill_tokens
    return Result(
        f"prefill/tokens={tokens}",
        f"prompt of {tokens} tokens to first token",
        repeat(
            lambda: 1e3 * timer.first_token(tokens),
            repeats=settings.repeats,
            warmup=settings.warmup,
            unit="ms",
        ),
        {"batch": 1, "prompt_tokens": tokens},
        at_most=150.0 if tokens == 400 else None,
    )


def _decode(timer: EngineTimer, settings: CPUSettings) -> Iterator[Result]:
    lengths = {"prompt_tokens": settings.prompt_tokens, "new_tokens": settings.new_tokens}
    first, *_ = settings.batch_sizes
    rates = {batch: [] for batch in settings.batch_sizes}
    # Round by round, so that all batch sizes meet the same disturbances and their ratio is fair.
    for round_number in range(settings.warmup + settings.repeats):
        for batch, samples in rates.items():
            rate = timer.decode_rate(batch, **lengths)
            if round_number >= settings.warmup:
                samples.append(rate)
    for batch, samples in rates.items():
        yield Result(
            f"decode/batch={batch}",
            f"decoding, batch of {batch}",
            summarize(samples, "tokens/s", warmup=settings.warmup),
            {"batch": batch, **lengths},
            at_least=300.0 if batch == 1 else None,
        )
        if batch == first:
            continue
        ratios = [rate / base for rate, base in zip(samples, rates[first], strict=True)]
        yield Result(
            f"decode_speedup/batch={batch}",
            f"batch of {batch} over a batch of {first}",
            summarize(ratios, "x", warmup=settings.warmup),
            {"batch": batch, "baseline_batch": first, **lengths},
            at_least=4.0 if (first, batch) == (1, 16) else None,
        )


def _loading(settings: CPUSettings) -> Iterator[Result]:
    yield from _load(settings.model, Path(settings.model).name, settings.processes)
    with TemporaryDirectory() as directory:
        write_checkpoint(Path(directory), settings.synthetic_megabytes)
        # Fewer: writing back and reading a large file takes its time, and memory hardly varies.
        processes = max(1, settings.processes // 3)
        yield from _load(directory, "synthetic", processes, at_most=1.2)


def _load(model: str, label: str, processes: int, at_most: float | None = None) -> Iterator[Result]:
    tensors = open_model(resolve_model(model)).checkpoint.tensors.values()
    weights = _FLOAT32_BYTES * sum(info.num_elements for info in tensors)
    shape = {"stored_bytes": sum(info.num_bytes for info in tensors), "float32_bytes": weights}
    costs = [load_cost(model) for _ in range(processes)]
    yield Result(
        f"load_time/{label}",
        f"loading the {label} checkpoint",
        summarize([1e3 * cost["seconds"] for cost in costs], "ms"),
        shape,
    )
    yield Result(
        f"load_peak/{label}",
        "peak memory of that, over its weights in float32",
        summarize([cost["peak_bytes"] / weights for cost in costs], "x"),
        shape,
        at_most=at_most,
    )


def _bandwidth(settings: CPUSettings) -> Result:
    megabytes, repeats, warmup = settings.bandwidth_megabytes, settings.repeats, settings.warmup
    return Result(
        "bandwidth/read",
        f"reading a matrix of {megabytes:g} MB, in a product with a vector",
        summarize(weight_bandwidth(megabytes, repeats, warmup), "GB/s", warmup=warmup),
        {"bytes": int(megabytes * 1e6)},
    )


def _startup(settings: CPUSettings) -> Iterator[Result]:
    processes = {
        "python": ("start Python, import nothing", ["-c", ""], None),
        "import": ("and import llm_numba", ["-c", "import llm_numba"], 300.0),
        "import_llm": ("and import LLM from it",
                       ["-c", "from llm_numba import LLM"], 300.0),
        "help": ("llm-numba --help", ["-m", "llm_numba", "--help"], None),
    }  # fmt: skip
    for name, (what, arguments, at_most) in processes.items():
        samples = repeat(
            lambda arguments=arguments: 1e3 * process_time(arguments),
            repeats=settings.processes,
            warmup=1,
            unit="ms",
        )
        yield Result(f"startup/{name}", what, samples, at_most=at_most)
