"""``llm-numba cache``: where compiled kernels are, how many, and their removal."""

import json

import pytest

from llm_numba.runtime.cubins import Cubin, CubinCache


@pytest.fixture
def kept(tmp_path, monkeypatch) -> CubinCache:
    monkeypatch.setenv("LLM_NUMBA_CACHE", str(tmp_path / "cubins"))
    cache = CubinCache(tmp_path / "cubins")
    for key in ("a", "b"):
        cache.write(key, Cubin("entry", False, b"code" * 1000))
    return cache


def test_it_says_where_and_how_many(cli, kept):
    result = cli.invoke("cache")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines == [str(kept.directory), "2 kernels, 8.1 KiB of at most 512.0 MiB"]


def test_it_removes_them_on_demand_only(cli, kept):
    cli.invoke("cache")
    assert len(kept.files()) == 2
    result = cli.invoke("cache", "--clear")
    assert "0 kernels" in result.stdout
    assert "2 kernels removed" in result.stderr
    assert kept.files() == []


def test_json_has_the_figures(cli, kept):
    found = json.loads(cli.invoke("cache", "--json").stdout)
    assert found["kernels"] == 2
    assert found["bytes"] == sum(path.stat().st_size for path in kept.files())
    assert json.loads(cli.invoke("cache", "--clear", "--json").stdout)["removed"] == 2


def test_a_directory_that_is_not_there_yet_is_empty(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_NUMBA_CACHE", str(tmp_path / "new"))
    assert "0 kernels" in cli.invoke("cache").stdout
    assert not (tmp_path / "new").exists()


def test_switched_off_it_says_so(cli, monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_CACHE", "off")
    assert "switches it off" in cli.invoke("cache").stderr
    assert json.loads(cli.invoke("cache", "--json").stdout) == {"directory": None}
