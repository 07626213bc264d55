"""What kernels take: laws of two numbers each, fitted to measured times.

Each kernel of a step has a cost that does not depend on how much there is to do (its launch, its
first loads, its last rows) and one that is proportional to it::

    seconds = constant + slope * amount

The amount is the weights of a product, the bytes of a context, the multiply-adds of a prompt's
attention. A product's slope depends on the rows M that meet the weights: with few rows it is the
time that memory needs for a weight, with many the time that M multiply-adds take. There is a law
for each M that was measured; between two of them constant and slope go in a straight line, and
beyond the last the slope is proportional to M.

On a GPU that was not measured, slopes are scaled by what binds them: memory's speed or arithmetic,
by data sheet. Constants stay as they are.
"""

import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llm_numba.planner.gpus import GPU, GPUS

TABLES = Path(__file__).parent / "tables"
MEASURED = "h100"  # the GPU of the packaged table
# Up to so many rows memory binds products.
_MEMORY_ROWS = 128


@dataclass(frozen=True)
class Law:
    """``constant + slope * amount``.

    Attributes
    ----------
    constant : float
        Seconds.
    slope : float
        Seconds for each of the amount.
    worst_fit : float
        The largest relative distance from a time that it was fitted to.
    times : tuple of str
        Those times: record and result.
    """

    constant: float
    slope: float
    worst_fit: float = 0.0
    times: tuple[str, ...] = ()

    def seconds(self, amount: float) -> float:
        """Apply the law.

        Parameters
        ----------
        amount : float
        """
        return self.constant + self.slope * amount


@dataclass(frozen=True)
class ProductLaw:
    """The law of products of M rows, by the number of weights.

    Attributes
    ----------
    rows : int
        M.
    units : {"ordinary", "tensor"}
        Which cores multiply.
    law : Law
    """

    rows: int
    units: str
    law: Law


@dataclass(frozen=True)
class KernelTable:
    """Measured laws of a GPU's kernels, for weights of 16 bits.

    Attributes
    ----------
    gpu : str
        Name of the GPU that was measured, as its driver says it.
    sources : tuple of dict
        The records: file, date and commit.
    copy_bytes_per_second : float
        Of a device-to-device copy.
    products : tuple of ProductLaw
    decode_attention : Law
        Of contexts in pieces, by bytes of keys and values.
    joined_attention, turning_attention : Law
        Likewise, of short contexts: of a batch; and of a sequence alone, RoPE and the KV write
        with it.
    prompt_attention : Law
        By floating-point operations.
    short : dict of str to Law
        Kernels between products, by bytes: ``rope_and_write_kv``, ``embedding``, ``argmax``,
        ``fill_in_tokens``.
    scaled_from : str
        Where slopes are scaled by data sheet, the GPU that was measured; else empty.
    """

    gpu: str
    sources: tuple[dict[str, str], ...]
    copy_bytes_per_second: float
    products: tuple[ProductLaw, ...]
    decode_attention: Law
    joined_attention: Law
    turning_attention: Law
    prompt_attention: Law
    short: dict[str, Law]
    scaled_from: str = ""

    def product(self, rows: int) -> Law:
        """Return the law of products of some number of rows.

        Parameters
        ----------
        rows : int
            M.

        Returns
        -------
        Law
        """
        by_rows = {each.rows: each.law for each in self.products}
        law = between(by_rows, rows)
        # Some laws go through one shape alone. No more rows take less time than fewer, whatever
        # that shape says; nor less than it takes to read the weights.
        fewer = [each for known, each in by_rows.items() if known <= max(rows, min(by_rows))]
        return replace(
            law,
            constant=max(law.constant, *(each.constant for each in fewer)),
            slope=max(law.slope, *(each.slope for each in fewer)),
        )

    def scaled(self, gpu: GPU) -> "KernelTable":
        """Return the table of another GPU, as far as data sheets tell.

        Parameters
        ----------
        gpu : GPU

        Returns
        -------
        KernelTable
            This one for the GPU that was measured.
        """
        measured = GPUS[MEASURED]
        if gpu.name == measured.name:
            return self
        memory = measured.bytes_per_second / gpu.bytes_per_second
        arithmetic = measured.flops / gpu.flops
        on_tensor_cores = measured.tensor_flops / gpu.tensor_flops
        return replace(
            self,
            scaled_from=self.gpu,
            gpu=gpu.title,
            copy_bytes_per_second=self.copy_bytes_per_second / memory,
            products=tuple(
                replace(
                    each,
                    law=_times(each.law, on_tensor_cores if is_arithmetic(each) else memory),
                )
                for each in self.products
            ),
            decode_attention=_times(self.decode_attention, memory),
            joined_attention=_times(self.joined_attention, memory),
            turning_attention=_times(self.turning_attention, memory),
            prompt_attention=_times(self.prompt_attention, arithmetic),
            short={name: _times(law, memory) for name, law in self.short.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the table as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "KernelTable":
        """Return the table that :meth:`to_json` wrote.

        Parameters
        ----------
        values : dict
        """
        products = tuple(
            ProductLaw(each["rows"], each["units"], _law(each["law"]))
            for each in values["products"]
        )
        laws = {name: _law(law) for name, law in values.items() if name.endswith("_attention")}
        short = {name: _law(law) for name, law in values["short"].items()}
        sources = tuple(values["sources"])
        return cls(**values | laws | {"products": products, "short": short, "sources": sources})


def is_arithmetic(product: ProductLaw) -> bool:
    """Whether arithmetic binds a product, and not memory.

    Parameters
    ----------
    product : ProductLaw
    """
    return product.rows > _MEMORY_ROWS


def between(laws: dict[int, Law], rows: int) -> Law:
    """Return the law in a straight line between those of two numbers of rows.

    Parameters
    ----------
    laws : dict of int to Law
        By rows.
    rows : int
        Below the least, that of the least; beyond the greatest, its slope in proportion.

    Returns
    -------
    Law
    """
    known = sorted(laws)
    i = bisect_left(known, rows)
    if i == 0:
        return laws[known[0]]
    low = laws[known[i - 1]]
    if i == len(known):
        return Law(low.constant, low.slope * rows / known[-1])
    high = laws[known[i]]
    part = (rows - known[i - 1]) / (known[i] - known[i - 1])
    return Law(
        low.constant + part * (high.constant - low.constant),
        low.slope + part * (high.slope - low.slope),
    )


def packaged_table() -> KernelTable:
    """Return the table that comes with the package; ``python -m llm_numba.planner`` makes it."""
    return KernelTable.from_json(json.loads((TABLES / f"{MEASURED}.json").read_text()))


def _law(values: dict[str, Any]) -> Law:
    return Law(**values | {"times": tuple(values["times"])})


def _times(law: Law, factor: float) -> Law:
    return replace(law, slope=factor * law.slope)
