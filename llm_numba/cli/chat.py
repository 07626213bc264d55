"""``llm-numba chat``: a conversation; each turn goes on from the keys and values of the last."""

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llm_numba.cli.console import notes, report, styled
from llm_numba.cli.options import (
    EngineOptions,
    ModelOptions,
    RankOptions,
    SamplingOptions,
    takes_groups,
)
from llm_numba.cli.prose import Prose
from llm_numba.cli.stats import print_request
from llm_numba.errors import LLMNumbaError, PromptError

if TYPE_CHECKING:
    from llm_numba.engine import LLM, RequestOutput, SamplingParams

_PROMPT = ">>> "
_HELP = "/reset forgets the conversation, /stats shows speeds, /exit or Ctrl-D leaves."


@takes_groups
def chat(
    *,
    system: Annotated[
        str | None, Option(help="A system message that opens the conversation.")
    ] = None,
    stats: Annotated[bool, Option("--stats", help="Show speeds after each answer.")] = False,
    sampling: SamplingOptions,
    model: ModelOptions,
    engine: EngineOptions,
    ranks: RankOptions,
) -> None:
    """Talk with a model, turn by turn.

    Each line is a message. /reset forgets the conversation, /stats shows speeds, /exit or Ctrl-D
    leaves. Ctrl-C stops an answer; at the prompt it leaves, with exit code 130. Messages may come
    from a pipe, a line each.
    """
    with ranks.join() as mesh:
        if not mesh.is_leader:
            model.load(mesh=mesh, **engine.arguments()).follow()
            return
        sampling.check()
        with model.load(mesh=mesh, **engine.arguments()) as llm:
            params, interactive = sampling.params(llm), sys.stdin.isatty()
            if interactive:
                notes().print(styled(f"Talking with {model.model}. {_HELP}", "dim"), soft_wrap=True)
            talk(Conversation(llm, params, system, interactive=interactive, always_stats=stats))


def talk(conversation: "Conversation") -> None:
    """Answer line after line, until there are no more.

    Parameters
    ----------
    conversation : Conversation
    """
    interactive = conversation.interactive
    while (line := read_line(interactive)) is not None and line.strip() != "/exit":
        try:
            conversation.take(line.strip())
        except LLMNumbaError as error:
            # A person can mend a message; a script that goes on would talk past the error.
            if not interactive:
                raise
            report(error)
            if isinstance(error, PromptError):
                notes().print(styled("/reset forgets the conversation and makes room.", "dim"))


def read_line(interactive: bool) -> str | None:
    """Return the next message, ``None`` at the end of the input.

    Parameters
    ----------
    interactive : bool
        Show a prompt, with the line editing and history of readline.
    """
    if not interactive:
        return sys.stdin.readline() or None
    import readline  # noqa: F401  input() edits lines once it is loaded

    try:
        return input(_PROMPT)
    except EOFError:
        notes().print()
        return None
    except KeyboardInterrupt:
        notes().print()
        raise


class Conversation:
    """The messages so far, and how to answer the next.

    Parameters
    ----------
    llm : LLM
        The model.
    params : SamplingParams
        For every answer.
    system : str or None
        A message that opens the conversation, kept by /reset.
    interactive : bool
        Ctrl-C stops an answer, not the conversation.
    always_stats : bool
        Show speeds after each answer.

    Attributes
    ----------
    interactive : bool
    """

    def __init__(
        self,
        llm: "LLM",
        params: "SamplingParams",
        system: str | None = None,
        *,
        interactive: bool = False,
        always_stats: bool = False,
    ) -> None:
        self._llm = llm
        self._params = params
        self._opening = [{"role": "system", "content": system}] if system else []
        self.interactive = interactive
        self._always_stats = always_stats
        self._messages = list(self._opening)
        self._last: RequestOutput | None = None

    def take(self, line: str) -> None:
        """Carry out a command, or answer a message."""
        if line == "/reset":
            self._reset()
        elif line == "/stats":
            self.print_stats()
        elif line.startswith("/"):
            notes().print(styled(f"There is no {line.split()[0]}. {_HELP}", "yellow"))
        elif line:
            self._answer(line)

    def print_stats(self) -> None:
        """Show the speed of the last answer."""
        if self._last is None:
            notes().print(styled("Nothing was answered yet.", "dim"))
        else:
            print_request(self._last)

    def _answer(self, message: str) -> None:
        messages = [*self._messages, {"role": "user", "content": message}]
        stream = self._llm.stream_chat(messages, self._params)
        prose, answer, stopped = Prose(), "", False
        try:
            with closing(stream):
                for chunk in stream:
                    prose.add(chunk.text)
                    answer += chunk.text
                    self._last = chunk.output or self._last
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            stopped = True
        finally:
            prose.end()
        # What was said of a stopped answer stays part of the conversation.
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        if stopped:
            notes().print(styled("(stopped)", "dim"))
        elif self._always_stats:
            self.print_stats()

    def _reset(self) -> None:
        self._messages = list(self._opening)
        self._last = None
        notes().print(styled("The conversation starts over.", "dim"))
