"""What ``llm-numba doctor`` found out, and how it is shown."""

import shlex
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from llm_numba.bench.environment import checkout
from llm_numba.cli.console import styled, tables

RANKS_MEET = "Ranks meet"
# What lets the Open MPI wheel send from GPU memory.
UCX_WHEEL = "libucx-cu13==1.20.1"

Status = Literal["works", "not installed", "broken", "none"]
_STYLES = {"works": "green", "not installed": "yellow", "broken": "bold red", "none": "dim"}


@dataclass(frozen=True)
class Finding:
    """What was found out about one part of the installation.

    Attributes
    ----------
    part : str
        Its name.
    status : str
        ``works``, ``not installed``, ``broken``, or ``none``: the machine has no such thing.
    detail : str
        Versions and devices, or what went wrong.
    remedy : str or None
        The command that changes it, where there is one.
    facts : dict
        What the probe returned.
    """

    part: str
    status: Status
    detail: str
    remedy: str | None = None
    facts: dict[str, Any] | None = None


def show_findings(findings: list[Finding]) -> None:
    """Print the findings as a table, then the commands that would change something.

    Parameters
    ----------
    findings : list of Finding
    """
    from rich.table import Table

    table = Table("Part", "Status", "Found", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for finding in findings:
        status = styled(finding.status, _STYLES[finding.status])
        table.add_row(styled(finding.part, "bold"), status, styled(finding.detail))
    console = tables()
    console.print(table)
    for finding in findings:
        if finding.remedy:
            console.print()
            console.print(styled(f"{finding.part}:", "bold"))
            console.print(styled(f"  {finding.remedy}", "cyan"), soft_wrap=True)


def installed_version(*packages: str) -> str:
    """Return the version of the first of the packages that is installed, or nothing.

    Parameters
    ----------
    packages : str
        Names of distributions.
    """
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def reinstall(extra: str) -> str:
    """Return the command that installs this package, as it was installed, with an extra.

    Parameters
    ----------
    extra : str
        Of pyproject.toml, or nothing.
    """
    suffix = f"[{extra}]" if extra else ""
    root = checkout()
    what = f"-e {shlex.quote(f'{root}{suffix}')}" if root else shlex.quote(f"llm-numba{suffix}")
    return f"{shlex.quote(sys.executable)} -m pip install {what}"
