"""``llm-numba bench resources``: what each kernel of each ladder takes of a GPU, without one.

Every step is compiled for every storage format and capability that it is for, assembled, and asked
for its registers, shared memory and spills.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np

from llm_numba.bench.record import provenance, with_results
from llm_numba.kernels.ladder import Ladder, Step, all_ladders
from llm_numba.microscope import find_ladder
from llm_numba.runtime import Launch, to_device
from llm_numba.runtime.offline import Capability, capability_name, resources, signature_of

CAPABILITIES: tuple[Capability, ...] = ((7, 5), (8, 0), (8, 9), (9, 0), (10, 0))
# A row so many times longer than the example's may have a kernel of its own.
_LONGER = 64


def measure(only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Compile and assemble.

    Parameters
    ----------
    only : sequence of str
        Names of ladders; all if empty.

    Yields
    ------
    dict
        For each kernel and signature: ``name``, ``ladder``, ``step``, ``dtype``, ``kernel``,
        ``signature``, ``shared_bytes`` of a block, and by capability ``registers`` and
        ``stack_bytes`` of a thread and ``spill_bytes`` that it moves.

    Raises
    ------
    LLMNumbaError
        If there is no ladder of a name.
    DependencyError
        If NVVM, NVRTC or ptxas is not installed.
    """
    for ladder in map(find_ladder, only or all_ladders()):
        for step in ladder.steps:
            for dtype in ladder.dtypes:
                for launch in _launches(ladder, step, dtype):
                    yield _result(ladder, step, dtype, launch)


def new_record(
    results: Sequence[dict[str, Any]], only: Sequence[str] = (), commit: str | None = None
) -> dict[str, Any]:
    """Make the record of what :func:`measure` found.

    Parameters
    ----------
    results : sequence of dict
    only : sequence of str
        As of :func:`measure`.
    commit : str, optional
        What was run, for a copy of the checkout without git.
    """
    settings = {"capabilities": [capability_name(each) for each in CAPABILITIES]}
    noted = settings | {"only": list(only)}
    return provenance("resources", noted, commit) | {"results": list(results)}


def renew_ladders(
    record: dict[str, Any], newer: dict[str, Any], only: Sequence[str]
) -> dict[str, Any]:
    """Put the rows of some ladders into the record of all.

    Parameters
    ----------
    record, newer : dict
        Of :func:`new_record`.
    only : sequence of str
        The ladders of the newer one.

    Raises
    ------
    LLMNumbaError
        If the two were not compiled alike.
    """
    others = [each for each in record["results"] if each["ladder"] not in only]
    return with_results(record, newer, only, others + newer["results"])


def _launches(ladder: Ladder, step: Step, dtype: str) -> list[Launch]:
    """Return one launch of each kernel that the example, or a long row, needs."""
    *others, last = ladder.example
    found = {}
    for shape in (ladder.example, (*[1] * len(others), _LONGER * last)):
        operands = {
            name: to_device(value, "sim") if isinstance(value, np.ndarray) else value
            for name, value in ladder.operands(shape, np.dtype(dtype), 0).items()
        }
        for launch in step.plan(**operands):
            found.setdefault((launch.kernel, signature_of(launch)), launch)
    return list(found.values())


def _result(ladder: Ladder, step: Step, dtype: str, launch: Launch) -> dict[str, Any]:
    taken = [resources(launch, capability) for capability in step.targets(CAPABILITIES)]
    first = taken[0]
    return {
        "name": f"{ladder.name}/{step.name}/{dtype}/{first.kernel}",
        "ladder": ladder.name,
        "step": step.name,
        "dtype": dtype,
        "kernel": first.kernel,
        "signature": first.signature,
        "shared_bytes": max(each.shared_bytes for each in taken),
        "registers": {each.capability: each.registers for each in taken},
        "stack_bytes": {each.capability: each.stack_bytes for each in taken},
        "spill_bytes": {each.capability: each.spill_stores + each.spill_loads for each in taken},
    }
