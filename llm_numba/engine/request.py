"""A request and its samples, from arrival to the last token."""

import time
from collections import deque
from dataclasses import dataclass, field

from llm_numba.engine.outputs import (
    CompletionChunk,
    CompletionOutput,
    Logprob,
    RequestMetrics,
    RequestOutput,
)
from llm_numba.engine.sampling_params import SamplingParams
from llm_numba.engine.stopping import StopStrings
from llm_numba.engine.token_counts import TokenCounts
from llm_numba.errors import LLMNumbaError
from llm_numba.kvcache import BlockTable
from llm_numba.models import IncrementalDetokenizer


@dataclass(eq=False)
class Request:
    """A prompt to be continued.

    Attributes
    ----------
    request_id : str
    prompt : str or None
    prompt_token_ids : list of int
    params : SamplingParams
    seed : int
        The user's, or one drawn for this request.
    max_tokens : int
        The user's, or what the context leaves room for.
    sequences : list of Sequence
        One for each of ``params.n``.
    chunks : deque of CompletionChunk
        What the user has not seen yet.
    error : LLMNumbaError or None
        What ended it before its time.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int
    sequences: list["Sequence"] = field(default_factory=list)
    chunks: deque[CompletionChunk] = field(default_factory=deque)
    error: LLMNumbaError | None = None
    arrival_time: float = field(default_factory=time.perf_counter)
    metrics: RequestMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = RequestMetrics(len(self.prompt_token_ids), num_samples=self.params.n)

    @property
    def finished(self) -> bool:
        """Whether every sample is complete."""
        return bool(self.sequences) and all(sequence.finished for sequence in self.sequences)

    @property
    def final_length(self) -> int:
        """Tokens of a sample at its longest, prompt included."""
        return len(self.prompt_token_ids) + self.max_tokens

    def result(self) -> RequestOutput:
        """Return the request with its answers so far."""
        return RequestOutput(
            self.request_id,
            self.prompt,
            self.prompt_token_ids,
            [sequence.output for sequence in self.sequences],
            self.finished,
            self.metrics,
            self.error,
        )

    def record_token(self) -> None:
        """Update the timings, now that a token has come."""
        elapsed = time.perf_counter() - self.arrival_time
        if not self.metrics.num_generated_tokens:
            self.metrics.time_to_first_token = elapsed
        self.metrics.decode_time = elapsed - self.metrics.time_to_first_token
        self.metrics.num_generated_tokens += 1

    def end(self, reason: str, error: LLMNumbaError | None = None) -> None:
        """End all samples that go on, and tell the user.

        Parameters
        ----------
        reason : {"abort", "error"}
        error : LLMNumbaError, optional
        """
        self.error = error
        for sequence in self.sequences:
            if not sequence.finished:
                sequence.output.finish_reason = reason
                self.report(sequence.output, "", [])

    def report(self, output: CompletionOutput, new_text: str, token_ids: list[int]) -> None:
        """Hand out what is new of an answer.

        Parameters
        ----------
        output : CompletionOutput
        new_text : str
        token_ids : list of int
        """
        self.chunks.append(
            CompletionChunk(
                self.request_id,
                output.index,
                new_text,
                token_ids,
                output.finish_reason,
                self.result() if output.finish_reason and self.finished else None,
            )
        )


class Sequence:
    """One sample of a request: its tokens, its blocks, its text.

    Parameters
    ----------
    request : Request
    index : int
        Which of the request's n.
    table : BlockTable
        Holds the keys and values of the first ``table.num_tokens`` tokens; those of the last step
        may be on their way.
    detokenizer : IncrementalDetokenizer or None
        None leaves the text empty.
    """

    def __init__(
        self,
        request: Request,
        index: int,
        table: BlockTable,
        detokenizer: IncrementalDetokenizer | None,
    ) -> None:
        params = request.params
        self.request = request
        self.table = table
        self.prompt_length = len(request.prompt_token_ids)
        # Tokens that a submitted step samples and that nobody has read yet.
        self.num_in_flight = 0
        self.output = CompletionOutput(index)
        if params.logprobs is not None:
            self.output.logprobs, self.output.cumulative_logprob = [], 0.0
        self._detokenizer = detokenizer
        self._stop_strings = StopStrings(params.stop_strings)
        # Most requests have no penalties.
        self.counts = TokenCounts(request.prompt_token_ids) if params.penalized else None

    @property
    def finished(self) -> bool:
        """Whether the last token has come."""
        return self.output.finish_reason is not None

    @property
    def num_sampled(self) -> int:
        """Tokens of the answer, with those in flight."""
        return len(self.output.token_ids) + self.num_in_flight

    @property
    def length(self) -> int:
        """Tokens of prompt and answer, with those in flight."""
        return self.prompt_length + self.num_sampled

    def token_ids(self) -> list[int]:
        """Return the prompt and the answer as far as it is known."""
        return self.request.prompt_token_ids + self.output.token_ids

    def draw_together(self) -> list["Sequence"]:
        """Return the samples that draw their next token from the same logits.

        Returns
        -------
        list of Sequence
            Before the first token all of the request, and then this one alone.
        """
        if self.num_sampled:
            return [self]
        return [s for s in self.request.sequences if not s.num_sampled and not s.finished]

    def append(
        self, token_id: int, logprobs: dict[int, Logprob] | None, eos_token_ids: frozenset[int]
    ) -> None:
        """Take the next token, decide whether it is the last, and tell the user.

        Parameters
        ----------
        token_id : int
        logprobs : dict of int to Logprob, optional
        eos_token_ids : frozenset of int
        """
        output, params = self.output, self.request.params
        output.token_ids.append(token_id)
        if logprobs is not None:
            output.logprobs.append(logprobs)
            output.cumulative_logprob += logprobs[token_id].logprob
        if self.counts is not None:
            self.counts.add(token_id)

        new_text, finish_reason, stop_reason = "", None, None
        if token_id in eos_token_ids and not params.ignore_eos:
            finish_reason = "stop"
        elif token_id in (params.stop_token_ids or ()):
            finish_reason, stop_reason = "stop", token_id
        else:
            new_text = self._detokenizer.push(token_id) if self._detokenizer else ""
            if len(output.token_ids) == self.request.max_tokens:
                finish_reason = "length"
        is_last = finish_reason is not None
        if is_last and self._detokenizer:
            new_text += self._detokenizer.flush()
        new_text, stop_string = self._stop_strings.push(new_text, last=is_last)
        if stop_string is not None:
            finish_reason, stop_reason = "stop", stop_string
        output.text += new_text

        self.request.record_token()
        # Not before: until here something may fail, and the request then ends by that.
        output.finish_reason, output.stop_reason = finish_reason, stop_reason
        self.request.report(output, new_text, [token_id])
