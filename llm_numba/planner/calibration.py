"""The kernel table, made from records of kernels: never from one of an engine.

Products of one row, and attention, are those of ``kernels_*.json``, timed alone; products of more
rows are those of ``gemm_*.json``, each by the kernel that a model calls. What is in neither is
taken from profiles (``profile_*.json``), where the GPU notes begin and end of each kernel within a
step. Each law is the straight line with the least relative errors; the largest of them is kept with
it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from llm_numba.bench.record import read_record
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.paged_decode_plans import is_short
from llm_numba.planner.table import KernelTable, Law, ProductLaw

Record = dict[str, Any]
# Amount, seconds, and the name of the time.
Times = list[tuple[float, float, str]]

_SHORT = ("rope_and_write_kv", "embedding", "argmax", "fill_in_tokens")
_ONE_ROW = "split"  # the step that the engine runs of the ladder of GEMV
# What attends for a prompt, the fastest first: the step, and the kernel that steps of a model name.
_PROMPT_STEPS = (("tensor", "attention_tensor"), ("paged", "attention_register_tile"))
_TURNING = ("rope_attention", "turning", "rope_and_decode_attention")


def read_records(directory: Path, gpu: str) -> list[Record]:
    """Read the records of kernels, products and profiles of a GPU.

    Parameters
    ----------
    directory : Path
        ``docs/results`` of a checkout.
    gpu : str
        As in the names of files, ``nvidia-h100-80gb-hbm3``.

    Returns
    -------
    list of dict
        Records, each with its ``file``; kernels first.

    Raises
    ------
    LLMNumbaError
        If there is no record of kernels, or none of products.
    """
    paths = [
        path
        for pattern in (f"kernels_{gpu}.json", f"gemm_{gpu}.json", f"profile_{gpu}_*.json")
        for path in sorted(directory.glob(pattern))
    ]
    records = [read_record(path) | {"file": path.name} for path in paths]
    for benchmark in ("kernels", "gemm"):
        if not _of(records, benchmark):
            raise LLMNumbaError(
                f"{directory} has no record of {benchmark} on {gpu}.",
                f"Make one on a machine with that GPU: llm-numba bench {benchmark}.",
            )
    return records


def calibrate(records: list[Record]) -> KernelTable:
    """Make a table.

    Parameters
    ----------
    records : list of dict
        As :func:`read_records` returns them.

    Returns
    -------
    KernelTable
    """
    kernels, profiles = _of(records, "kernels"), _of(records, "profile")
    copy = 1e9 * median(_result(each, "copy")["median"] for each in kernels)
    operations = _operation_times(profiles)
    one_row = fit(_one_row_times(kernels))
    return KernelTable(
        gpu=kernels[0]["environment"]["gpus"][0]["name"],
        sources=tuple(_source(each) for each in records),
        copy_bytes_per_second=copy,
        products=(
            ProductLaw(1, "ordinary", one_row),
            *(
                ProductLaw(rows, "tensor", _fit_or(one_row.constant, times))
                for rows, times in sorted(_many_row_times(_of(records, "gemm")).items())
            ),
        ),
        decode_attention=fit(_decode_times(records, "paged_decode", "split", "paged_attention")),
        joined_attention=fit(_decode_times(records, "paged_decode", "joined", "paged_attention")),
        turning_attention=_short_law(_decode_times(records, *_TURNING), copy),
        prompt_attention=_fit_or(one_row.constant, _prompt_times(kernels, profiles)),
        short={name: _short_law(operations[name, "decode"], copy) for name in _SHORT},
    )


def fit(times: Times) -> Law:
    """Fit ``constant + slope * amount`` with the least sum of squared relative errors.

    Parameters
    ----------
    times : list of (float, float, str)
        Amounts, seconds and names; of two amounts at least.

    Returns
    -------
    Law
    """
    amounts, seconds = (np.array(column, float) for column in list(zip(*times, strict=True))[:2])
    terms = np.stack([1 / seconds, amounts / seconds], axis=1)
    constant, slope = np.linalg.lstsq(terms, np.ones(len(times)), rcond=None)[0]
    off = np.abs((constant + slope * amounts) / seconds - 1).max()
    return Law(float(constant), float(slope), float(off), tuple(name for *_, name in times))


def _fit_or(constant: float, times: Times) -> Law:
    """Fit a law; where all times are of one amount, its slope beside a constant that is given."""
    if len({amount for amount, *_ in times}) > 1:
        return fit(times)
    slope = median((seconds - constant) / amount for amount, seconds, _ in times)
    return Law(constant, slope, times=tuple(name for *_, name in times))


def _short_law(times: Times, bytes_per_second: float) -> Law:
    """Fit only the constant: bytes are so few that their slope would be noise."""
    constant = median(seconds - num_bytes / bytes_per_second for num_bytes, seconds, _ in times)
    off = max(abs((constant + n / bytes_per_second) / seconds - 1) for n, seconds, _ in times)
    return Law(constant, 1 / bytes_per_second, off, tuple(name for *_, name in times))


def _one_row_times(kernels: list[Record]) -> Times:
    return [
        _product_time(record, result)
        for record, result in _results(kernels)
        if result["name"].startswith("gemv_")
        and result["name"].rpartition("/")[2] == _ONE_ROW
        and result["shape"]["M"] == 1
    ]


def _many_row_times(products: list[Record]) -> dict[int, Times]:
    found: dict[int, Times] = defaultdict(list)
    for record, result in _results(products):
        if result["name"].startswith("linear/bfloat16/"):
            found[result["shape"]["M"]].append(_product_time(record, result))
    return found


def _product_time(record: Record, result: dict[str, Any]) -> tuple[float, float, str]:
    shape = result["shape"]
    return shape["N"] * shape["K"], 1e-6 * shape["microseconds"], _name(record, result)


def _operation_times(profiles: list[Record]) -> dict[tuple[str, str], Times]:
    """Gather what is no product, by its name and the phase of its step."""
    found: dict[tuple[str, str], Times] = defaultdict(list)
    for record, result, operation, seconds in _operations(profiles):
        name, phase, traffic = operation["name"], result["phase"], operation["traffic"]
        amount = sum(traffic.values()) if name != "paged_attention" else operation["flops"]
        found[name, phase].append((amount, seconds, f"{_name(record, result)} {name}"))
    return found


def _decode_times(records: list[Record], ladder: str, step: str, name: str) -> Times:
    """Gather times of a step of decoding attention, where the engine takes that step."""
    found: Times = []
    for record, result in _results(_of(records, "kernels")):
        point, _, timed = result["name"].rpartition("/")
        if not point.startswith(ladder) or timed != step:
            continue
        s = result["shape"]
        key_bytes = s["B"] * s["T"] * s["G"] * s["D"] * 2
        # Of longer contexts, steps for short ones hand over to that for long ones.
        if step == "split" or is_short(s["T"], key_bytes):
            found.append((2 * key_bytes, 1e-6 * s["microseconds"], _name(record, result)))
    for record, result, operation, seconds in _operations(_of(records, "profile")):
        if operation["name"] == name and step in " ".join(operation["kernels"]):
            label = f"{_name(record, result)} {name}"
            found.append((operation["traffic"]["kv"], seconds, label))
    return found


def _of(records: list[Record], benchmark: str) -> list[Record]:
    return [each for each in records if each["benchmark"] == benchmark]


def _prompt_times(kernels: list[Record], profiles: list[Record]) -> Times:
    """Gather times of the fastest kernel for prompts that any record has."""
    for step, kernel in _PROMPT_STEPS:
        found = [
            (each["shape"]["flops"], 1e-6 * each["shape"]["microseconds"], _name(record, each))
            for record, each in _results(kernels)
            if each["name"].startswith(("attention/", "attention_8192/"))
            and each["name"].endswith(f"/bfloat16/{step}")
        ]
        found += [
            (operation["flops"], seconds, f"{_name(record, result)} {operation['name']}")
            for record, result, operation, seconds in _operations(profiles)
            if result["phase"] == "prefill"
            and any(each.startswith(kernel) for each in operation["kernels"])
        ]
        if found:
            break
    return found


def _operations(
    profiles: list[Record],
) -> Iterator[tuple[Record, dict[str, Any], dict[str, Any], float]]:
    """Yield one of each kind of operation with its median time over all layers."""
    for record, result in _results(profiles):
        alike: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for operation in result["operations"]:
            alike[operation["name"], operation["weight"]].append(operation)
        for group in alike.values():
            seconds = (sum(end - begin for begin, end in each["spans"]) for each in group)
            yield record, result, group[0], median(seconds)


def _results(records: Iterable[Record]) -> Iterator[tuple[Record, dict[str, Any]]]:
    # A share of the copy, or of a peer, has the same shape and is no time of its own.
    for record in records:
        for result in record["results"]:
            if not result["name"].startswith("of_"):
                yield record, result


def _result(record: Record, name: str) -> dict[str, Any]:
    return next(each for each in record["results"] if each["name"] == name)


def _name(record: Record, result: dict[str, Any]) -> str:
    return f"{record['file'].removesuffix('.json')} {result['name']}"


def commit_of(record: Record) -> str:
    """Return the commit that a record was made at, or nothing.

    Parameters
    ----------
    record : dict
    """
    return (record["environment"]["git"] or {}).get("commit", "")


def _source(record: Record) -> dict[str, str]:
    # Of a record that was renewed in part, the newest.
    parts = [(record["date"], commit_of(record))]
    parts += [(each["date"], each["commit"]) for each in record.get("renewed", ())]
    date, commit = max(parts)
    return {"file": record["file"], "date": date, "commit": commit}
