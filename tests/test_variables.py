"""The environment is read in one place, by a table that says what each variable means."""

import re
from pathlib import Path

import pytest

from llm_numba import variables

PACKAGE = Path(variables.__file__).parent


def test_a_variable_is_read(monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_CACHE", "there")
    assert variables.read("LLM_NUMBA_CACHE") == "there"
    monkeypatch.delenv("LLM_NUMBA_CACHE")
    assert variables.read("LLM_NUMBA_CACHE") is None


def test_what_the_table_lacks_cannot_be_read():
    for name in ("HOME", "XDG_CACHE_HOMES", "NUMB", "*"):
        with pytest.raises(KeyError, match="table of variables"):
            variables.read(name)
    with pytest.raises(KeyError):
        variables.beginning_with("LLM_")


def test_a_star_covers_all_that_begin_so(monkeypatch):
    monkeypatch.setenv("NUMBA_OPT", "0")
    monkeypatch.setenv("NUMBERS", "7")
    assert variables.read("NUMBA_OPT") == "0"
    found = variables.beginning_with("NUMBA_")
    assert found["NUMBA_OPT"] == "0"
    assert all(name.startswith("NUMBA_") for name in found)


def test_the_environment_is_passed_on_without_what_is_not_for_others(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("OTHER", "1")
    assert variables.passed_on()["PMI_RANK"] == "3"
    left = variables.passed_on("PMI_", "PMIX_")
    assert "PMI_RANK" not in left
    assert left["OTHER"] == "1"


def test_nothing_else_in_the_package_asks_the_environment():
    asking = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\b(environb?|getenvb?|expandvars)\b", path.read_text())
    }
    assert asking == {"variables.py"}
