"""The engine's loop: admit, compute, sample, hand out.

Requests enter by :meth:`Engine.run`; each :meth:`Engine.step` gives every scheduled sequence one
token. Whoever wants a request's chunks keeps stepping until they are there, so several streams may
be read in turn: they share the steps, and with them the reading of the weights.
"""

import secrets
from collections.abc import Iterator

import numpy as np

from llm_numba.engine.outputs import CompletionChunk, Logprob
from llm_numba.engine.request import Request, Sequence
from llm_numba.engine.runner import ModelRunner
from llm_numba.engine.sampling_params import SamplingParams
from llm_numba.engine.scheduler import Scheduler
from llm_numba.engine.session import ChatSession
from llm_numba.engine.step import NOT_FINITE, Sampled, Step, Work
from llm_numba.errors import (
    CacheError,
    EngineError,
    PromptError,
    SamplingParamsError,
    TokenizerError,
)
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
    max_num_seqs, max_num_batched_tokens : int
        See :class:`Scheduler`.
    """

    def __init__(
        self,
        runner: ModelRunner,
        tokenizer: Tokenizer | None,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
    ) -> None:
        self._runner = runner
        self._kv_cache = runner.kv_cache
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._max_model_len = max_model_len
        self._max_num_seqs = max_num_seqs
        self._scheduler = Scheduler(
            self._kv_cache, max_num_seqs, max_num_batched_tokens, self._reclaim
        )
        self._sessions: dict[ChatSession, None] = {}  # the least recently used first
        self._session_of: dict[Request, ChatSession] = {}
        self._num_requests = 0

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
        self.check_prompt(prompt_token_ids, room_for_answer=1)
        vocab_size = self._runner.model.config.vocab_size
        unknown = [i for i in params.stop_token_ids or [] if i >= vocab_size]
        if unknown:
            raise SamplingParamsError(
                f"stop_token_ids={unknown} are outside the model's vocabulary.",
                f"stop_token_ids must be below {vocab_size}.",
            )
        if params.stop and self._tokenizer is None:
            raise TokenizerError(
                "Stop strings are looked for in text, and this model has no tokenizer.json.",
                "Use stop_token_ids, or add the tokenizer to its directory.",
            )
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
        if needed > total or params.n > self._max_num_seqs:
            raise CacheError(
                f"n={params.n} samples of up to {request.final_length} tokens need {needed} blocks "
                f"and {params.n} sequences; the engine has {total} blocks and runs "
                f"{self._max_num_seqs} sequences at a time.",
                "Lower n or max_tokens, or raise num_blocks or max_num_seqs.",
            )
        self._num_requests += 1
        return request

    def check_prompt(self, token_ids: list[int], room_for_answer: int = 0) -> None:
        """Refuse a prompt that the model cannot read.

        Parameters
        ----------
        token_ids : list of int
        room_for_answer : int
            Tokens of the context that must stay free.

        Raises
        ------
        PromptError
        """
        if not token_ids:
            raise PromptError("The prompt is empty.", "Give at least one character or token.")
        if len(token_ids) + room_for_answer > self._max_model_len:
            raise PromptError(
                f"The prompt has {len(token_ids)} tokens and the context holds "
                f"{self._max_model_len}, the answer included.",
                "Shorten the prompt.",
            )
        vocab_size = self._runner.model.config.vocab_size
        if min(token_ids) < 0 or max(token_ids) >= vocab_size:
            outside = next(i for i in token_ids if not 0 <= i < vocab_size)
            raise PromptError(
                f"Token id {outside} is outside the model's vocabulary of {vocab_size}.",
                "Use the tokenizer that belongs to the model.",
            )

    def add(self, request: Request, session: ChatSession | None = None) -> None:
        """Queue a request.

        Parameters
        ----------
        request : Request
        session : ChatSession, optional
            Whose cache to begin with, and to leave the first sample's blocks to.
        """
        table = None
        if session is not None:
            table = session.lend(request.prompt_token_ids, self._kv_cache)
            self._session_of[request] = session
            self._sessions.pop(session, None)
        request.sequences = [self._new_sequence(request, i) for i in range(request.params.n)]
        if table is not None:
            request.sequences[0].table = table
            request.metrics.num_cached_tokens = table.num_tokens
        self._scheduler.add(request)

    def _new_sequence(self, request: Request, index: int) -> Sequence:
        detokenizer = None
        if self._tokenizer is not None:
            detokenizer = IncrementalDetokenizer(self._tokenizer, request.prompt_token_ids)
        vocab_size = self._runner.model.config.vocab_size
        return Sequence(request, index, self._kv_cache.new_table(), detokenizer, vocab_size)

    def run(
        self, requests: list[Request], session: ChatSession | None = None
    ) -> Iterator[CompletionChunk]:
        """Queue requests and step until they are finished, handing out chunks as they come.

        Whatever ends the iteration early (an error, Ctrl-C, a closed generator) ends the requests
        too and gives their blocks back.

        Parameters
        ----------
        requests : list of Request
            From :meth:`new_request`; queued when the first chunk is asked for.
        session : ChatSession, optional
            See :meth:`add`; then there is one request.

        Yields
        ------
        CompletionChunk
        """
        try:
            for request in requests:
                self.add(request, session)
            while True:
                for request in requests:
                    while request.chunks:
                        yield request.chunks.popleft()
                if all(request.finished for request in requests):
                    return
                self.step()
        finally:
            for request in requests:
                if request.sequences and not request.finished:
                    self.abort(request)

    def step(self) -> None:
        """Compute one step: prompts of newly admitted requests, or one token of each sequence."""
        scheduled = self._scheduler.schedule()
        assert scheduled, "no running sequence, and none that waits can be admitted"
        try:
            self._compute(scheduled)
        except BaseException:
            self._roll_back(scheduled)
            raise
        finally:
            self._scheduler.remove_finished()

    def _compute(self, scheduled: list[Sequence]) -> None:
        step = Step()
        for sequence in scheduled:
            request = sequence.request
            samplers = [sequence] if request.metrics.num_generated_tokens else request.sequences
            token_ids, start = sequence.uncomputed_token_ids(), sequence.table.num_tokens
            slots = sequence.table.append_slots(len(token_ids))
            # The samples of one prompt share its blocks and part at their first token.
            for twin in samplers[1:]:
                twin.table = sequence.table.fork()
            step.works.append(Work(sequence, token_ids, start, slots, samplers))
            step.num_tokens += len(token_ids)
        step.works.sort(key=lambda work: len(work.token_ids) > 1)
        for sampled in self._runner.submit(step).wait():
            self._take(sampled)

    def _take(self, sampled: Sampled) -> None:
        if sampled.token_id == NOT_FINITE:
            raise EngineError(
                "The model's logits are not finite numbers.",
                "Check the weights: they may be damaged, belong to another config.json, or be too "
                "large for float16, where bfloat16 and float32 hold them.",
            )
        logprobs = None
        if sampled.logprobs is not None:
            logprobs = {
                token_id: Logprob(*found, self._decode(token_id))
                for token_id, found in sampled.logprobs.items()
            }
        sequence = sampled.sequence
        sequence.append(sampled.token_id, logprobs, self._eos_token_ids)
        if sequence.finished:
            self._release(sequence)

    def _decode(self, token_id: int) -> str:
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def _roll_back(self, scheduled: list[Sequence]) -> None:
        """Leave requests as if a step that failed had not been, but for tokens that came.

        Whoever was stepping ends its own requests; others that shared the step go on in the next.
        """
        for request in reversed({sequence.request: None for sequence in scheduled}):
            if not request.metrics.num_generated_tokens:
                for twin in request.sequences[1:]:
                    twin.table.free()
                self._scheduler.put_back(request)
            for sequence in request.sequences:
                if not sequence.finished:
                    # The last token's key is computed again, for the logits that follow it.
                    known = len(sequence.token_ids()) - 1
                    sequence.table.truncate(min(sequence.table.num_tokens, known))

    def _release(self, sequence: Sequence) -> None:
        session = self._session_of.get(sequence.request)
        if session is not None and sequence.output.index == 0:
            session.give_back(sequence.token_ids(), sequence.table)
            self._sessions[session] = None
            del self._session_of[sequence.request]
        else:
            sequence.table.free()

    def abort(self, request: Request) -> None:
        """End a request now; its blocks come back at once.

        Parameters
        ----------
        request : Request
        """
        self._scheduler.abort(request)
        for sequence in request.sequences:
            if not sequence.finished:
                self._release(sequence)

    def _reclaim(self) -> bool:
        """Drop kept blocks that only save time; False if there are none.

        First the cache of the session that has been idle longest, then what the request that was
        queued last brought along.
        """
        while self._sessions:
            session = next(iter(self._sessions))
            del self._sessions[session]
            if session.holds_blocks:
                session.close()
                return True
        for request in reversed(self._scheduler.waiting):
            if request.metrics.num_cached_tokens:
                request.metrics.num_cached_tokens = 0
                request.sequences[0].table.free()
                return True
        return False

    def logits(self, token_ids: list[int]) -> np.ndarray:
        """Score what follows each token of a text; see :meth:`LLM.logits`."""
        self.check_prompt(token_ids)
        table = self._kv_cache.new_table()
        needed = table.blocks_to_reach(len(token_ids))
        while self._scheduler.num_spare_blocks() < needed:
            if not self._reclaim():
                raise CacheError(
                    f"{len(token_ids)} tokens need {needed} blocks of the KV cache; running "
                    "requests hold or may need the rest.",
                    "Let them finish first, or raise num_blocks.",
                )
        try:
            return self._runner.all_logits(token_ids, table)
        finally:
            table.free()
