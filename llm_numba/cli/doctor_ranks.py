"""What ranks have found out about themselves, in words: the rows of ``llm-numba doctor --mpi``."""

import importlib.util
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llm_numba.cli.findings import RANKS_MEET, UCX_WHEEL, Finding
from llm_numba.runtime.gpu_links import TITLES

_UNMASK = "srun --gpu-bind=none ...    # and no --gpus-per-task, no CUDA_VISIBLE_DEVICES of one"
_HIDDEN = "does not see the GPU"

Fact = dict[str, Any]


def judge(facts: Iterable[Fact], problem: str = "", command: str = "") -> list[Finding]:
    """Put into words what ranks have found out.

    Parameters
    ----------
    facts : iterable of dict
        From :func:`llm_numba.parallel.examining.examine`; or with ``error`` and ``remedy``.
    problem : str
        Why the ranks ended before they were through; "" if they were.
    command : str
        What has started them.

    Returns
    -------
    list of Finding
    """
    found: Fact = {"tries": {}}
    for fact in facts:
        if "tried" in fact:
            found["tries"][fact["tried"]] = fact["problem"]
        else:
            found |= fact
    if "ranks" not in found:
        detail = found.get("error") or problem or "they ended without a word"
        remedy = found.get("remedy") or command or None
        return [Finding(RANKS_MEET, "broken", detail, remedy, found)]
    hosts = len(set(found["ranks"]))
    where = "this machine" if hosts == 1 else f"{hosts} hosts"
    rows = [Finding(RANKS_MEET, "works", f"{len(found['ranks'])} ranks on {where}", facts=found)]
    rows += [*_gpus(found), *_links(found), *_paths(found, problem)]
    if "chosen" in found:
        words = [line for line in found["chosen"] if not line.startswith("not ")]
        rows.append(Finding("--comm auto", "works", "; ".join(words)))
    else:
        rows.append(Finding("--comm auto", "broken", found.get("error") or problem, command))
    return rows


def export(settings: Mapping[str, str]) -> str:
    """Return the command that sets variables of the environment.

    Parameters
    ----------
    settings : mapping of str to str
    """
    return "export " + " ".join(f"{name}={shlex.quote(text)}" for name, text in settings.items())


def _gpus(found: Fact) -> Iterator[Finding]:
    if "gpus" not in found:
        return
    if found["no_gpus"]:
        yield Finding("GPUs", "none", f"arrays are the host's: {found['no_gpus']}")
        return
    ranks = [
        f"rank {rank}: {name or 'a GPU'}, one of {seen} that it sees"
        for rank, (name, seen) in enumerate(zip(found["gpus"], found["seen"], strict=True))
    ]
    yield Finding("GPUs", "works", "; ".join(ranks))


def _links(found: Fact) -> Iterator[Finding]:
    pairs = {
        f"{one}-{other}": (TITLES.get(link["kind"], "the driver does not say"), link["readable"])
        for link in found.get("links", [])
        for one, other in (link["ranks"],)
    }
    if not pairs:
        return
    reads = {True: ", each reads the other's memory", False: ", no reading across", None: ""}
    if len(set(pairs.values())) == 1:
        pairs = {"all pairs" if len(pairs) > 1 else "ranks 0-1": next(iter(pairs.values()))}
    words = [f"{pair}: {kind}{reads[readable]}" for pair, (kind, readable) in pairs.items()]
    known = any(link["kind"] for link in found["links"])
    yield Finding("Links", "works" if known else "none", "; ".join(words))


def _paths(found: Fact, problem: str) -> Iterator[Finding]:
    died = problem or found.get("error", "")
    for path, refused in found.get("offers", {}).items():
        if refused:
            yield Finding(path, "none", refused, _remedy(path, refused, found))
        elif path in found["tries"]:
            wrong = found["tries"][path]
            arrays = "arrays of GPUs" if found["device"] == "cuda" else "arrays of the host"
            right = f"{arrays} arrive, and sums are right"
            yield Finding(path, "broken" if wrong else "works", wrong or right)
        elif died:
            yield Finding(path, "broken", f"ranks ended while they tried it: {died}")
            died = ""
        else:
            yield Finding(path, "none", "not tried: the ranks had ended")


def _remedy(path: str, refused: str, found: Fact) -> str | None:
    if found["device"] != "cuda":
        return None
    if path == "peer" and _HIDDEN in refused:
        return _UNMASK
    if path == "mpi":
        if "settings" in found:
            return export(found["settings"])
        if importlib.util.find_spec("libucx") is None:
            return f"{shlex.quote(sys.executable)} -m pip install {UCX_WHEEL}"
    return None
