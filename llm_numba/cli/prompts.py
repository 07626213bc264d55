"""Where prompts come from: arguments, a file, a file with one prompt a line, or a pipe."""

import sys
from pathlib import Path

from llm_numba.cli.console import notes, styled
from llm_numba.errors import PromptError


def read_prompts(
    arguments: list[str],
    file: Path | None,
    prompts_file: Path | None,
    prompt_tokens: list[str] | None = None,
) -> list[str | list[int]]:
    """Collect the prompts of a command line, in the order in which they were given.

    Parameters
    ----------
    arguments : list of str
        Prompts from the command line itself.
    file : Path or None
        A text that is one prompt.
    prompts_file : Path or None
        A text with one prompt a line; empty lines are skipped.
    prompt_tokens : list of str, optional
        Prompts as token ids, separated by commas or spaces.

    Returns
    -------
    list of (str or list of int)
        At least one prompt. Without any of the four, standard input is one prompt. The line
        break that ends a file is not part of its prompt, as in the shell's ``$(cat file)``.

    Raises
    ------
    PromptError
        If there is no prompt, its file cannot be read as UTF-8 text, or token ids are no numbers.
    """
    prompts: list[str | list[int]] = [_checked(argument) for argument in arguments]
    if file is not None:
        prompts.append(_without_last_break(_read(file)))
    if prompts_file is not None:
        prompts += [line for line in _read(prompts_file).splitlines() if line.strip()]
        if not prompts:
            raise PromptError(
                f"{prompts_file} holds no prompt.", "Write one prompt on each of its lines."
            )
    prompts += [_token_ids(text) for text in prompt_tokens or []]
    if prompts:
        return prompts
    if sys.stdin.isatty():
        raise PromptError(
            "There is no prompt.",
            'Give one: llm-numba generate "Once upon a time", --file, --prompts-file or a pipe.',
        )
    from llm_numba.parallel.launch import launched

    if launched():
        # Of some launchers it never ends, and the wait would look like slow work.
        words = (
            "Reading the prompt from standard input. If nothing comes, give it with --prompt or"
            " --file: mpirun may not pass on where standard input ends."
        )
        notes().print(styled(words, "dim"), soft_wrap=True)
    return [_without_last_break(_decode(sys.stdin.buffer.read(), "standard input"))]


def as_text(prompt: str | list[int]) -> str:
    """Return a prompt, or an answer, as it is written out: token ids each with a space behind it.

    Parameters
    ----------
    prompt : str or list of int
    """
    return prompt if isinstance(prompt, str) else "".join(f"{token} " for token in prompt)


def _token_ids(text: str) -> list[int]:
    try:
        return [int(number) for number in text.replace(",", " ").split()]
    except ValueError:
        raise PromptError(
            f"--prompt-tokens {text!r} is no list of token ids.",
            "Write whole numbers with commas between them: --prompt-tokens 1,2,3.",
        ) from None


def _read(path: Path) -> str:
    try:
        return _decode(path.read_bytes(), str(path))
    except OSError as error:
        raise PromptError(
            f"The prompt file {path} cannot be read: {error.strerror}.",
            "Give the path of a readable text file.",
        ) from error


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"The prompt in {source} is not UTF-8 text: byte {error.start} is"
            f" 0x{data[error.start]:02x}.",
            "Convert it, for example with iconv -t UTF-8.",
        ) from error


def _checked(argument: str) -> str:
    # Python hides undecodable bytes of the command line in lone surrogates.
    return _decode(argument.encode("utf-8", "surrogateescape"), "the arguments")


def _without_last_break(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
