"""Word wrap of streamed text: the same lines, however the text is cut into pieces."""

import textwrap

import pytest

from llm_numba.cli.prose import Prose

STORY = (
    "Once upon a time there was a girl named Mia. Mia lived in a small house by the river.\n\n"
    "One day an extraordinarily-long-word-that-fits-on-no-line-at-all came, and Tom said hello."
)


def show(pieces, capsys, width):
    prose = Prose(width)
    for piece in pieces:
        prose.add(piece)
    prose.end()
    return capsys.readouterr().out


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_lines_break_as_if_the_text_came_whole(capsys, size):
    pieces = [STORY[i : i + size] for i in range(0, len(STORY), size)]
    expected = "\n".join(
        textwrap.fill(line, 30, break_long_words=False, break_on_hyphens=False)
        for line in STORY.split("\n")
    )
    assert show(pieces, capsys, 30) == expected + "\n"


def test_into_a_pipe_the_text_goes_unchanged_and_at_once(capsys):
    prose = Prose()
    prose.add(STORY)
    assert capsys.readouterr().out == STORY
    prose.end()
    assert capsys.readouterr().out == "\n"


def test_a_word_waits_until_it_is_complete(capsys):
    prose = Prose(20)
    prose.add("a wor")
    assert capsys.readouterr().out == "a"
    prose.add("d ")
    assert capsys.readouterr().out == " word"


def test_line_that_is_ended_already_is_not_ended_again(capsys):
    assert show(["done.\n"], capsys, 40) == "done.\n"


def test_nothing_is_no_line(capsys):
    assert show([], capsys, 40) == ""
