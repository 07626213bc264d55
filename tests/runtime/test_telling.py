"""What was chosen is told once of each kind, and only to whoever listens."""

import pytest

from llm_numba.runtime import listen, tell


@pytest.fixture
def told():
    heard = []
    listen(heard.append)
    yield heard
    listen(None)


def test_each_kind_is_told_once(told):
    for kind, sentence in [("a", "one"), ("b", "two"), ("a", "three"), (("a", 1), "four")]:
        tell(kind, sentence)
    assert told == ["one", "two", "four"]


def test_who_listens_later_is_told_again(told):
    tell("a", "one")
    later = []
    listen(later.append)
    tell("a", "two")
    assert (told, later) == (["one"], ["two"])


def test_nobody_need_listen():
    listen(None)
    tell("a", "one")
