"""What comes out: whole answers, and the pieces of a stream."""

from dataclasses import dataclass, field

from llm_numba.errors import LLMNumbaError


@dataclass(frozen=True)
class Logprob:
    """How likely the model found a token.

    Attributes
    ----------
    logprob : float
        Natural logarithm of the probability.
    rank : int
        1 for the most likely token of all.
    decoded_token : str
    """

    logprob: float
    rank: int
    decoded_token: str


@dataclass
class CompletionOutput:
    """One answer.

    Attributes
    ----------
    index : int
        Which of the request's n.
    text : str
    token_ids : list of int
        With the token that ended the answer, if one did.
    cumulative_logprob : float or None
        Sum over the answer's tokens, where log-probabilities were asked for.
    logprobs : list of dict of int to Logprob, or None
        For each token: itself and the most likely ones.
    finish_reason : {"stop", "length", "abort", "error"} or None
        None while it goes on.
    stop_reason : int, str or None
        The stop token or stop string; None for the model's own end.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestMetrics:
    """What a request took.

    Attributes
    ----------
    num_prompt_tokens, num_cached_tokens, num_generated_tokens : int
        Cached tokens are those of the prompt whose keys and values were there already.
    time_to_first_token : float
        Seconds from the request to its first token, waiting included.
    decode_time : float
        Seconds from the first token to the last.
    num_samples : int
        Answers that the generated tokens belong to.
    """

    num_prompt_tokens: int
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    time_to_first_token: float = 0.0
    decode_time: float = 0.0
    num_samples: int = 1

    @property
    def prompt_tokens_per_second(self) -> float:
        """Prompt tokens computed a second, until the first token came."""
        computed = self.num_prompt_tokens - self.num_cached_tokens
        return computed / self.time_to_first_token if self.time_to_first_token else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens a second after the first of each sample."""
        later = self.num_generated_tokens - self.num_samples
        return later / self.decode_time if self.decode_time else 0.0


@dataclass
class RequestOutput:
    """A request with its answers.

    Attributes
    ----------
    request_id : str
    prompt : str or None
        None where token ids were given.
    prompt_token_ids : list of int
    outputs : list of CompletionOutput
        One for each of n.
    finished : bool
    metrics : RequestMetrics
    error : LLMNumbaError or None
        What ended it before its time; its answers hold what came before.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics
    error: LLMNumbaError | None = None


@dataclass(frozen=True)
class CompletionChunk:
    """A piece of a stream.

    Attributes
    ----------
    request_id : str
    index : int
        Which of the request's n answers it continues.
    text : str
        New text; empty while a character or a possible stop string is incomplete.
    token_ids : list of int
        New tokens.
    finish_reason : {"stop", "length", "abort", "error"} or None
        Set on an answer's last piece.
    output : RequestOutput or None
        The whole, on the request's last piece.
    """

    request_id: str
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    output: RequestOutput | None = None
