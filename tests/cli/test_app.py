"""The command as a whole: help, version, wrong usage, and what it does not import."""

import subprocess
import sys

import pytest

import llm_numba
from llm_numba.cli import console

COMMANDS = ["demo", "generate", "chat", "models", "doctor", "shard", "eval", "bench"]


def test_version(cli):
    assert cli.invoke("--version").stdout == f"llm-numba {llm_numba.__version__}\n"


def test_help_lists_every_command(cli):
    result = cli.invoke("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f" {name} " in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(cli, name):
    result = cli.invoke(name, "-h")
    assert result.exit_code == 0
    assert result.stdout.strip()


@pytest.mark.parametrize("arguments", [["nonsense"], ["generate", "--nonsense"], ["bench", "gpu"]])
def test_wrong_usage_exits_with_2(cli, arguments):
    result = cli.invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "No such" in result.stderr


def test_help_imports_nothing_heavy(cli):
    source = (
        "import sys; sys.argv = ['llm-numba', '--help']\n"
        "from llm_numba.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'tokenizers', 'safetensors', 'jinja2', 'numba', 'cupy', 'mpi4py'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=cli.environment
    )
    assert done.stderr == "[]\n"


def test_bugs_show_their_traceback(cli, tiny):
    # A wrong type inside, as a bug would produce it, is not dressed up as a user's mistake.
    source = (
        "import sys; sys.argv = ['llm-numba', 'generate', 'a']\n"
        "import llm_numba.engine as engine\n"
        "engine.LLM = lambda *a, **k: 1 / 0\n"
        "from llm_numba.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=cli.environment
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_control_characters_do_not_reach_a_terminal():
    assert console.printable("a\x1b[2Jb\x07\x9bc\n\té") == "a[2Jbc\n\té"


def test_markup_in_an_error_is_text(capsys):
    console.report(llm_numba.LLMNumbaError("No [bold]file[/bold].", "Give [red]one."))
    assert capsys.readouterr().err == "Error: No [bold]file[/bold].\n  Fix: Give [red]one.\n"
