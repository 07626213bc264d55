"""``python -m llm_numba``: the ``llm-numba`` command."""

from llm_numba.cli import main

if __name__ == "__main__":
    main()
