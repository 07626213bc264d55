"""GPUs and links by their data sheets.

Data sheets count in powers of ten; so GB here are 10^9 bytes, which is the cautious reading of a
card's memory. Nothing here was measured by us, except the memory of the H100: every output that
rests on it says so. A link's bandwidth is what the sheet promises one GPU in one direction. Its
latency is on no sheet: a round figure for what a message costs beside its bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from llm_numba.errors import LLMNumbaError

T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """What GPUs exchange messages over.

    Attributes
    ----------
    name : str
    bytes_per_second : float
        Of one GPU, in one direction.
    latency : float
        Seconds that a message costs beside its bytes.
    source : str
        Where the bandwidth is from.
    measured : bool
        Whether what is exchanged over it was measured as it is planned; else it is assumed.
    fitted : bool
        Whether the two are of times of another number of ranks, and not of a data sheet.
    """

    name: str
    bytes_per_second: float
    latency: float
    source: str
    measured: bool = False
    fitted: bool = False


@dataclass(frozen=True)
class GPU:
    """A card.

    Attributes
    ----------
    name : str
        For ``--gpu``.
    title : str
    driver_name : str
        What the driver calls it.
    memory_bytes : int
    bytes_per_second : float
        Of its memory.
    flops : float
        Of float32 multiply-adds on ordinary units, each counted as two.
    tensor_flops : float
        Of those of 16-bit numbers on tensor cores, added in float32; no zeros left out.
    inside, outside : str
        Names of the links to GPUs of the same host, and of others.
    gpus_per_host : int
        As such hosts are usually built.
    source : str
        Of the figures.
    """

    name: str
    title: str
    driver_name: str
    memory_bytes: int
    bytes_per_second: float
    flops: float
    tensor_flops: float
    inside: str
    outside: str
    gpus_per_host: int
    source: str


LINKS = {
    link.name: link
    for link in (
        Link("nvlink-4", 450e9, 2e-6, "NVIDIA H100 data sheet: 900 GB/s, both directions together"),
        Link("nvlink-3", 300e9, 2e-6, "NVIDIA A100 data sheet: 600 GB/s, both directions together"),
        Link("pcie-5", 64e9, 5e-6, "PCI Express 5.0 x16: 128 GB/s, both directions together"),
        Link("pcie-4", 32e9, 5e-6, "PCI Express 4.0 x16: 64 GB/s, both directions together"),
        Link("infiniband-ndr", 50e9, 5e-6, "NVIDIA ConnectX-7 data sheet: 400 Gb/s a port"),
        Link("infiniband-hdr", 25e9, 5e-6, "NVIDIA ConnectX-6 data sheet: 200 Gb/s a port"),
    )
}

GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU(
            "h100", "NVIDIA H100 SXM 80 GB", "NVIDIA H100 80GB HBM3",
            85_520_809_984, 3.35e12, 67e12, 989e12,
            "nvlink-4", "infiniband-ndr", 8, "NVIDIA H100 data sheet; memory as the driver says",
        ),
        GPU(
            "h200", "NVIDIA H200 SXM 141 GB", "NVIDIA H200", 141 * 10**9, 4.8e12, 67e12, 989e12,
            "nvlink-4", "infiniband-ndr", 8, "NVIDIA H200 data sheet",
        ),
        GPU(
            "a100", "NVIDIA A100 SXM 80 GB", "NVIDIA A100-SXM4-80GB",
            80 * 10**9, 2.039e12, 19.5e12, 312e12,
            "nvlink-3", "infiniband-hdr", 8, "NVIDIA A100 data sheet",
        ),
        GPU(
            "rtx-4090", "NVIDIA GeForce RTX 4090 24 GB", "NVIDIA GeForce RTX 4090",
            24 * 10**9, 1.008e12, 82.6e12, 165.2e12,
            "pcie-4", "infiniband-hdr", 8, "NVIDIA Ada GPU architecture white paper",
        ),
        GPU(
            "l4", "NVIDIA L4 24 GB", "NVIDIA L4", 24 * 10**9, 0.3e12, 30.3e12, 121e12,
            "pcie-4", "infiniband-hdr", 8, "NVIDIA L4 data sheet",
        ),
    )
}  # fmt: skip


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """Return an entry of a table by its name.

    Parameters
    ----------
    table : mapping of str to T
    name : str
    what : str
        What its entries are, for the message.

    Raises
    ------
    LLMNumbaError
        If there is none of that name; it lists those that there are.
    """
    if name not in table:
        raise LLMNumbaError(f"There is no {what} {name!r}.", f"Choose from: {', '.join(table)}.")
    return table[name]


def find_gpu(name: str) -> GPU:
    """Return a GPU by its name, see :func:`look_up`."""
    return look_up(GPUS, name, "figure for a GPU")


def find_link(name: str) -> Link:
    """Return a link by its name, see :func:`look_up`."""
    return look_up(LINKS, name, "figure for a link")
