"""How an engine is doing: counts since it began, and the state of its queues."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done, and what it is about.

    Attributes
    ----------
    num_waiting, num_running : int
        Requests that have no blocks; sequences that have some.
    num_blocks, num_free_blocks : int
        Of the KV cache; free are also those that are kept for prompts to come.
    num_steps, num_tokens : int
        Steps so far, and tokens whose keys and values they computed.
    num_preemptions : int
        Sequences that were stopped, to be computed again later.
    num_tokens_admitted, num_tokens_found : int
        Tokens of all that was admitted, and how many of them the prefix cache had.
    num_slots, num_unused_slots : int
        Slots of the blocks that running sequences held, summed over the steps, and those without
        a token.
    """

    num_waiting: int
    num_running: int
    num_blocks: int
    num_free_blocks: int
    num_steps: int
    num_tokens: int
    num_preemptions: int
    num_tokens_admitted: int
    num_tokens_found: int
    num_slots: int
    num_unused_slots: int

    @property
    def prefix_hit_rate(self) -> float:
        """Tokens found in the prefix cache of those admitted, from 0 to 1."""
        return self.num_tokens_found / max(1, self.num_tokens_admitted)

    @property
    def kv_waste(self) -> float:
        """Slots without a token of those held, from 0 to 1, on average over the steps."""
        return self.num_unused_slots / max(1, self.num_slots)
