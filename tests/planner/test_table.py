"""The kernel table: what the records give, and what is made of it between and beyond."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_numba.errors import LLMNumbaError
from llm_numba.planner import GPUS, KernelTable, find_gpu, find_link, packaged_table
from llm_numba.planner.calibration import calibrate, fit, read_records
from llm_numba.planner.table import Law, ProductLaw, between

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def nearly(found, expected):
    """Compare JSON values; fits may differ in the last digits from one LAPACK to another."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            nearly(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            nearly(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)
    else:
        assert found == expected


def test_the_packaged_table_is_what_the_records_give(table):
    # A new record? python -m llm_numba.planner makes the table anew.
    made = calibrate(read_records(RESULTS, "nvidia-h100-80gb-hbm3"))
    nearly(made.to_json(), table.to_json())


def test_the_table_comes_of_kernels_alone(table):
    assert table.sources
    assert all(each["file"].startswith(("kernels_", "gemm_", "profile_")) for each in table.sources)
    assert all(each["commit"] for each in table.sources)
    assert all(each.law.times for each in table.products)


def records_with(benchmark, results):
    """The records of an H100, of one benchmark with other results in place of those of a name."""
    names = {each["name"].rpartition("/")[0] for each in results}
    return [
        each | {"results": [
            *(one for one in each["results"] if one["name"].rpartition("/")[0] not in names),
            *results,
        ]} if each["benchmark"] == benchmark else each
        for each in read_records(RESULTS, "nvidia-h100-80gb-hbm3")
    ]  # fmt: skip


def test_rows_on_tensor_cores_are_taken_from_products_as_models_call_them():
    def result(M, N, K, microseconds):
        shape = {"M": M, "N": N, "K": K, "microseconds": microseconds}
        return {"name": f"linear/bfloat16/{M}x{N}x{K}", "shape": shape, "unit": "TFLOP/s"}

    records = records_with("kernels", [])
    one = calibrate(records).product(1)
    many = [
        result(8, 1000, 1000, 3.0),
        result(8, 2000, 1000, 4.0),
        result(24, 5000, 1000, 1e6 * one.constant + 10.0),
        result(8, 2000, 1000, 99.0) | {"name": "of_cublas/linear/bfloat16/8x2000x1000"},
        result(8, 2000, 1000, 99.0) | {"name": "bias_gelu/bfloat16/8x2000x1000"},
    ]
    table = calibrate(records_with("gemm", many))
    laws = {each.rows: each.law for each in table.products}
    assert list(laws) == [1, 8, 24]
    assert laws[8].constant == pytest.approx(2e-6)
    assert laws[8].slope == pytest.approx(1e-12)
    # One shape alone: the constant of one row, and what is left is the slope.
    assert laws[24].constant == pytest.approx(one.constant)
    assert laws[24].slope == pytest.approx(10e-6 / 5e6)
    assert table.product(1) == one


def attention_of(step):
    """The records of an H100, with times of one kernel for prompts, beside those of profiles."""
    shapes = [{"flops": each, "microseconds": 5.0 + each / 1e8} for each in (1e9, 4e9)]
    name = f"attention/bfloat16/{step}"
    records = records_with(
        "kernels", [{"name": name, "shape": shape, "unit": "TFLOP/s"} for shape in shapes]
    )
    return [
        each | {"results": [
            one for one in each["results"] if not one["name"].startswith("attention_8192/")
        ]}
        for each in records
    ]  # fmt: skip


def test_a_prompt_attends_as_models_were_profiled_too():
    law = calibrate(attention_of("tensor")).prompt_attention
    assert {time.split()[-1] for time in law.times} == {
        "attention/bfloat16/tensor",
        "paged_attention",
    }


@pytest.mark.parametrize("step", ["tensor", "paged"])
def test_a_prompt_attends_with_the_fastest_kernel_that_was_timed(step):
    records = [
        each | {"results": [one for one in each["results"] if one.get("phase") != "prefill"]}
        for each in attention_of(step)
    ]
    law = calibrate(records).prompt_attention
    assert {time.split()[-1] for time in law.times} == {f"attention/bfloat16/{step}"}
    assert law.constant == pytest.approx(5e-6)
    assert law.slope == pytest.approx(1e-14)


