"""The plan against measurements: steps and memory of engines, as records have them.

Engine records are not what the kernel table is made of, so each comparison is a prediction. Only
where the table has a kernel's time from a profile of the very same step is it less than that, and
it says so.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import ml_dtypes
import numpy as np

from llm_numba.engine.memory import MemoryOptions
from llm_numba.models import ModelConfig, load_config
from llm_numba.models.random import PREFIX, resolve_shape
from llm_numba.planner.gpus import find_gpu
from llm_numba.planner.memory import rank_memory
from llm_numba.planner.plan import Question, make_plan
from llm_numba.planner.split import cut
from llm_numba.planner.table import MEASURED, KernelTable

GOAL = 0.15
# GiB of the card, for steps whose memory is not the question.
_ALL_OF_IT = 79.0
# Kernels for tensor cores came then: older engines multiplied all rows on ordinary units.
_TENSOR_CORES_SINCE = datetime.fromisoformat("2026-11-22T08:15:45+00:00")


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
        Of ``llm-numba bench engine`` on the GPU that the table is of, of a model with random
        weights.
    file : str
        Its name.
    table : KernelTable

    Returns
    -------
    list of Comparison
    """
    model = record["settings"]["model"]
    config = load_config(resolve_shape(model.removeprefix(PREFIX)))
    question = Question(
        config,
        np.dtype(ml_dtypes.bfloat16),
        find_gpu(MEASURED),
        *_ranks(record),
        tensor_cores=datetime.fromisoformat(record["date"]) >= _TENSOR_CORES_SINCE,
        gpu_memory_gb=_ALL_OF_IT,
    )
    comparisons = []
    for result in record["results"]:
        kind, shape = result["name"].partition("/")[0], result["shape"]
        if kind == "decode":
            question = replace(
                question, batch=shape["batch"], context=shape["context"], prompt=None
            )
            planned = 1e3 * make_plan(question, table).drained.seconds
            step = result["name"]
        elif kind == "first_token":
            tokens = shape["tokens"]
            question = replace(question, batch=1, context=tokens + 1, prompt=tokens)
            planned = 1e3 * make_plan(question, table).prompt.seconds
            step = f"prefill/batch=1/context={tokens}"
        elif result["name"] == "memory/taken":
            planned, step = _memory(record, config), result["name"]
        else:
            continue
        comparison = Comparison(
            file,
            result["what"],
            result["name"],
            result["unit"],
            result["median"],
            planned,
            "",
            _is_profiled(table, model, step),
        )
        comparisons.append(_with_reason(comparison, question, table))
    return comparisons


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


def is_of_table(record: dict[str, Any], table: KernelTable) -> bool:
    """Whether a record is of an engine on the table's GPU, with random weights of a known shape.

    Parameters
    ----------
    record : dict
    table : KernelTable
    """
    gpus = [each["name"] for each in record["environment"].get("gpus") or []]
    model = record.get("settings", {}).get("model", "")
    return record["benchmark"] == "engine" and table.gpu in gpus and model.startswith(PREFIX)


def _is_profiled(table: KernelTable, model: str, step: str) -> bool:
    """Tell whether a profile of this step is among what the table was made of."""
    wanted = f"_{model.removeprefix(PREFIX)} {step} "
    laws = [*(each.law for each in table.products), table.decode_attention, table.prompt_attention]
    return any(wanted in time for law in laws for time in law.times)


def _with_reason(found: Comparison, question: Question, table: KernelTable) -> Comparison:
    """Say why a plan is off, as far as the table itself tells."""
    if found.holds:
        return found
    rows = question.batch
    if found.unit == "GB":
        reason = "the engine takes memory that the plan does not know of"
    elif found.name.startswith("first_token") and found.off < 0:
        reason = (
            "a prompt's kernels are launched one by one, and the host took longer than the GPU: "
            "the plan counts the GPU alone"
        )
    elif question.tp * question.pp > 1 and found.off < 0:
        reason = "links were not measured: data sheets promise more than messages reach"
    elif question.tensor_cores and table.assumes_tensor_cores(rows):
        reason = (
            f"products of {rows} rows on tensor cores were not measured alone; the plan takes "
            "them to last as long as those of one row"
        )
    else:
        reason = "no kernel of this size is in the table"
    return replace(found, reason=reason)
