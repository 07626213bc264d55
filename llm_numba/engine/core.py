"""The engine's loop: schedule, submit, read, hand out.

Requests enter by :meth:`Engine.run`. Whoever wants a request's chunks keeps stepping until they
are there, so several streams may be read in turn: they share the steps, and with them the reading
of the weights.

On a GPU a step is submitted before the tokens of the one before it are read, so that the GPU never
waits for Python::

    Python  | schedule 2, submit | read 1, tell | schedule 3, submit | read 2, tell | ...
    GPU     |  step 1 ................. | step 2 ..................... | step 3 ...

A pipeline of R stages keeps R steps on their way, each with other sequences.
"""

import secrets
import traceback
from collections import deque
from collections.abc import Iterator

import numpy as np

from llm_numba.engine import interrupts
from llm_numba.engine.inputs import check_prompt, check_stops
from llm_numba.engine.outputs import CompletionChunk, Logprob
from llm_numba.engine.request import Request, Sequence
from llm_numba.engine.runner import ModelRunner
from llm_numba.engine.sampling_params import SamplingParams
from llm_numba.engine.scheduler import Scheduler
from llm_numba.engine.stats import EngineStats
from llm_numba.engine.step import NOT_FINITE, PendingStep, Sampled, Step
from llm_numba.errors import CacheError, EngineError, LLMNumbaError
from llm_numba.models import IncrementalDetokenizer, Tokenizer


