"""Speed of generation: prefill, and decoding at several batch sizes."""

import time

import numpy as np

from llm_numba.engine import LLM, SamplingParams


class GenerationTimer:
    """Times a model on random prompts.

    A prompt is never used twice, so no cache of earlier prompts can help.

    Parameters
    ----------
    llm : LLM
        The model.
    seed : int
        Of the prompts.
    """

    def __init__(self, llm: LLM, seed: int = 0) -> None:
        self._llm = llm
        self._rng = np.random.default_rng(seed)

    def prefill_seconds(self, num_tokens: int) -> float:
        """Return the time from a prompt to its first token.

        Parameters
        ----------
        num_tokens : int
            Length of the prompt.
        """
        prompt = self._prompt(num_tokens)
        begin = time.perf_counter()
        self._llm.generate([prompt], _exactly(1))
        return time.perf_counter() - begin

    def decode_rate(self, batch: int, prompt_tokens: int, new_tokens: int) -> float:
        """Return tokens per second of a batch, from each sequence's first token to its last.

        Parameters
        ----------
        batch : int
            Sequences decoded together.
        prompt_tokens, new_tokens : int
            Length of each prompt and of each continuation; the first new token comes out of the
            prefill and does not count.
        """
        prompts = [self._prompt(prompt_tokens) for _ in range(batch)]
        begun, begin, counted = set(), 0.0, 0
        for chunk in self._llm.stream(prompts, _exactly(new_tokens)):
            if len(begun) == batch:
                counted += len(chunk.token_ids)
                continue
            begun.add(chunk.request_id)
            begin = time.perf_counter()
        return counted / (time.perf_counter() - begin)

    def _prompt(self, num_tokens: int) -> list[int]:
        return self._rng.integers(self._llm.config.vocab_size, size=num_tokens).tolist()


def _exactly(num_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
