"""Chat templates: the Jinja program that a checkpoint brings to lay out a conversation.

It comes from strangers, so it runs in Jinja's immutable sandbox: it can read the messages and can
neither change them nor reach into Python.
"""

import datetime
import json
from pathlib import Path
from typing import Any, NoReturn

from llm_numba.errors import ChatTemplateError
from llm_numba.models.fields import read_text


class ChatTemplate:
    """A compiled chat template.

    Parameters
    ----------
    source : str
        Jinja.
    where : str
        The file it comes from, for errors.
    bos_token, eos_token : str
        Given to the template.

    Raises
    ------
    ChatTemplateError
        If the source is not valid Jinja.
    """

    def __init__(self, source: str, where: str, bos_token: str, eos_token: str) -> None:
        # Here, not above: most programs never chat, and Jinja takes a while to import.
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._where = where
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        # As Transformers sets it up, so that a template means the same in both.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as failure:
            raise ChatTemplateError(
                f"The chat template in {where} is not valid, line {failure.lineno}: "
                f"{failure.message}.",
                "Download that file again, or use `generate` with a plain prompt.",
            ) from None

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        """Lay out a conversation; see :meth:`Tokenizer.apply_chat_template`."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._tokens
            )
        except Exception as failure:  # whatever a stranger's program may raise
            raise ChatTemplateError(
                f"The chat template in {self._where} refuses this conversation: {failure}.",
                "Check the order and the roles of the messages (user, assistant, user, ...).",
            ) from None

    @staticmethod
    def missing() -> ChatTemplateError:
        """Build the error for a model without a template."""
        return ChatTemplateError(
            "This model has no chat template, so it was probably not trained to chat.",
            "Use `generate` with a plain prompt, or add a chat_template.jinja to its directory.",
        )


def find_chat_template(
    directory: Path, settings: dict[str, Any], bos_token: str, eos_token: str
) -> ChatTemplate | None:
    """Find a checkpoint's chat template, in its own file or in ``tokenizer_config.json``.

    Parameters
    ----------
    directory : Path
    settings : dict
        The contents of ``tokenizer_config.json``.
    bos_token, eos_token : str

    Returns
    -------
    ChatTemplate or None

    Raises
    ------
    ChatTemplateError
        If there is one and it is not valid.
    """
    path = directory / "chat_template.jinja"
    if path.exists():
        source = read_text(path, ChatTemplateError)
        return ChatTemplate(source, str(path), bos_token, eos_token)
    source = settings.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in source}
        source = named.get("default")
    if not isinstance(source, str):
        return None
    return ChatTemplate(source, str(directory / "tokenizer_config.json"), bos_token, eos_token)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter would escape <, > and & for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise ValueError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)
