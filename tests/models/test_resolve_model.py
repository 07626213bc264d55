"""A model's name: bundled, a directory, a hub id, or a mistake."""

import fnmatch
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm_numba import LLM
from llm_numba.errors import ModelNotFoundError
from llm_numba.models import bundled_models, loading, resolve_model


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-in for the models that come with the package: one, "fabulist"."""
    directory = tmp_path / "bundled" / "fabulist"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    monkeypatch.setattr(loading, "BUNDLED_DIR", directory.parent)
    return directory


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """Stand-in for `huggingface_hub`, with a download that a test gives it."""

    def install(snapshot_download) -> None:
        module = SimpleNamespace(snapshot_download=snapshot_download)
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)

    return install


def test_a_bundled_model_goes_by_its_name(bundle: Path):
    assert bundled_models() == ["fabulist"]
    assert resolve_model("fabulist") == bundle


def test_a_bundled_name_counts_before_a_directory_of_that_name(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "fabulist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("fabulist") == bundle
    assert resolve_model("./fabulist") == Path("fabulist")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_directory_goes_by_its_path(tmp_path: Path, kind):
    assert resolve_model(kind(tmp_path)) == tmp_path


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert resolve_model("~/mine") == tmp_path / "mine"


def test_a_directory_of_two_parts_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert resolve_model("owner/name") == Path("owner/name")


def test_a_file_is_told_from_a_directory(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelNotFoundError, match="is a file, not a directory") as caught:
        resolve_model(path)
    assert str(path) in caught.value.cause


@pytest.mark.parametrize(
    "name", ["nonsense", "no such model", "./owner/name", "/a/b", "a/b/c", "x" * 5000, "a\0b"]
)
def test_nonsense_is_refused_with_what_is_bundled(bundle: Path, name):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(name)
    assert caught.value.cause.startswith(f"There is no model {name!r}")
    assert "Bundled: fabulist" in caught.value.remedy


def test_a_path_object_is_never_looked_up_on_the_hub(bundle: Path, hub):
    def forbidden(*args, **options):
        raise AssertionError("asked the hub for a path")

    hub(forbidden)
    with pytest.raises(ModelNotFoundError, match="There is no model"):
        resolve_model(Path("owner/name"))


def test_llm_reports_it_too(bundle: Path):
    with pytest.raises(ModelNotFoundError, match="There is no model 'nonsense'"):
        LLM("nonsense")


# -- The hub ----------------------------------------------------------------------------------


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelNotFoundError, match="need huggingface_hub") as caught:
        resolve_model("owner/name")
    assert caught.value.remedy == "Run: pip install 'llm-numba[hub]'."


@pytest.mark.parametrize("failure", [OSError("no route to host\nmany more lines"), RuntimeError()])
def test_without_a_network_the_first_line_of_the_reason_is_given(hub, failure):
    def unreachable(*args, **options):
        raise failure

    hub(unreachable)
    with pytest.raises(ModelNotFoundError, match="'owner/name', and the hub gave no") as caught:
        resolve_model("owner/name")
    assert (str(failure).splitlines() or ["RuntimeError"])[0] in caught.value.cause
    assert "many more lines" not in caught.value.cause


def test_a_download_asks_for_no_pickle_and_no_code(hub, tmp_path: Path):
    asked = {}

    def download(hub_id, **options):
        asked.update(options, hub_id=hub_id)
        return str(tmp_path)

    hub(download)
    assert resolve_model("owner/name") == tmp_path
    assert asked["hub_id"] == "owner/name"

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in asked["allow_patterns"])

    for name in ("config.json", "model-00001-of-00002.safetensors", "chat_template.jinja"):
        assert wanted(name)
    for name in ("pytorch_model.bin", "modeling_x.py", "original/consolidated.00.pth", "x.pkl"):
        assert not wanted(name)


@pytest.mark.parametrize("name", ["~nosuchuserx/model", "~nosuchuserx"])
def test_the_home_of_nobody_is_no_model(name):
    with pytest.raises(ModelNotFoundError):
        LLM(name)


def test_an_empty_name_is_no_model():
    with pytest.raises(ModelNotFoundError):
        LLM("")
