"""Stations have the same parts, rooms of the map are there, costs are those of a profiled step."""

import json
import re
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from llm_numba.bench.profile_report import from_json, rows_of
from llm_numba.models import load_config, resolve_model

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "walkthrough"
# Beside the way of the data: no kernel, nothing to count.
ASIDE = {"index", "weights", "streaming"}
STATIONS = sorted(path.stem for path in PAGES.glob("*.md") if path.stem not in ASIDE)
PARTS = (
    "The formula", "The (?:kernel|code)", "What it costs", "Measured", "What others get wrong",
    "Questions", "In the code", "Exercise",
)  # fmt: skip
MEASURED = r"```\{(?:station-measured|bench-table|bench-bars|pipeline-bubbles)\}"


def section(text: str, title: str) -> str:
    return re.split(rf"^## {title}$", text, flags=re.MULTILINE)[1].partition("\n## ")[0]


@pytest.mark.parametrize("station", STATIONS)
def test_a_station_has_all_parts_in_order(station):
    text = (PAGES / f"{station}.md").read_text()
    places = [re.search(rf"^## {part}$", text, re.MULTILINE) for part in PARTS]
    assert all(places), [part for part, place in zip(PARTS, places, strict=True) if not place]
    assert all(one.start() < other.start() for one, other in pairwise(places))
    assert "```{figure-of}" in text
    assert "$$" in section(text, PARTS[0]) or "\n    slot = " in section(text, PARTS[0])
    assert "```{literalinclude} ../../llm_numba/" in section(text, PARTS[1])
    assert re.search(r"```\{(\w+-cost|literalinclude)\}", section(text, PARTS[2]))
    assert re.search(MEASURED, section(text, PARTS[3]))
    assert re.search(r"[Vv]erdict(?:\]\(.*\))?:\s+\*\*", section(text, PARTS[4]))
    assert section(text, PARTS[5]).count(":::{question} ") == 3
    assert "{src}`" in section(text, PARTS[6])
    assert re.search(r"exercises/check\.py \w+|#exercise\)", section(text, PARTS[7]))


def test_the_first_page_of_the_walkthrough_leads_to_all_stations():
    text = (PAGES / "index.md").read_text()
    assert sorted(set(re.findall(r"\| \[.*\]\((.*)\.md\)", text))) == STATIONS


def test_every_drawing_and_image_has_an_alternative_text():
    drawn = r"^```\{(?:figure-of|bench-bars|plan-sweep|image|figure)\}[^\n]*\n(.*?)^```"
    for path in (ROOT / "docs").glob("**/*.md"):
        if "_build" in path.parts:
            continue
        text = path.read_text()
        for options in re.findall(drawn, text, re.DOTALL | re.MULTILINE):
            assert re.search(r"^:alt: \S", options, re.MULTILINE), path
        assert not re.search(r"!\[\]\(|<img(?![^>]* alt=)", text), path


def test_each_room_of_the_map_opens_a_module_or_a_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from figures.house import rooms

    drawing = rooms()
    addresses = [f"{number}.html" for number in range(len(drawing.links))]
    svg = drawing.svg("a map", addresses)
    assert re.findall(r'<a href="([^"]*)" aria-label="\w', svg) == addresses
    assert 'role="group"' in svg  # links in an image cannot be reached
    for target in drawing.links:
        kind, _, name = target.rpartition(":")
        assert (ROOT / "docs" / f"{name}.md").exists() if kind else find_spec(name), target


@pytest.mark.parametrize("model", ["llama-3-8b", "llama-3.2-1b"])
def test_what_a_station_costs_is_what_a_profile_counted(model, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from station_costs import OPERATIONS, Asked, cost_of_step

    (path,) = (ROOT / "docs" / "results").glob(f"profile_*_{model}.json")
    config = load_config(resolve_model(f"random:{model}"))
    compared = set()
    for profile in map(from_json, json.loads(path.read_text())["results"]):
        integers = 4 * config.num_layers * profile.shape.num_tokens
        # Positions, slots, the sequence's blocks of 16 tokens, its length and where it starts.
        integers *= 3 + profile.shape.context // 16
        # And a counter for each head, where pieces of a context are joined.
        integers += 4 * config.num_layers * profile.shape.batch * config.num_heads
        for row in rows_of(profile):
            if row.label not in OPERATIONS:
                continue
            compared.add(row.label)
            traffic, flops = cost_of_step(row.label, Asked(config, profile.shape))
            assert (traffic.weights, traffic.kv) == (row.traffic.weights, row.traffic.kv)
            assert 0 <= row.traffic.activations - traffic.activations <= integers, row.label
            if row.flops:
                assert flops == row.flops, row.label
    assert compared == OPERATIONS.keys() - {"rms_norm"}
