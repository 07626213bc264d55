"""What ``llm-numba bench kernels`` wrote, in short: a row for each ladder."""

from llm_numba.bench.tables import Results, Table, figure, with_unit

# What a ladder is held against, by the names in the record.
PEERS = {"pytorch": "PyTorch", "compiled": "torch.compile"}


def points(results: Results) -> dict[str, list[str]]:
    """Return the names of the results of each point's steps, ours alone, in their order.

    Parameters
    ----------
    results : mapping of str to dict
        Of a record, by name.

    Returns
    -------
    dict of str to list of str
        ``{"softmax/float32": ["softmax/float32/naive", ...]}``
    """
    found: dict[str, list[str]] = {}
    for name in results:
        point, _, step = name.rpartition("/")
        if name.count("/") == 2 and step not in PEERS:
            found.setdefault(point, []).append(name)
    return found


def summary(results: Results) -> Table:
    """Return a row for each point: where its ladder begins, where it ends, and what that is worth.

    Parameters
    ----------
    results : mapping of str to dict
    """
    headings = ["operation", "first step", "last step", "of the copy"]
    headings += [f"of {peer}" for peer in PEERS.values()]
    rows = []
    for point, steps in points(results).items():
        # Of some shapes only the last step is measured.
        before = with_unit(results, steps[0]) if len(steps) > 1 else ""
        cells = [f"`{point}`", before, with_unit(results, steps[-1])]
        cells.append(share(results, f"of_copy/{steps[-1]}", "%"))
        rows.append(cells + [share(results, f"of_{peer}/{steps[-1]}", "x") for peer in PEERS])
    return Table(headings, rows)


def share(results: Results, name: str, unit: str) -> str:
    """Return a result's median with a unit; "" if there is none.

    Parameters
    ----------
    results : mapping of str to dict
    name, unit : str
    """
    return f"{figure(results[name]['median'])} {unit}" if name in results else ""
