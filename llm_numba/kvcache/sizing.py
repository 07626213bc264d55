"""How many blocks a KV cache may have, from the memory that there is.

On a GPU an engine may take a part of the card. What weights, activations and the CUDA context leave
of that goes to the cache. On the CPU, which has other things to do, the cache may take half of what
is available beside the weights. Neither takes more than full sequences can fill.
"""

from dataclasses import dataclass

from llm_numba.errors import CacheError, EngineError
from llm_numba.kvcache.block_table import count_blocks

GIB = 2**30
# As vLLM has it. The rest is for what else wants the card: a desktop, a profiler, a library.
GPU_MEMORY_UTILIZATION = 0.9
HOST_MEMORY_FRACTION = 0.5


@dataclass(frozen=True)
class Room:
    """What the blocks must hold.

    Attributes
    ----------
    block_bytes : int
        Of a block over all layers, keys and values.
    block_size : int
        Tokens a block.
    max_model_len : int
        Tokens of a sequence of full length.
    max_num_seqs : int
        Sequences at a time; more blocks than these can fill are never needed.
    """

    block_bytes: int
    block_size: int
    max_model_len: int
    max_num_seqs: int

    @property
    def blocks_per_sequence(self) -> int:
        """Blocks of one sequence of full length."""
        return count_blocks(self.max_model_len, self.block_size)


@dataclass(frozen=True)
class Needs:
    """Bytes that an engine takes on a GPU whatever the size of its cache.

    Attributes
    ----------
    weights : int
    activations : int
        Of the largest step, its logits and sampling included.
    reserve : int
        The CUDA context and the code of kernels.
    """

    weights: int
    activations: int
    reserve: int

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.reserve


def gpu_limit(
    total: int,
    free: int,
    gpu_memory_utilization: float | None = None,
    gpu_memory_gb: float | None = None,
) -> int:
    """Return the bytes of a GPU that an engine may take, weights and activations included.

    Parameters
    ----------
    total : int
        Bytes of the card.
    free : int
        Bytes of it that no other program holds.
    gpu_memory_utilization : float, optional
        The part of the card. By default nine tenths of what is free.
    gpu_memory_gb : float, optional
        The same in GiB, 2^30 bytes, as cards are sold.

    Returns
    -------
    int

    Raises
    ------
    EngineError
        If both are given, one is out of range, or less is free.
    """
    if gpu_memory_utilization is None and gpu_memory_gb is None:
        return int(GPU_MEMORY_UTILIZATION * min(total, free))
    if gpu_memory_gb is None:
        name, value, unit, most = "gpu_memory_utilization", gpu_memory_utilization, total, 1.0
    else:
        name, value, unit, most = "gpu_memory_gb", gpu_memory_gb, GIB, total / GIB
        if gpu_memory_utilization is not None:
            raise EngineError(
                "gpu_memory_utilization and gpu_memory_gb both say how much the engine may take.",
                "Give one of them.",
            )
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise EngineError(
            f"{name}={value!r} is out of range.", f"{name} must be above 0 and at most {most:.4g}."
        )
    limit = int(value * unit)
    if limit > free:
        raise EngineError(
            f"{name}={value} allows the engine {gib(limit)} of the GPU's {gib(total)}, and "
            f"{gib(free)} are free.",
            f"End what else runs on this GPU, or set {name} to at most {_floor(free / unit)}.",
        )
    return limit


