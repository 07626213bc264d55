"""``llm-numba demo``: a first look at the bundled model."""

import os
import shutil
import sys
from pathlib import Path

from llm_numba.cli.chat import Conversation
from llm_numba.cli.console import notes, styled
from llm_numba.cli.options import ModelOptions

MESSAGES = (
    "Tell me a story about something that is lost.",
    "Who lost it?",
    "Where was it found?",
)
_NEXT = (
    ("chat", "talk with it yourself"),
    ('generate "Mia had a red ball."', "let it go on with your text"),
    ("models storyteller", "see what its files hold"),
    ("microscope transpose", "see what a GPU kernel costs, line by line"),
    ("bench cpu", "measure it on this machine"),
    ("doctor", "see what else works here: GPU, MPI"),
)


def demo() -> None:
    """Tell a story with the bundled model and ask it questions about it."""
    from llm_numba.engine import SamplingParams

    llm = ModelOptions().load()
    # Greedy: everybody sees the same story.
    params = SamplingParams(temperature=0.0, max_tokens=None)
    conversation = Conversation(llm, params)
    for number, message in enumerate(MESSAGES):
        notes().print(styled(f"{'' if number == 0 else chr(10)}>>> {message}", "bold cyan"))
        conversation.take(message)
        if number == 0:
            conversation.print_stats()
    show_next()


def show_next() -> None:
    """Print what to try next, as commands that work as they stand."""
    program = command_name()
    width = max(len(arguments) for arguments, _ in _NEXT)
    console = notes()
    console.print(styled("\nTry next:", "bold"))
    for arguments, what in _NEXT:
        line = styled(f"  {program} {arguments:{width}}  ", "cyan").append(what, "not bold default")
        console.print(line, soft_wrap=True)


def command_name() -> str:
    """Return how to call this command from here: by name, or by its path in the environment."""
    if shutil.which("llm-numba"):
        return "llm-numba"
    script = Path(sys.executable).with_name("llm-numba")
    relative = os.path.relpath(script)
    return str(script) if relative.startswith("..") else relative
