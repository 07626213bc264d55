"""The plan against measurements: steps and memory of engines, as records have them.

Records of engines, on one rank or several, are not what the tables of kernels and links are made
of, so each comparison is a prediction. Only where the table has a kernel's time from a profile of
the very same step is it less than that, and it says so.
"""

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from llm_numba.engine.memory import MemoryOptions
from llm_numba.models import ModelConfig, load_config
from llm_numba.models.random import PREFIX, resolve_shape
from llm_numba.parallel.paths import CAPTURED
from llm_numba.planner.calibration import commit_of
from llm_numba.planner.gpus import GPU, GPUS
from llm_numba.planner.links import packaged_links
from llm_numba.planner.memory import rank_memory
from llm_numba.planner.plan import Question, links_of, make_plan
from llm_numba.planner.split import cut
from llm_numba.planner.table import KernelTable

GOAL = 0.15
OLDER = "the record is older than kernels of the table"
# Of a card, for steps whose memory is not the question.
_ALL_OF_IT = 0.99
_BATCHED_TOKENS = 2048


@dataclass(frozen=True)
class Comparison:
    """A measured time and the planned one.

    Attributes
    ----------
    record : str
        Its file.
    what : str
        As the record says it.
    name : str
        Of the result.
    unit : str
        Milliseconds, or GB of memory.
    measured, planned : float
    reason : str
        Why they differ, where they do by more than the goal; else empty.
    same_step : bool
        Whether kernels of the very step are in the table, by a profile.
    """

    record: str
    what: str
    name: str
    unit: str
    measured: float
    planned: float
    reason: str
    same_step: bool

    @property
    def off(self) -> float:
        """The plan's relative error."""
        return self.planned / self.measured - 1

    @property
    def holds(self) -> bool:
        """Whether that is within the goal."""
        return abs(self.off) <= GOAL


def compare(record: dict[str, Any], file: str, table: KernelTable) -> list[Comparison]:
    """Plan each decoding step, each first token and the memory of an engine's record.

    Parameters
    ----------
    record : dict
        Of ``llm-numba bench engine`` or ``bench ranks``, see :func:`is_comparable`.
    file : str
        Its name.
    table : KernelTable

    Returns
    -------
    list of Comparison
    """
    model = record["settings"]["model"]
    config = load_config(resolve_shape(model.removeprefix(PREFIX)))
    gpu = _gpu(record)
    question = Question(
        config,
        np.dtype(ml_dtypes.bfloat16),
        gpu,
        *_ranks(record),
        gpu_memory_gb=_ALL_OF_IT * gpu.memory_bytes / 2**30,
    )
    is_older = any(
        record["date"] < source["date"] and commit_of(record) != source["commit"]
        for source in table.sources
    )
    of_one_length = table.prompt_attention.worst_fit == 0  # through one amount goes any line
    comparisons = []
    for result in record["results"]:
        planned, question, step = _planned(record, result, question, table)
        if planned is None:
            continue
        comparison = Comparison(
            file,
            result["what"],
            result["name"],
            result["unit"],
            result["median"],
            planned,
            "",
            gpu.driver_name == table.gpu and _is_profiled(table, model, step),
        )
        comparisons.append(_with_reason(comparison, question, is_older, of_one_length))
    return comparisons


def _planned(
    record: dict[str, Any], result: dict[str, Any], question: Question, table: KernelTable
) -> tuple[float | None, Question, str]:
    """Plan what a result is of; return that, what was asked, and how a profile calls the step."""
    kind, shape = result["name"].partition("/")[0], result["shape"]
    if kind == "decode":
        context = shape["context"] + _decoded_before(record)
        question = replace(question, batch=shape["batch"], context=context, prompt=None)
        plan = make_plan(question, table)
        rounds = plan.interleaved if shape["batch"] > 1 else plan.drained
        return 1e3 * rounds.seconds, question, result["name"]
    if kind in ("first_token", "prefill"):
        tokens = shape["tokens"]
        # bench ranks lets a step take all of it; of several stages each takes a part at a time.
        whole = max(tokens, _BATCHED_TOKENS) if kind == "prefill" else _BATCHED_TOKENS
        question = replace(
            question,
            batch=1,
            context=tokens + 1,
            prompt=tokens,
            max_num_batched_tokens=whole // question.pp,
        )
        planned = 1e3 * make_plan(question, table).prompt.seconds
        return planned, question, f"prefill/batch=1/context={tokens}"
    if result["name"] == "memory/taken":
        return _memory(record, question.config), question, result["name"]
    return None, question, ""