def test_a_table_is_the_same_after_json(table):
    assert KernelTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_a_law_goes_through_times_that_lie_on_a_line():
    law = fit([(0.0, 2e-6, "a"), (10.0, 3e-6, "b"), (100.0, 12e-6, "c")])
    assert (law.constant, law.slope) == (pytest.approx(2e-6), pytest.approx(1e-7))
    assert law.worst_fit < 1e-9
    assert law.times == ("a", "b", "c")
    assert law.seconds(50) == pytest.approx(7e-6)


def test_between_two_numbers_of_rows_laws_go_in_a_straight_line():
    laws = {1: Law(1.0, 2.0), 33: Law(5.0, 10.0)}
    assert between(laws, 1) == laws[1]
    assert between(laws, 17) == Law(3.0, 6.0)
    assert between(laws, 33) == laws[33]
    assert between(laws, 66) == Law(5.0, 20.0)


def test_many_rows_on_tensor_cores_are_scaled_by_these(table):
    many = [ProductLaw(rows, "tensor", Law(1e-6, 1e-12)) for rows in (32, 2048)]
    scaled = replace(table, products=(table.products[0], *many)).scaled(find_gpu("a100"))
    memory, tensor = 3.35e12 / 2.039e12, 989e12 / 312e12
    assert [each.law.slope for each in scaled.products[1:]] == pytest.approx(
        [memory * 1e-12, tensor * 1e-12]
    )


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_more_rows_are_never_faster(one, other):
    table = packaged_table()
    few, many = sorted((one, other))
    slow, fast = (table.product(rows) for rows in (many, few))
    assert fast.seconds(1e7) <= slow.seconds(1e7) * (1 + 1e-12)


def test_on_the_measured_gpu_nothing_is_scaled(table):
    assert table.scaled(find_gpu("h100")) is table
    assert not table.scaled_from


def test_slopes_are_scaled_by_what_binds_them_and_constants_stay(table):
    scaled = table.scaled(find_gpu("a100"))
    memory, arithmetic = 3.35e12 / 2.039e12, 67e12 / 19.5e12
    tensor = 989e12 / 312e12
    assert scaled.scaled_from == table.gpu
    for factor, found, before in (
        (memory, scaled.product(1), table.product(1)),
        (tensor, scaled.product(2048), table.product(2048)),
        (memory, scaled.decode_attention, table.decode_attention),
        (memory, scaled.joined_attention, table.joined_attention),
        (memory, scaled.turning_attention, table.turning_attention),
        (arithmetic, scaled.prompt_attention, table.prompt_attention),
    ):
        assert found.slope == pytest.approx(factor * before.slope)
        assert found.constant == before.constant
    assert scaled.copy_bytes_per_second == pytest.approx(table.copy_bytes_per_second / memory)


def test_a_card_with_much_arithmetic_must_still_read_its_weights(table):
    one = table.product(1)
    arithmetic = ProductLaw(256, "tensor", Law(one.constant, 1.2 * one.slope))
    table = replace(table, products=(table.products[0], arithmetic))
    scaled = table.scaled(find_gpu("l4"))
    # Its memory is 11 times slower, its tensor cores 8 times: memory binds these rows there.
    assert scaled.product(256).slope == scaled.product(1).slope
    assert table.product(256).slope == pytest.approx(1.2 * table.product(1).slope)


@pytest.mark.parametrize("name", GPUS)
def test_each_gpu_says_where_its_figures_are_from(name):
    gpu = find_gpu(name)
    assert gpu.source
    assert find_link(gpu.inside).source
    assert find_link(gpu.outside).source


def test_unknown_names_are_refused():
    with pytest.raises(LLMNumbaError, match="h100, h200"):
        find_gpu("tpu")
    with pytest.raises(LLMNumbaError, match="nvlink-4"):
        find_link("rope")


def test_a_directory_without_records_is_refused(tmp_path):
    with pytest.raises(LLMNumbaError, match="llm-numba bench kernels"):
        read_records(tmp_path, "nvidia-h100-80gb-hbm3")
