"""Text to token ids and back: ``tokenizer.json`` with what ``tokenizer_config.json`` adds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from llm_numba.errors import PromptError, TokenizerError
from llm_numba.models.chat_template import ChatTemplate, find_chat_template
from llm_numba.models.fields import read_json, refuse_pipe
from llm_numba.models.random import PREFIX, SHAPES_DIR

# What decoders put where bytes form no character: perhaps the first half of one.
REPLACEMENT_CHARACTER = "\ufffd"


class Tokenizer:
    """A checkpoint's tokenizer and chat template.

    Parameters
    ----------
    directory : Path

    Attributes
    ----------
    bos_token, eos_token : str or None
    chat_template : ChatTemplate or None

    Raises
    ------
    TokenizerError
        If ``tokenizer.json`` is missing or malformed.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        if not path.exists():
            raise self.missing(directory)
        refuse_pipe(path, TokenizerError)
        self._path = path
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as failure:  # the library raises bare Exception
            raise TokenizerError(
                f"{path} is not a valid tokenizer: {failure}.", "Download that file again."
            ) from None
        # Batching is ours; a tokenizer file may ask for truncation or padding all the same.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._texts: dict[int, str] = {}
        settings = _settings(directory)
        special_tokens = {
            name: text
            for name, value in settings.items()
            if name.endswith("_token") and (text := _token_text(value))
        }
        self.bos_token = special_tokens.get("bos_token")
        self.eos_token = special_tokens.get("eos_token")
        self.chat_template = find_chat_template(directory, settings, special_tokens)

    @staticmethod
    def missing(directory: Path) -> TokenizerError:
        """Build the error for a directory without a tokenizer."""
        if directory.parent == SHAPES_DIR:
            return TokenizerError(
                f"{PREFIX}{directory.name} has random weights and no tokenizer.",
                "Give prompts as token ids: llm.generate([[1, 2, 3]]), "
                "llm-numba generate --prompt-tokens 1,2,3.",
            )
        return TokenizerError(
            f"{directory} holds no tokenizer.json.",
            "Export the fast tokenizer with it (save_pretrained), or give prompts as token ids.",
        )

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Split text into token ids.

        Parameters
        ----------
        text : str
        add_special_tokens : bool
            Let the tokenizer add its own, such as BOS. Text that begins with the BOS token
            already gets no second one.

        Returns
        -------
        list of int

        Raises
        ------
        PromptError
            If the text is not Unicode.
        TokenizerError
            If the tokenizer's file is damaged in a way that only shows now.
        """
        try:
            text.encode()
        except UnicodeEncodeError as failure:
            raise PromptError(
                f"The text is not valid Unicode: {failure.reason} at character {failure.start}.",
                "Give text whose bytes are UTF-8.",
            ) from None
        doubled = self.bos_token and text.startswith(self.bos_token)
        with _naming_the_file(self._path):
            ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if doubled and add_special_tokens and ids[:2] == [self.token_id(self.bos_token)] * 2:
            return ids[1:]
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Join token ids to text.

        Parameters
        ----------
        token_ids : list of int
        skip_special_tokens : bool

        Returns
        -------
        str
        """
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def text_of(self, token_id: int) -> str:
        """Return the text of one token, of a special one too; it is decoded once.

        Parameters
        ----------
        token_id : int

        Returns
        -------
        str
            Replacement characters where the token is a piece of a character.
        """
        if token_id not in self._texts:
            self._texts[token_id] = self.decode([token_id], skip_special_tokens=False)
        return self._texts[token_id]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token given as text, or None."""
        return self._tokenizer.token_to_id(token)

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """Write a conversation as the model was trained to read it.

        Parameters
        ----------
        messages : list of {"role": str, "content": str}
        add_generation_prompt : bool
            End with the words that begin the assistant's turn.

        Returns
        -------
        str
            Holds its special tokens, BOS included: encode it with ``add_special_tokens=False``.

        Raises
        ------
        ChatTemplateError
            If there is no template, or it refuses the conversation.
        """
        if self.chat_template is None:
            raise ChatTemplate.missing()
        return self.chat_template.render(messages, add_generation_prompt)


@contextlib.contextmanager
def _naming_the_file(path: Path) -> Iterator[None]:
    """Tell what the library finds wrong with its file when it is first used.

    It panics then, which is no ``Exception``: a post-processor may name tokens that it does not
    have.
    """
    try:
        yield
    except BaseException as failure:
        if isinstance(failure, Exception) or type(failure).__name__ == "PanicException":
            raise TokenizerError(
                f"{path} is damaged: its tokenizer fails on a text, with {str(failure)!r}.",
                "Download that file again, or give prompts as token ids.",
            ) from None
        raise


def _settings(directory: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).exists():
            settings |= read_json(directory / name, TokenizerError)
    return settings


def _token_text(value: Any) -> str | None:
    # Either the text itself or an object that also says how to strip around it.
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


class IncrementalDetokenizer:
    """Turns tokens into text as they come, without ever taking a character back.

    A character may be spread over several tokens, and a token's text may depend on the one before
    it (a leading space). So each step decodes a short tail twice, with and without the new tokens,
    and gives out the difference, unless it ends in half a character.

    Parameters
    ----------
    tokenizer : Tokenizer
    prompt_token_ids : list of int
        Their last few give the first token its context.
    """

    CONTEXT = 5

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        start = max(0, len(prompt_token_ids) - self.CONTEXT)
        # A context that begins inside a character would spoil those after it: decoders that fall
        # back to bytes give up a whole run of them for one that does not fit.
        while start and tokenizer.decode(prompt_token_ids[start:]).startswith(
            REPLACEMENT_CHARACTER
        ):
            start -= 1
        self._ids = list(prompt_token_ids[start:])
        self._context_start = 0
        self._shown = len(self._ids)

    def push(self, token_id: int) -> str:
        """Add a token and return the text that became certain, perhaps none.

        Parameters
        ----------
        token_id : int

        Returns
        -------
        str
        """
        self._ids.append(token_id)
        text = self._pending()
        if not text or text.endswith(REPLACEMENT_CHARACTER):
            return ""
        self._context_start, self._shown = self._shown, len(self._ids)
        return text

    def flush(self) -> str:
        """Return what was held back, half a character included: no more tokens will come."""
        text = self._pending()
        self._shown = len(self._ids)
        return text

    def _pending(self) -> str:
        before = self._tokenizer.decode(self._ids[self._context_start : self._shown])
        after = self._tokenizer.decode(self._ids[self._context_start :])
        if not after.startswith(before):
            # A prompt may end inside a character, of which these tokens are the rest: what stood
            # for it is longer than the character.
            before = before.rstrip(REPLACEMENT_CHARACTER)
        return after[len(before) :]
