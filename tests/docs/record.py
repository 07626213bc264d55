"""Run every listing of the documentation and write down what it prints.

    python tests/docs/record.py [NAME ...]

The pages show these files, and `test_listings.py` holds the listings to them. Without names, the
README's program and its recorded demo are written anew too. Look at what changed before you commit
it.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def printed(*arguments: str, stderr: int = subprocess.PIPE) -> str:
    """Return what a Python process prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, stderr=stderr
    ).stdout


def record(listing: Path) -> None:
    """Write what a listing prints beside it; files by their place in the clone."""
    listing.with_suffix(".out").write_text(printed(str(listing)).replace(f"{ROOT}/", ""))


def record_readme() -> None:
    """Write the README's three blocks: the demo with its notes, the program, what it prints."""
    program = HERE / "listings" / "first_program.py"
    demo = printed("-m", "llm_numba", "demo", stderr=subprocess.STDOUT).partition("\nTry next:")[0]
    blocks = {
        "text demo": "\n".join(textwrap.fill(line, 96) for line in demo.splitlines()) + "\n",
        "python": program.read_text(),
        "text": program.with_suffix(".out").read_text(),
    }
    readme = (ROOT / "README.md").read_text()
    for language, content in blocks.items():
        block = re.compile(rf"^```{language}\n.*?^```$", re.DOTALL | re.MULTILINE)
        filled = f"```{language}\n{content}```"
        readme, count = block.subn(lambda _, filled=filled: filled, readme)
        assert count == 1, f"README.md has {count} blocks ```{language}"
    (ROOT / "README.md").write_text(readme)


if __name__ == "__main__":
    names = sys.argv[1:]
    for path in sorted((HERE / "listings").glob("*.py")):
        if not names or path.stem in names:
            print(path.stem)
            record(path)
    if not names:
        record_readme()
