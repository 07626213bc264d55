"""How to sample: the parameters, by the names that vLLM gave them, and their ranges."""

import math
from dataclasses import dataclass
from typing import Any

from llm_numba.errors import SamplingParamsError

# The classes of requests, the most urgent first.
PRIORITIES = ("interactive", "batch")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How a request's tokens are chosen and where they end.

    Parameters
    ----------
    n : int
        Samples of the same prompt.
    temperature : float
        Logits are divided by it; 0 takes the most likely token (greedy).
    top_k : int
        Only the k most likely tokens; 0 or -1 for all.
    top_p : float
        Only the most likely tokens that together reach this probability.
    min_p : float
        Only tokens at least this many times as likely as the most likely one.
    repetition_penalty : float
        Above 1, tokens of prompt and answer become less likely.
    presence_penalty, frequency_penalty : float
        Subtracted from the logit of a token of the answer: once, and once for each occurrence.
    seed : int, optional
        The same seed gives the same answer, whatever else runs; None draws a new one. Prompts
        that share a seed share their random numbers, so give each its own to see variety. On a
        GPU what else runs may change the order of a sum, and with it a token in a near tie.
    stop : str or list of str, optional
        Text that ends an answer; not part of it.
    stop_token_ids : list of int, optional
        Tokens that end an answer, besides the model's own.
    ignore_eos : bool
        Go on past the model's end-of-sequence tokens.
    max_tokens : int, optional
        The longest answer; None goes on until the context is full.
    logprobs : int, optional
        Report the log-probability of each chosen token and of this many most likely ones, as the
        model gave them: before penalties and temperature.
    priority : {"interactive", "batch"}
        Interactive requests, those that somebody waits for, are computed before batch jobs.

    Raises
    ------
    SamplingParamsError
        If a value is outside its range; the message names the field and the range.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    priority: str = PRIORITIES[0]

    def __post_init__(self) -> None:
        self._check("n", int, self.n, 1)
        self._check("temperature", float, self.temperature, 0, 1000)
        self._check("top_k", int, self.top_k, -1)
        self._check("top_p", float, self.top_p, 0, 1, above=True)
        self._check("min_p", float, self.min_p, 0, 1)
        self._check("repetition_penalty", float, self.repetition_penalty, 0.001, 1000)
        self._check("presence_penalty", float, self.presence_penalty, -2, 2)
        self._check("frequency_penalty", float, self.frequency_penalty, -2, 2)
        if self.seed is not None:
            self._check("seed", int, self.seed, 0, 2**64 - 1)
        if self.max_tokens is not None:
            self._check("max_tokens", int, self.max_tokens, 1)
        if self.logprobs is not None:
            self._check("logprobs", int, self.logprobs, 0)
        texts = [self.stop] if isinstance(self.stop, str) else self.stop
        if texts is not None and not (
            isinstance(texts, list | tuple)
            and all(isinstance(text, str) and text for text in texts)
        ):
            raise self._error("stop", self.stop, "a non-empty string, or a list of them")
        if not isinstance(self.stop_token_ids, list | tuple | None):
            raise self._error("stop_token_ids", self.stop_token_ids, "a list of token ids")
        if not isinstance(self.ignore_eos, bool):
            raise self._error("ignore_eos", self.ignore_eos, "True or False")
        for token_id in self.stop_token_ids or []:
            self._check("stop_token_ids", int, token_id, 0)
        if self.priority not in PRIORITIES:
            raise self._error("priority", self.priority, f"one of {', '.join(PRIORITIES)}")
        if self.n > 1 and self.greedy:
            raise self._error("n", self.n, "1 when temperature is 0: greedy samples are all equal")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        # Below this the division by it overflows, and the most likely token is taken in any case.
        return self.temperature < 1e-5

    @property
    def stop_strings(self) -> list[str]:
        """``stop`` as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def penalized(self) -> bool:
        """Whether any penalty is set."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def _check(
        self,
        name: str,
        kind: type,
        value: Any,
        low: float,
        high: float = math.inf,
        *,
        above: bool = False,
    ) -> None:
        number = isinstance(value, int if kind is int else int | float)
        number = number and not isinstance(value, bool) and -math.inf < value < math.inf
        if not number or value > high or value < low or (above and value == low):
            what = "a whole number" if kind is int else "a number"
            least = f"above {low}" if above else f"of at least {low}"
            most = f" and at most {high}" if high < math.inf else ""
            raise self._error(name, value, f"{what} {least}{most}")

    @staticmethod
    def _error(name: str, value: Any, wanted: str) -> SamplingParamsError:
        return SamplingParamsError(
            f"{name}={value!r} is out of range.", f"{name} must be {wanted}."
        )
