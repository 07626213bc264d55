"""The forms that prompts, conversations and settings may come in, and errors for all others."""

from collections.abc import Callable
from typing import Any

import numpy as np

from llm_numba.engine.sampling_params import PRIORITIES, SamplingParams
from llm_numba.errors import EngineError, PromptError, SamplingParamsError, TokenizerError

Prompt = str | list[int]


def pair_prompts(
    prompts: Any, params: Any, default: Callable[[], SamplingParams]
) -> list[tuple[Prompt, SamplingParams]]:
    """Give each prompt its parameters.

    Parameters
    ----------
    prompts : str, list of int, or a list of them
    params : SamplingParams, a list of them, or None
    default : callable() -> SamplingParams
        What None stands for.

    Returns
    -------
    list of (prompt, SamplingParams)

    Raises
    ------
    PromptError
        If there is no prompt, something is none, or the numbers differ.
    SamplingParamsError
        If something given as parameters is none.
    """
    prompts = _prompt_list(prompts)
    params = default() if params is None else params
    if isinstance(params, SamplingParams):
        params = [params] * len(prompts)
    if not isinstance(params, list | tuple) or not all(
        isinstance(p, SamplingParams) for p in params
    ):
        raise SamplingParamsError(
            f"{params!r} is no SamplingParams.", "Give SamplingParams(...), or a list of them."
        )
    if len(params) != len(prompts):
        raise PromptError(
            f"There are {len(prompts)} prompts and {len(params)} SamplingParams.",
            "Give one SamplingParams for all prompts, or one for each.",
        )
    return list(zip(prompts, params, strict=True))


def _prompt_list(prompts: Any) -> list[Prompt]:
    if isinstance(prompts, np.ndarray):
        prompts = prompts.tolist()
    if isinstance(prompts, str):
        return [prompts]
    if prompts is None or (isinstance(prompts, list | tuple) and not prompts):
        raise PromptError("There is no prompt.", "Give at least one.")
    if not isinstance(prompts, list | tuple):
        raise _no_prompt(prompts)
    return [prompts] if isinstance(prompts[0], int | np.integer) else list(prompts)


def token_id_list(prompt: Any) -> list[int]:
    """Return a prompt of token ids as plain integers.

    Parameters
    ----------
    prompt : sequence of int

    Raises
    ------
    PromptError
        If it is anything else.
    """
    if not isinstance(prompt, list | tuple | np.ndarray) or not all(
        isinstance(token_id, int | np.integer) for token_id in prompt
    ):
        raise _no_prompt(prompt)
    return [int(token_id) for token_id in prompt]


def _no_prompt(value: Any) -> PromptError:
    return PromptError(
        f"{value!r} is no prompt.", "Give text, a list of token ids, or a list of those."
    )


def check_messages(messages: Any) -> None:
    """Refuse what is no conversation.

    Parameters
    ----------
    messages : list of {"role": str, "content": str}

    Raises
    ------
    PromptError
    """
    is_list = isinstance(messages, list | tuple) and len(messages) > 0
    if not is_list or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in messages
    ):
        raise PromptError(
            f"{messages!r} is no conversation.",
            'Give a list of {"role": ..., "content": ...}, with at least one message.',
        )


def check_prompt(
    token_ids: list[int], vocab_size: int, max_model_len: int, room_for_answer: int = 0
) -> None:
    """Refuse a prompt that the model cannot read.

    Parameters
    ----------
    token_ids : list of int
    vocab_size, max_model_len : int
    room_for_answer : int
        Tokens of the context that must stay free.

    Raises
    ------
    PromptError
    """
    if not token_ids:
        raise PromptError("The prompt is empty.", "Give at least one character or token.")
    if len(token_ids) + room_for_answer > max_model_len:
        raise PromptError(
            f"The prompt has {len(token_ids)} tokens and the context holds "
            f"{max_model_len}, the answer included.",
            "Shorten the prompt.",
        )
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        outside = next(i for i in token_ids if not 0 <= i < vocab_size)
        raise PromptError(
            f"Token id {outside} is outside the model's vocabulary of {vocab_size}.",
            "Use the tokenizer that belongs to the model.",
        )


def check_stops(params: SamplingParams, vocab_size: int, *, has_tokenizer: bool) -> None:
    """Refuse stops that could never be found.

    Parameters
    ----------
    params : SamplingParams
    vocab_size : int
    has_tokenizer : bool

    Raises
    ------
    SamplingParamsError
        If a stop token is outside the vocabulary.
    TokenizerError
        If there are stop strings, and nothing to make text of tokens.
    """
    unknown = [i for i in params.stop_token_ids or [] if i >= vocab_size]
    if unknown:
        raise SamplingParamsError(
            f"stop_token_ids={unknown} are outside the model's vocabulary.",
            f"stop_token_ids must be below {vocab_size}.",
        )
    if params.stop and not has_tokenizer:
        raise TokenizerError(
            "Stop strings are looked for in text, and this model has no tokenizer.json.",
            "Use stop_token_ids, or add the tokenizer to its directory.",
        )


def check_counts(max_seqs_by_priority: dict[str, int], **counts: int | None) -> None:
    """Refuse settings that are no counts.

    Parameters
    ----------
    max_seqs_by_priority : dict of str to int
    **counts
        By name; None where it was left unset.

    Raises
    ------
    EngineError
        Naming the setting and its range.
    """
    unknown = [name for name in max_seqs_by_priority if name not in PRIORITIES]
    if unknown:
        raise EngineError(
            f"max_seqs_by_priority names {unknown[0]!r}, which is no class of requests.",
            f"Choose among {', '.join(PRIORITIES)}.",
        )
    for name, limit in max_seqs_by_priority.items():
        counts[f"max_seqs_by_priority[{name!r}]"] = limit
    for name, value in counts.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise EngineError(f"{name}={value!r} is out of range.", f"{name} must be at least 1.")