def _decoded_before(record: dict[str, Any]) -> int:
    """Return how many tokens are decoded before the median step that counts."""
    if record["benchmark"] != "ranks":
        return 0
    settings = record["settings"]
    return settings["warmup"] + settings["steps"] // 2


def _memory(record: dict[str, Any], config: ModelConfig) -> float:
    """Plan the GB that the engine of a record takes, whose options are the usual ones."""
    options = MemoryOptions(
        config.max_position_embeddings, max_num_seqs=max(record["settings"]["batches"])
    )
    split = cut(config, *_ranks(record))
    card = record["environment"]["gpus"][0]["memory_bytes"]
    memory = rank_memory(split, split.rank(0, 0), np.dtype(ml_dtypes.bfloat16), options, card)
    return memory.taken_by_engine / 1e9


def _ranks(record: dict[str, Any]) -> tuple[int, int]:
    """Return tp and pp of an engine; a record of one GPU need not say them."""
    settings = record["settings"]
    return settings.get("tp", 1), settings.get("pp", 1)


def is_comparable(record: dict[str, Any]) -> bool:
    """Whether a record is of an engine with random weights of a known shape, on a known GPU.

    Of several ranks, those whose arrays went by a path that a graph can hold, and did: a plan
    counts what GPUs do, and not how long a host takes to tell them. Nor does it know of switches.

    Parameters
    ----------
    record : dict
    """
    settings = record.get("settings", {})
    if record["benchmark"] == "ranks":
        names = {result["shape"]["path"] for result in record["results"]}
        paths = {path for name in names for path in name.split("+")}
        usual = not settings.get("enforce_eager") and not settings.get("switches")
        if not usual or not paths <= {*CAPTURED, "alone"}:
            return False
    elif record["benchmark"] != "engine":
        return False
    return _gpu(record) is not None and settings.get("model", "").startswith(PREFIX)


def _gpu(record: dict[str, Any]) -> GPU | None:
    """Return the GPU that a record is of, if plans know it."""
    if record["settings"].get("device", "cuda") != "cuda":
        return None
    names = {each["name"] for each in record["environment"].get("gpus") or []}
    return next((gpu for gpu in GPUS.values() if names == {gpu.driver_name}), None)


def _is_profiled(table: KernelTable, model: str, step: str) -> bool:
    """Tell whether a profile of this step is among what the table was made of."""
    wanted = f"_{model.removeprefix(PREFIX)} {step} "
    laws = [
        *(each.law for each in table.products),
        table.decode_attention, table.joined_attention, table.turning_attention,
        table.prompt_attention,
    ]  # fmt: skip
    return any(wanted in time for law in laws for time in law.times)


def _assumes_links(question: Question) -> bool:
    """Tell whether a plan rests on the data sheet of a link that its ranks use."""
    links = zip(links_of(question, packaged_links()), (question.tp, question.pp), strict=True)
    return any(ranks > 1 and not (link.measured or link.fitted) for link, ranks in links)


def _with_reason(
    found: Comparison, question: Question, is_older: bool, of_one_length: bool
) -> Comparison:
    """Say why a plan is off, as far as the table itself tells."""
    if found.holds:
        return found
    is_prompt = found.name.startswith(("first_token", "prefill"))
    if found.unit == "GB":
        reason = "the engine takes memory that the plan does not know of"
    # Kernels that came later are faster, not slower.
    elif is_older and found.off < 0 and (question.tp * question.pp == 1 or is_prompt):
        reason = OLDER
    elif is_prompt and found.off < 0:
        reason = (
            "a prompt's kernels are launched one by one, and the host took longer than the GPU: "
            "the plan counts the GPU alone"
        )
    elif is_prompt and of_one_length:
        reason = "attention was timed for shorter prompts only, which use tensor cores less well"
    elif found.off < 0 and _assumes_links(question):
        reason = "links were not measured: data sheets promise more than messages reach"
    elif found.off < 0 and question.tp * question.pp > 1:
        reason = "the plan takes all ranks to be equally fast, and none to wait for another"
    else:
        reason = "no kernel of this size is in the table"
    return replace(found, reason=reason)
