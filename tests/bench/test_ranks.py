"""``llm-numba bench ranks``: what is timed."""

from llm_numba.bench.ranks import RankSettings, measure
from llm_numba.models import Execution, load_config
from llm_numba.models.random import resolve_shape
from llm_numba.parallel import Mesh, run_ranks


def test_a_step_a_prompt_and_a_load_are_timed_on_rank_0(tiny_dir):
    settings = RankSettings(
        str(tiny_dir), "cpu", tp=2, batches=(1, 3), context=4, steps=5, warmup=2, prompt=20,
        repeats=2, requests=3, request_prompt=6, new_tokens=4,
    )  # fmt: skip

    first, other = run_ranks(2, lambda world: list(measure(Mesh(2, world=world), settings)))
    assert other == []
    names = [result.name for result in first]
    split = "tp=2/pp=1/threads"
    steps = [f"decode/{split}/batch={batch}" for batch in (1, 3)]
    assert names == [*steps, f"prefill/{split}/tokens=20", f"load/{split}/requests=3"]
    assert [result.statistic.n for result in first] == [5, 5, 2, 2]
    assert first[1].shape["tokens_per_second"] > 0


def test_switches_are_on_in_the_model_that_is_timed():
    execution = RankSettings("x", switches=("close_with_norm",)).options()["execution"]
    assert execution == Execution(close_with_norm=True)
    assert RankSettings("x").options()["execution"] == Execution()


def test_models_have_positions_for_what_is_timed_by_default():
    for shape in ("llama-3-8b", "llama-3-70b"):
        config = load_config(resolve_shape(shape))
        assert RankSettings(shape).options()["max_model_len"] <= config.longest_context
