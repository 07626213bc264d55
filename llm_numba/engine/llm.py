"""``LLM``: the door that most programs come in by."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from llm_numba.engine.building import RunnerOptions, build, device_of
from llm_numba.engine.core import Engine
from llm_numba.engine.inputs import (
    Prompt,
    check_counts,
    check_messages,
    pair_prompts,
    token_id_list,
)
from llm_numba.engine.memory import MemoryOptions
from llm_numba.engine.outputs import CompletionChunk, RequestOutput
from llm_numba.engine.request import Request
from llm_numba.engine.sampling_params import SamplingParams
from llm_numba.engine.stats import EngineStats
from llm_numba.errors import EngineError, ParallelError
from llm_numba.models import (
    Execution,
    ModelConfig,
    Tokenizer,
    load_generation_config,
    open_model,
    resolve_model,
)
from llm_numba.models.checkpoint import Progress
from llm_numba.parallel import Mesh
from llm_numba.runtime import resolve_dtype


class LLM:
    """A model, ready to generate.

    Not thread-safe: one thread at a time may call its methods.

    Parameters
    ----------
    model : str or Path
        A bundled model's name, a directory in Hugging Face layout, a hub id, or "random:" and a
        shape, as "random:llama-3.2-1b".
    device : {"auto", "cpu", "cuda", "sim"}
        ``auto`` is the GPU where there is one that works, and else the CPU. ``sim`` runs the
        GPU's kernels in the simulator: some tokens, for a look at how they come about.
    dtype : str, optional
        The format of weights and activations: float32 or float64 on the CPU; float32, float16 or
        bfloat16 elsewhere. By default float32, but on a GPU the format that the weights are stored
        in, if that has 16 bits.
    block_size : int
        Tokens a block of the KV cache.
    num_blocks : int, optional
        Blocks of the KV cache; by default what ``max_num_seqs`` full sequences need, or if that
        is less half of the available memory, and on a GPU what the limit leaves.
    gpu_memory_utilization : float, optional
        The part of the GPU's memory that the engine may take, weights and activations included;
        by default nine tenths of what is free.
    gpu_memory_gb : float, optional
        The same in GiB.
    max_num_seqs : int
        Sequences that run at a time.
    max_num_batched_tokens : int
        Tokens a step: one of each sequence that decodes, and pieces of prompts.
    max_seqs_by_priority : dict of str to int, optional
        A lower limit for the sequences of a class, by :attr:`SamplingParams.priority`.
    enable_prefix_caching : bool
        Keep the keys and values of what was computed, as long as there is room, and use them for
        prompts that begin with the same tokens.
    max_model_len : int, optional
        The longest sequence in tokens, by default what the configuration declares. RoPE that
        stretches ("dynamic", "yarn") may be asked for more, up to its factor.
    enforce_eager : bool
        On a GPU, launch kernels one by one: no CUDA graphs. Slower, and every bit the same.
    persistent : bool
        On a GPU, decode a sequence that is alone by one kernel for the whole step. For small
        models of the Llama family.
    batch_invariant : bool
        A request's logits have the same bits alone and in any batch. Slower.
    execution : Execution, optional
        What the model fuses, and whether a token's bits may depend on what else is in the batch;
        by default everything, and they may.
    mesh : Mesh, optional
        The ranks that hold the model together, each a part. All of them make an ``LLM`` with the
        same arguments; then rank 0 goes on as if it were alone, and the others :meth:`follow`.
    progress : callable(name, done_bytes, total_bytes), optional
        Called for each tensor while weights are read.

    Attributes
    ----------
    memory : MemoryPlan
        Where its memory goes; of several ranks, this one's.
    stage : Stage or None
        Of several ranks, this one's part of every step.

    Raises
    ------
    LLMNumbaError
        One of its subclasses, with cause and remedy, if the model cannot be found, read or run.

    Examples
    --------
    >>> llm = LLM()
    >>> answer = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=50))[0]
    >>> print(answer.outputs[0].text)
    """

    def __init__(
        self,
        model: str | Path = "storyteller",
        *,
        device: str = "auto",
        dtype: str | None = None,
        block_size: int = 16,
        num_blocks: int | None = None,
        gpu_memory_utilization: float | None = None,
        gpu_memory_gb: float | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 2048,
        max_seqs_by_priority: dict[str, int] | None = None,
        enable_prefix_caching: bool = True,
        max_model_len: int | None = None,
        enforce_eager: bool = False,
        persistent: bool = False,
        batch_invariant: bool = False,
        execution: Execution | None = None,
        mesh: Mesh | None = None,
        progress: Progress | None = None,
    ) -> None:
        check_counts(
            max_seqs_by_priority or {},
            block_size=block_size,
            num_blocks=num_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
        )
        self.device = device_of(device, mesh)
        self.model_dir = resolve_model(model)
        files = open_model(self.model_dir)
        self.dtype = resolve_dtype(dtype, self.device, files.checkpoint.stored_dtype)
        self.config: ModelConfig = files.config
        self._generation = load_generation_config(self.model_dir, self.config)
        has_tokenizer = (self.model_dir / "tokenizer.json").exists()
        self._tokenizer = Tokenizer(self.model_dir) if has_tokenizer else None

        longest = self.config.longest_context
        self.max_model_len = max_model_len or self.config.max_position_embeddings
        if self.max_model_len > longest:
            raise EngineError(
                f"max_model_len={max_model_len} is more than the {longest} positions the model "
                "was trained for.",
                f"Choose at most {longest}.",
            )
        memory_options = MemoryOptions(
            self.max_model_len,
            block_size,
            num_blocks,
            max_num_seqs,
            max_num_batched_tokens,
            gpu_memory_utilization,
            gpu_memory_gb,
        )
        # RoPE that stretches ("dynamic", "yarn") depends on the longest sequence.
        identity = f"{self.model_dir} {self.dtype} {self.max_model_len}"
        if batch_invariant:
            execution = replace(execution or Execution(), batch_invariant=True)
        options = RunnerOptions(
            identity if enable_prefix_caching else None, enforce_eager, persistent, execution
        )
        runner, self.memory = build(
            files, self.dtype, self.device, memory_options, options, progress, mesh
        )
        self._engine = None
        leads = mesh is None or mesh.is_leader
        self.stage = runner.stage if leads else runner
        if leads:
            self._engine = Engine(
                runner,
                self._tokenizer,
                self._generation.eos_token_ids,
                self.max_model_len,
                max_num_seqs,
                max_num_batched_tokens,
                max_seqs_by_priority,
            )

    @property
    def engine(self) -> Engine:
        """What runs the requests; an error where another rank leads."""
        if self._engine is None:
            raise ParallelError(
                "Requests are taken on rank 0 alone; this rank computes its part of them.",
                "Call llm.follow() here: it returns when rank 0 closes its LLM.",
            )
        return self._engine

    @property
    def leads(self) -> bool:
        """Whether this rank takes requests: the only one there is, or rank 0 of several."""
        return self._engine is not None

    def follow(self) -> None:
        """Compute this rank's part of all requests, until rank 0 closes its :class:`LLM`."""
        if self.leads:
            raise ParallelError(
                "This rank leads, and none leads it.", "Call generate or chat where llm.leads."
            )
        self.stage.follow()

    def close(self) -> None:
        """Give up CUDA graphs, and let the ranks go that follow, as a ``with`` block's end does."""
        if self.leads:
            self.engine.runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def warm_up(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compile the kernels of prompts and capture CUDA graphs now: no request waits for one.

        Without it each is compiled, and captured, when it is first needed. So are, in any case,
        graphs of batches with penalties or log-probabilities, and on several ranks the kernels of
        prompts. Without a GPU nothing happens.

        Parameters
        ----------
        progress : callable(done, total), optional
            Called after each number of tokens that was compiled for, and then after each graph.
        """
        self.engine.runner.warm_up(progress)

    @property
    def has_tokenizer(self) -> bool:
        """Whether prompts may be text; without, they are token ids, and so is what comes out."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises
        ------
        TokenizerError
            If its directory has none.
        """
        if self._tokenizer is None:
            raise Tokenizer.missing(self.model_dir)
        return self._tokenizer

    def default_sampling_params(self, **changes: Any) -> SamplingParams:
        """Return what the model's ``generation_config.json`` recommends.

        Parameters
        ----------
        **changes
            Fields of :class:`SamplingParams` to set otherwise.
        """
        return SamplingParams(**{**self._generation.sampling, **changes})

    def generate(
        self,
        prompts: Prompt | list[Prompt],
        params: SamplingParams | list[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Continue prompts, all in one batch.

        Parameters
        ----------
        prompts : str, list of int, or a list of them
            Text, or token ids.
        params : SamplingParams or list of them, optional
            For all prompts, or one each; by default :meth:`default_sampling_params`.

        Returns
        -------
        list of RequestOutput
            In the order of the prompts.

        Raises
        ------
        PromptError
            If a prompt is empty, too long, or holds ids outside the vocabulary; then none is run.
        EngineError
            If a step failed, or each of the requests did. If only some did, their outputs say so:
            see :attr:`RequestOutput.error`.
        """
        requests = self._requests(prompts, params)
        for _ in self.engine.run(requests):
            pass
        return [request.result() for request in requests]

    def stream(
        self,
        prompts: Prompt | list[Prompt],
        params: SamplingParams | list[SamplingParams] | None = None,
    ) -> Iterator[CompletionChunk]:
        """Continue prompts and hand out each token as it comes.

        Parameters
        ----------
        prompts, params
            As for :meth:`generate`; checked before the first chunk is asked for.

        Returns
        -------
        iterator of CompletionChunk
            Requests are queued when the first chunk is asked for; closing the iterator ends them.
        """
        return self.engine.run(self._requests(prompts, params))

    def chat(
        self,
        messages: list[dict[str, str]],
        params: SamplingParams | None = None,
    ) -> RequestOutput:
        """Answer a conversation.

        Parameters
        ----------
        messages : list of {"role": str, "content": str}
        params : SamplingParams, optional

        Returns
        -------
        RequestOutput

        Raises
        ------
        ChatTemplateError
            If the model has no chat template, or it refuses the conversation.
        """
        request = self._chat_request(messages, params)
        for _ in self.engine.run([request]):
            pass
        return request.result()

    def stream_chat(
        self,
        messages: list[dict[str, str]],
        params: SamplingParams | None = None,
    ) -> Iterator[CompletionChunk]:
        """Answer a conversation and hand out each token as it comes; see :meth:`chat`."""
        return self.engine.run([self._chat_request(messages, params)])

    def stats(self) -> EngineStats:
        """Return counts since the engine began, and the state of its queues."""
        return self.engine.stats()

    def logits(self, token_ids: list[int]) -> np.ndarray:
        """Score what follows each token of a text.

        Parameters
        ----------
        token_ids : list of S int

        Returns
        -------
        float32 [S, V]
            float64 with ``dtype="float64"``. Row s scores the token after ``token_ids[s]``.
        """
        return self.engine.logits(token_id_list(token_ids))

    def _chat_request(
        self, messages: list[dict[str, str]], params: SamplingParams | None
    ) -> Request:
        check_messages(messages)
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        # The template wrote the special tokens, BOS among them: the tokenizer must add none.
        token_ids = self.tokenizer.encode(text, add_special_tokens=False)
        return self.engine.new_request(
            text, token_ids, params or self.default_sampling_params(max_tokens=None)
        )

    def _requests(
        self,
        prompts: Prompt | list[Prompt],
        params: SamplingParams | list[SamplingParams] | None,
    ) -> list[Request]:
        pairs = pair_prompts(prompts, params, self.default_sampling_params)
        return [
            self.engine.new_request(
                prompt if isinstance(prompt, str) else None, self._encode(prompt), p
            )
            for prompt, p in pairs
        ]

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            # Empty text stays empty: BOS alone is no prompt.
            return self.tokenizer.encode(prompt) if prompt else []
        return token_id_list(prompt)
