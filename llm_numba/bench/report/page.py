"""A page of sections, as HTML that needs nothing else, and as Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from llm_numba.bench.tables import Table


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes
    ----------
    svg : str
        An element that says by itself what it shows, to those who cannot see it.
    alt : str
        The same in words, for a page without pictures.
    caption : str
        May be empty.
    """

    svg: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Made:
    """What made the figures above: command, machine, commit, file."""

    words: str


@dataclass(frozen=True)
class Missing:
    """What has no record, and the command that makes one."""

    words: str


Block = str | Table | Picture | Made | Missing


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes
    ----------
    title : str
    blocks : sequence of Block
        Text may hold `code` between backticks.
    level : int
        2 for a machine, 3 for a part of it.
    """

    title: str
    blocks: Sequence[Block]
    level: int = 3


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a page in Markdown; pictures are told in words.

    Parameters
    ----------
    title : str
    sections : sequence of Section
    """
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts.append(f"{'#' * section.level} {_plain(section.title)}")
        parts += filter(None, map(_markdown, section.blocks))
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Table():
            return _plain("\n".join(block.markdown()))
        case Picture():
            return f"*{_plain(block.alt)}*"
        case Missing():
            return f"> {_plain(block.words)}"
        case Made():
            return f"*{_plain(block.words)}*"
        case _:
            return _plain(block)


def _plain(text: str) -> str:
    """Leave no beginning of an element of HTML."""
    return text.replace("<", "&lt;")


def html(title: str, sections: Sequence[Section]) -> str:
    """Return a page in HTML, with its style and its pictures, and without any script.

    Parameters
    ----------
    title : str
    sections : sequence of Section
    """
    head = files("llm_numba.bench")
    style = "".join(
        head.joinpath(*name).read_text(encoding="utf-8")
        for name in (("drawing.css",), ("report", "report.css"))
    )
    contents = "".join(
        f'<li class="level{section.level}"><a href="#s{i}">{escape(section.title)}</a></li>'
        for i, section in enumerate(sections)
    )
    body = "\n".join(_section(i, section) for i, section in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n<nav><ul>{contents}</ul></nav>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _section(number: int, section: Section) -> str:
    heading = f'<h{section.level} id="s{number}">{_inline(section.title)}</h{section.level}>'
    return "\n".join([heading, *map(_block, section.blocks)])


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Picture():
            caption = f"<figcaption>{_inline(block.caption)}</figcaption>" if block.caption else ""
            return f'<figure class="drawing"><div>{block.svg}</div>{caption}</figure>'
        case Missing():
            return f'<p class="missing">{_inline(block.words)}</p>'
        case Made():
            return f'<p class="made">{_inline(block.words)}</p>'
        case _:
            return f"<p>{_inline(block)}</p>" if block else ""


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    kind = ' class="words"' if table.words else ""
    heads = "".join(f'<th scope="col">{_inline(each)}</th>' for each in table.headings)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>\n" for row in table.rows
    )
    # What is wide scrolls by itself, by keyboard too.
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(table.headings[0])}">'
        f"<table{kind}>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>"
    )


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
