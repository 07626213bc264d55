"""Claims: the figures that the answers rest on, worked out another way."""

import re

from llm_numba.planner.claims import answer_claims


def answers(table):
    return {claim.words: claim for claim in answer_claims(table)}


def about(table, word):
    (claim,) = (claim for words, claim in answers(table).items() if word in words)
    return claim


def test_each_claim_has_figures_and_a_verdict(table):
    claims = answer_claims(table)
    assert len(claims) >= 10
    for claim in claims:
        assert re.search(r"\d", claim.found)
        assert claim.verdict
        assert "nan" not in claim.found


def test_70b_has_140_gb_in_16_bits(table):
    # 80 (2 E^2 + 2 E 1024 + 3 E 28672 + 2 E) + 2 V E + E
    E, V = 8192, 128256
    count = 80 * (2 * E**2 + 2 * E * 1024 + 3 * E * 28672 + 2 * E) + 2 * V * E + E
    found = about(table, "12,288").found
    assert f"{count / 1e9:.1f} billion" in found
    assert f"{2 * count / 1e9:.0f} GB in 16 bits" in found
    assert round(2 * count / 1e9) == 141


def test_twelve_squares_are_those_of_gpt2(table):
    found = about(table, "12 H²").found
    assert "12.0 (gpt2)" in found
    assert f"{(2 + 0.25 + 3 * 3.5):.1f} (llama-3-70b)" in found


def test_gathering_moves_more(table):
    # 7/8 of (E + E + F + E) numbers of two bytes, against 4 x 7/8 of E.
    found = about(table, "all-gather")
    assert f"{7 / 8 * 2 * (3 * 8192 + 28672) / 1e3:.0f} kB" in found.found
    assert f"{7 / 8 * 2 * 4 * 8192 / 1e3:.0f} kB" in found.found
    assert "1.6 times" in found.verdict


def test_1200_requests_are_more_multiply_adds_than_the_cards_have(table):
    found = about(table, "1,200").found
    per_token = 2 * 40 * (4 * 5120**2 + 3 * 5120 * 13824)
    needed = per_token * 38400 / 4e12
    assert f"{needed:,.0f} of each card" in found
    assert needed > 165
