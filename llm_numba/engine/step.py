"""What the scheduler hands to the runner, and what comes back.

A step is one pass through the model: some new tokens of each of its sequences. The scheduler fills
it, the runner computes it, and the engine reads the tokens that were sampled. On a GPU the next
step is submitted before these tokens are read; until then each is :data:`IN_FLIGHT`.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llm_numba.engine.request import Sequence

# Stands for a token that the step before is sampling. Its value is on the device only.
IN_FLIGHT = -1

# In place of a token: the logits of that row were not finite numbers.
NOT_FINITE = -1


@dataclass(eq=False, slots=True)
class Work:
    """New tokens of one sequence.

    Attributes
    ----------
    sequence : Sequence
        Whose block table holds the tokens before ``start``, and has room for these.
    token_ids : list of S int
        At least one. ``[IN_FLIGHT]`` where it is the token that the step before samples.
    start : int
        Position of the first.
    slots : list of S int
        Where in the cache their keys and values go.
    samplers : list of Sequence
        Who samples from the last token's logits: nobody while more of the prompt is to come, the
        sequence itself, or all samples of a request whose prompt ends here.
    """

    sequence: "Sequence"
    token_ids: list[int]
    start: int
    slots: list[int]
    samplers: list["Sequence"]


@dataclass(eq=False, slots=True)
class Step:
    """The work of one pass through the model.

    Attributes
    ----------
    works : list of B Work
        Those of one token first, then pieces of prompts.
    num_tokens : int
        N, of all works together.
    """

    works: list[Work] = field(default_factory=list)
    num_tokens: int = 0

    @property
    def samplers(self) -> list["Sequence"]:
        """Who samples in this step, in the order of the works."""
        return [sampler for work in self.works for sampler in work.samplers]


@dataclass(slots=True)
class Sampled:
    """A token that a step chose.

    Attributes
    ----------
    sequence : Sequence
    token_id : int
        :data:`NOT_FINITE` if it could not be chosen.
    logprobs : dict of int to (float, int), or None
        By token: natural logarithm of its probability, and its rank from 1 on; the chosen token
        and the most likely ones, most likely first. None where nobody asked.
    """

    sequence: "Sequence"
    token_id: int
    logprobs: dict[int, tuple[float, int]] | None = None


class PendingStep(Protocol):
    """A step that was submitted and whose tokens have not been read."""

    def wait(self) -> list[Sampled]:
        """Wait until the step is computed and return its tokens, in the order of its samplers."""