def gpu_num_blocks(limit: int, needs: Needs, room: Room, num_blocks: int | None = None) -> int:
    """Choose the number of blocks on a GPU, or check the user's choice.

    Parameters
    ----------
    limit : int
        Bytes that the engine may take.
    needs : Needs
    room : Room
    num_blocks : int, optional
        The user's choice.

    Returns
    -------
    int

    Raises
    ------
    EngineError
        If weights or activations do not fit, with what is needed and what there is.
    CacheError
        If not even one sequence of full length fits beside them, or not as many blocks.
    """
    _check_needs(limit, needs)
    left = limit - needs.num_bytes
    # One block more than sequences get: rows that only fill up a batch write there.
    affordable = max(0, left // room.block_bytes - 1)
    if num_blocks is None:
        wanted, what = room.blocks_per_sequence, f"one sequence of {room.max_model_len} tokens"
        remedy = f"Set max_model_len to at most {affordable * room.block_size}, let"
    else:
        check_holds_a_sequence(num_blocks, room)
        wanted, what = num_blocks, f"num_blocks={num_blocks} blocks"
        remedy = f"Give at most {affordable} blocks, let"
    if wanted > affordable:
        raise CacheError(
            f"A KV cache for {what} takes {gib((wanted + 1) * room.block_bytes)}. The engine may "
            f"take {gib(limit)} of the GPU's memory, and weights and activations leave "
            f"{gib(left)}.",
            f"{remedy if affordable else 'Let'} the engine take more (gpu_memory_utilization), or "
            "take a GPU with more memory.",
        )
    if num_blocks is None:
        num_blocks = min(affordable, room.blocks_per_sequence * room.max_num_seqs)
    return num_blocks


def _check_needs(limit: int, needs: Needs) -> None:
    if needs.weights + needs.reserve > limit:
        raise EngineError(
            f"Out of device memory: the weights take {gib(needs.weights)} and CUDA itself "
            f"{gib(needs.reserve)}, and the engine may take {gib(limit)} of the GPU's memory.",
            "Let it take more (gpu_memory_utilization; end what else runs on this GPU), load in a "
            "dtype of 16 bits, or take a smaller model or a GPU with more memory.",
        )
    if needs.num_bytes > limit:
        raise EngineError(
            f"Out of device memory: beside weights of {gib(needs.weights)} the largest step takes "
            f"{gib(needs.activations)}, and the engine may take {gib(limit)} of the GPU's memory.",
            "Lower max_num_batched_tokens or max_num_seqs, or let the engine take more "
            "(gpu_memory_utilization).",
        )


def check_holds_a_sequence(num_blocks: int, room: Room) -> None:
    """Refuse a number of blocks that one sequence of full length does not fit in.

    Parameters
    ----------
    num_blocks : int
    room : Room

    Raises
    ------
    CacheError
        Naming the number of blocks that it needs.
    """
    if num_blocks < room.blocks_per_sequence:
        raise CacheError(
            f"num_blocks={num_blocks} blocks of {room.block_size} tokens cannot hold one sequence "
            f"of max_model_len={room.max_model_len} tokens.",
            f"Give at least {room.blocks_per_sequence} blocks, or lower max_model_len.",
        )


def host_num_blocks(
    available: int, weight_bytes: int, room: Room, num_blocks: int | None = None
) -> int:
    """Choose the number of blocks in main memory, or check the user's choice.

    Parameters
    ----------
    available : int
        Bytes that the machine can spare.
    weight_bytes : int
        That the weights are yet to take.
    room : Room
    num_blocks : int, optional
        The user's choice.

    Returns
    -------
    int

    Raises
    ------
    CacheError
        If not even one sequence of full length fits, or not as many blocks.
    """
    available = max(0, available - weight_bytes)
    block_bytes, per_sequence = room.block_bytes, room.blocks_per_sequence
    if num_blocks is not None:
        check_holds_a_sequence(num_blocks, room)
        if num_blocks * block_bytes > available:
            raise CacheError(
                f"num_blocks={num_blocks} blocks of {block_bytes / 1e6:.3g} MB take "
                f"{num_blocks * block_bytes / 1e9:.3g} GB, and {available / 1e9:.3g} GB of "
                "memory are available beside the weights.",
                f"Give at most {available // block_bytes} blocks.",
            )
        return num_blocks
    affordable = int(available * HOST_MEMORY_FRACTION) // block_bytes
    if affordable < per_sequence:
        raise CacheError(
            f"A KV cache for one sequence of {room.max_model_len} tokens takes "
            f"{per_sequence * block_bytes / 1e9:.2f} GB, more than {HOST_MEMORY_FRACTION:.0%} of "
            f"the {available / 1e9:.2f} GB of memory that are available beside the weights.",
            f"Set max_model_len to at most {affordable * room.block_size}, or set num_blocks "
            "yourself."
            if affordable
            else "Lower max_model_len, or take a smaller model or a machine with more memory.",
        )
    return min(affordable, per_sequence * room.max_num_seqs)


def gib(num_bytes: int) -> str:
    """Return a number of bytes as people read it, ``79.2 GiB``.

    Parameters
    ----------
    num_bytes : int
    """
    return f"{num_bytes / GIB:.1f} GiB" if abs(num_bytes) >= GIB else f"{num_bytes / 2**20:.0f} MiB"


def _floor(value: float) -> float:
    """Round down to two decimals, so that what is advised works."""
    return int(value * 100) / 100