class Engine:
    """Runs requests, many at a time, on one model.

    Parameters
    ----------
    runner : ModelRunner
    tokenizer : Tokenizer or None
        None leaves texts empty.
    eos_token_ids : frozenset of int
    max_model_len : int
        The longest sequence, prompt and answer together.
    max_num_seqs, max_num_batched_tokens, max_seqs_by_priority
        See :class:`Scheduler`.

    Attributes
    ----------
    runner : ModelRunner
    """

    def __init__(
        self,
        runner: ModelRunner,
        tokenizer: Tokenizer | None,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_seqs_by_priority: dict[str, int] | None = None,
    ) -> None:
        self.runner = runner
        self._kv_cache = runner.kv_cache
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._max_model_len = max_model_len
        self._scheduler = Scheduler(
            self._kv_cache,
            max_num_seqs,
            max_num_batched_tokens,
            max_seqs_by_priority,
            runner.num_stages,
        )
        self._live: dict[Request, None] = {}  # queued and not finished, in the order of arrival
        self._pending: deque[PendingStep] = deque()  # submitted, and not read
        self._is_stepping = False
        self._given_up: list[Request] = []  # in the middle of this step
        self._failure: EngineError | None = None  # the last one that ended all requests
        self._num_requests = self._num_steps = self._num_tokens = 0
        self._num_slots = self._num_unused_slots = 0

    @property
    def running(self) -> list[Sequence]:
        """The sequences that are being computed."""
        return self._scheduler.running

    def stats(self) -> EngineStats:
        """Return counts since the engine began, and the state of its queues."""
        allocator = self._kv_cache.allocator
        return EngineStats(
            num_waiting=len(self._scheduler.waiting),
            num_running=len(self._scheduler.running),
            num_blocks=allocator.num_blocks,
            num_free_blocks=allocator.num_free,
            num_steps=self._num_steps,
            num_tokens=self._num_tokens,
            num_preemptions=self._scheduler.num_preemptions,
            num_tokens_admitted=self._scheduler.num_tokens_admitted,
            num_tokens_found=self._scheduler.num_tokens_found,
            num_slots=self._num_slots,
            num_unused_slots=self._num_unused_slots,
        )

    def new_request(
        self, prompt: str | None, prompt_token_ids: list[int], params: SamplingParams
    ) -> Request:
        """Check a prompt and make a request of it.

        Parameters
        ----------
        prompt : str or None
        prompt_token_ids : list of int
        params : SamplingParams

        Returns
        -------
        Request
            Not queued yet: see :meth:`run`.

        Raises
        ------
        PromptError
            If the prompt is empty, fills the context, or holds ids outside the vocabulary.
        SamplingParamsError
            If a stop token is outside the vocabulary.
        CacheError
            If its samples can never be in the cache together.
        """
        vocab_size = self.runner.model.config.vocab_size
        check_prompt(prompt_token_ids, vocab_size, self._max_model_len, room_for_answer=1)
        check_stops(params, vocab_size, has_tokenizer=self._tokenizer is not None)
        room = self._max_model_len - len(prompt_token_ids)
        request = Request(
            request_id=str(self._num_requests),
            prompt=prompt,
            prompt_token_ids=prompt_token_ids,
            params=params,
            seed=secrets.randbits(64) if params.seed is None else params.seed,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
        )
        needed = params.n * self._kv_cache.blocks_for(request.final_length)
        total = self._kv_cache.allocator.num_blocks
        max_num_seqs = self._scheduler.class_limit(params.priority)
        if needed > total or params.n > max_num_seqs:
            raise CacheError(
                f"n={params.n} samples of up to {request.final_length} tokens need {needed} blocks "
                f"and {params.n} sequences; the engine has {total} blocks and runs "
                f"{max_num_seqs} sequences at a time.",
                "Lower n or max_tokens, or raise num_blocks, max_num_seqs or "
                "max_num_batched_tokens.",
            )
        self._num_requests += 1
        return request

    def add(self, request: Request) -> None:
        """Queue a request.

        Parameters
        ----------
        request : Request
            From :meth:`new_request`.
        """
        request.sequences = [self._new_sequence(request, i) for i in range(request.params.n)]
        self._live[request] = None
        self._scheduler.add(request)

    def _new_sequence(self, request: Request, index: int) -> Sequence:
        detokenizer = None
        if self._tokenizer is not None:
            detokenizer = IncrementalDetokenizer(self._tokenizer, request.prompt_token_ids)
        return Sequence(request, index, self._kv_cache.new_table(), detokenizer)

    def run(self, requests: list[Request]) -> Iterator[CompletionChunk]:
        """Queue requests and step until they are finished, handing out chunks as they come.

        Whatever ends the iteration early (an error, Ctrl-C, a closed generator) ends the requests
        too and gives their blocks back.

        Parameters
        ----------
        requests : list of Request
            From :meth:`new_request`; queued when the first chunk is asked for.

        Yields
        ------
        CompletionChunk

        Raises
        ------
        EngineError
            If a step failed, or each of the requests did. If only some did, their last chunks
            carry their errors.
        """
        try:
            for request in requests:
                self.add(request)
            going = requests
            while going:
                for request in going:
                    while request.chunks:
                        yield request.chunks.popleft()
                # Between two chunks other streams may have stepped, and ended some of these.
                going = [r for r in going if r.chunks or r in self._live]
                if going and not any(request.chunks for request in going):
                    self.step()
        finally:
            for request in requests:
                self.abort(request)
            if not self._live:
                self.runner.settle()
        errors = [request.error for request in requests if request.error is not None]
        if errors and (len(errors) == len(requests) or errors[-1] is self._failure):
            raise errors[-1]

    def step(self) -> None:
        """Submit a step, and take the tokens of one: this, or on a GPU the one before it.

        Raises
        ------
        EngineError
            If the step could not be computed. All requests end with this error, whose
            ``__cause__`` says why; the engine can be used again.
        """
        try:
            self._is_stepping = True
            self._advance()
        except Exception as cause:
            with interrupts.deferred():
                failure = self._fail(cause)
            raise failure from cause
        except BaseException:
            # Ctrl-C ends the requests of whoever was stepping. The others lose the steps on their
            # way, but no token: the numbers that samples are drawn by depend on the position only.
            with interrupts.deferred():
                self._pending.clear()
                self._scheduler.restart(list(self._live))
            raise
        finally:
            self._is_stepping = False
            while self._given_up:
                self.abort(self._given_up.pop())

    def _advance(self) -> None:
        num_pending = len(self._pending)
        with interrupts.deferred():
            step = self._scheduler.schedule()
        assert step.works or num_pending, "no sequence runs, and none can be admitted"
        if step.works:
            self._pending.append(self.runner.submit(step))
            with interrupts.deferred():
                self._note(step)
        self._read_until(self.runner.depth if step.works else num_pending - 1)

    def _note(self, step: Step) -> None:
        """Write down what the step that was submitted has changed."""
        for work in step.works:
            for sequence in work.samplers:
                sequence.num_in_flight += 1
            if len(work.token_ids) > 1:
                work.sequence.table.register(work.sequence.token_ids())
        self._num_steps += 1
        self._num_tokens += step.num_tokens
        size = self._kv_cache.block_size
        for sequence in self._scheduler.running:
            self._num_slots += size * len(sequence.table.blocks)
            self._num_unused_slots += -sequence.table.num_tokens % size

    def _read_until(self, num_pending: int) -> None:
        while len(self._pending) > num_pending:
            tokens = self._pending.popleft().wait()
            with interrupts.deferred():
                for sampled in tokens:
                    sampled.sequence.num_in_flight -= 1
                    # One that ended was already in the step behind: its token is surplus.
                    if not sampled.sequence.finished:
                        self._take(sampled)

    def _take(self, sampled: Sampled) -> None:
        """Give a sequence its token; what is wrong with it ends this request alone."""
        sequence = sampled.sequence
        request = sequence.request
        if sampled.token_id == NOT_FINITE:
            error = EngineError(
                "The model's logits are not finite numbers.",
                "Check the weights: they may be damaged, belong to another config.json, or be too "
                "large for float16, where bfloat16 and float32 hold them.",
            )
            return self._end(request, "error", error)
        try:
            sequence.append(sampled.token_id, self._logprobs(sampled), self._eos_token_ids)
        except Exception as cause:
            return self._end(request, "error", as_engine_error(cause, "A token became no text"))
        table = sequence.table
        num_known = min(table.num_tokens, sequence.prompt_length + len(sequence.output.token_ids))
        if num_known % self._kv_cache.block_size == 0:
            table.register(sequence.token_ids())
        if sequence.finished:
            self._release(sequence)
        return None

    def _logprobs(self, sampled: Sampled) -> dict[int, Logprob] | None:
        if sampled.logprobs is None:
            return None
        text_of = self._tokenizer.text_of if self._tokenizer else lambda token_id: ""
        return {
            token_id: Logprob(*found, text_of(token_id))
            for token_id, found in sampled.logprobs.items()
        }

    def _release(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        sequence.table.free()
        if sequence.request.finished:
            self._live.pop(sequence.request, None)

    def _end(self, request: Request, reason: str, error: LLMNumbaError | None = None) -> None:
        request.end(reason, error)
        for sequence in request.sequences:
            self._release(sequence)

    def abort(self, request: Request) -> None:
        """End a request if it goes on; its blocks come back at once.

        Python's garbage collector may close a stream in the middle of a step, whose blocks must
        stay where they are. Then the request ends with the step.

        Parameters
        ----------
        request : Request
        """
        if self._is_stepping:
            self._given_up.append(request)
        elif request in self._live:
            with interrupts.deferred():
                self._end(request, "abort")

    def _fail(self, cause: Exception) -> EngineError:
        """End all requests with an error."""
        self._failure = as_engine_error(cause, "A step of the engine failed")
        # The error is kept; the arrays of the functions that it came through must not be.
        traceback.clear_frames(cause.__traceback__)
        self._pending.clear()
        for request in self._live:
            request.end("error", self._failure)
        self._live.clear()
        self._scheduler.restart([])
        # What the failed step was to write may be half written, in the cache and in its books.
        self._kv_cache.allocator.clear()
        return self._failure

    def logits(self, token_ids: list[int]) -> np.ndarray:
        """Score what follows each token of a text; see :meth:`LLM.logits`."""
        check_prompt(token_ids, self.runner.model.config.vocab_size, self._max_model_len)
        table = self._kv_cache.new_table()
        needed = table.blocks_to_reach(len(token_ids))
        if needed > self._kv_cache.allocator.num_free:
            raise CacheError(
                f"{len(token_ids)} tokens need {needed} blocks of the KV cache; running "
                "requests hold the rest.",
                "Let them finish first, or raise num_blocks.",
            )
        try:
            return self.runner.all_logits(token_ids, table)
        finally:
            table.free()


def as_engine_error(cause: Exception, what: str) -> EngineError:
    """Say what failed in an error of ours, and keep the cause.

    Parameters
    ----------
    cause : Exception
    what : str
        The beginning of the sentence.

    Returns
    -------
    EngineError
    """
    if isinstance(cause, LLMNumbaError):
        error = EngineError(cause.cause, cause.remedy)
    else:
        error = EngineError(
            f"{what}: {type(cause).__name__}: {cause}.",
            "The cause is attached to this error; the engine can be used again.",
        )
    error.__cause__ = cause
    return error
