"""Chat templates: the Jinja program that a checkpoint brings to lay out a conversation.

It comes from strangers, so it runs in Jinja's immutable sandbox: it can read the messages and can
neither change them nor reach into Python. And it has a limit of time, since three loops inside each
other may take a year.
"""

import contextlib
import datetime
import json
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llm_numba.errors import ChatTemplateError
from llm_numba.models.fields import read_text

if TYPE_CHECKING:
    import jinja2


# One that was written in good faith takes milliseconds.
_TIME_LIMIT_S = 10.0


class ChatTemplate:
    """A chat template, compiled when it is first used.

    Parameters
    ----------
    source : str
        Jinja.
    where : str
        The file it comes from, for errors.
    special_tokens : dict of str to str
        ``bos_token`` and the like, given to the template by these names.
    """

    def __init__(self, source: str, where: str, special_tokens: dict[str, str]) -> None:
        self._source = source
        self._where = where
        self._special_tokens = special_tokens

    @cached_property
    def _template(self) -> "jinja2.Template":
        # Here, not above: most programs never chat, and Jinja takes a while to import.
        import jinja2.sandbox
        from jinja2.ext import loopcontrols

        # As Transformers sets it up, so that a template means the same in both.
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            return environment.from_string(self._source)
        except jinja2.TemplateSyntaxError as failure:
            raise ChatTemplateError(
                f"The chat template in {self._where} is not valid, line {failure.lineno}: "
                f"{failure.message}.",
                "Download that file again, or use `generate` with a plain prompt.",
            ) from None
        except (SyntaxError, RecursionError) as failure:  # of the Python that Jinja makes of it
            raise ChatTemplateError(
                f"The chat template in {self._where} is nested too deeply: {failure}.",
                "Download that file again, or use `generate` with a plain prompt.",
            ) from None

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        """Lay out a conversation.

        Parameters
        ----------
        messages : list of {"role": str, "content": str}
        add_generation_prompt : bool
            End with the words that begin the assistant's turn.

        Returns
        -------
        str

        Raises
        ------
        ChatTemplateError
            If the template is not valid Jinja, refuses the conversation, or does not come to an
            end.
        """
        template = self._template
        import jinja2.exceptions

        try:
            with _time_limit(_TIME_LIMIT_S):
                return template.render(
                    messages=messages,
                    add_generation_prompt=add_generation_prompt,
                    tools=None,
                    documents=None,
                    **self._special_tokens,
                )
        except TimeoutError:
            raise ChatTemplateError(
                f"The chat template in {self._where} did not come to an end within "
                f"{_TIME_LIMIT_S:g} seconds.",
                "Do not trust this checkpoint, or use `generate` with a plain prompt.",
            ) from None
        except jinja2.exceptions.SecurityError as failure:
            raise ChatTemplateError(
                f"The chat template in {self._where} reaches for what no template may touch: "
                f"{_reason(failure)}.",
                "Do not trust this checkpoint, or use `generate` with a plain prompt.",
            ) from None
        except Exception as failure:  # whatever a stranger's program may raise
            raise ChatTemplateError(
                f"The chat template in {self._where} refuses this conversation: "
                f"{_reason(failure)}.",
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
    directory: Path, settings: dict[str, Any], special_tokens: dict[str, str]
) -> ChatTemplate | None:
    """Find a checkpoint's chat template, in its own file or in ``tokenizer_config.json``.

    Parameters
    ----------
    directory : Path
    settings : dict
        The contents of ``tokenizer_config.json``.
    special_tokens : dict of str to str
        See :class:`ChatTemplate`.

    Returns
    -------
    ChatTemplate or None

    Raises
    ------
    ChatTemplateError
        If there is one and it cannot be read.
    """
    path = directory / "chat_template.jinja"
    if path.exists():
        source = read_text(path, ChatTemplateError)
        return ChatTemplate(source, str(path), special_tokens)
    source = settings.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next(
            (
                e.get("template")
                for e in source
                if isinstance(e, dict) and e.get("name") == "default"
            ),
            None,
        )
    if not isinstance(source, str):
        return None
    return ChatTemplate(source, str(directory / "tokenizer_config.json"), special_tokens)


def _generation_tag() -> "type[jinja2.ext.Extension]":
    from jinja2.ext import Extension

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here they pass."""

        tags = frozenset({"generation"})

        def parse(self, parser: "jinja2.parser.Parser") -> "list[jinja2.nodes.Node]":
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter would escape <, > and & for HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Stop Python code that runs longer, by looking at the clock on each of its lines.

    A signal would do so in the main thread alone, and nothing else reaches into a loop.
    """
    end = time.monotonic() + seconds

    def look(frame: Any, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


def _reason(failure: Exception) -> str:
    return str(failure).strip().rstrip(".") or type(failure).__name__


def _raise_exception(message: str) -> NoReturn:
    raise ValueError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)
