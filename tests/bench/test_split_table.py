"""A model on several ranks beside one: which records count, and what a row says."""

from llm_numba.bench.split_table import fastest, splits


def record(tp, path, step, load=None, gpu="NVIDIA Example"):
    shape = {"tp": tp, "pp": 1, "path": path, "batch": 1, "requests": 32}
    results = [{"name": f"decode/tp={tp}", "median": step, "shape": shape}]
    if load:
        results.append({"name": f"load/tp={tp}", "median": load, "shape": shape})
    settings = {"device": "cuda", "tp": tp, "pp": 1}
    return {"settings": settings, "results": results, "environment": {"gpus": [{"name": gpu}]}}


def test_splits_stand_beside_one_gpu_and_the_fastest_path_counts():
    one, slow, quick = record(1, "alone", 4.0, 200), record(2, "mpi", 5.0), record(2, "peer", 2.5)
    quick["results"] += record(2, "peer", 2.5, 300.0)["results"][1:]
    chosen = fastest([slow, quick, one])
    assert chosen == [one, quick]
    table = splits(chosen)
    assert table.headings == [
        "machine", "split", "arrays by",
        "a step of 1, ms", "times one", "32 requests, tokens/s", "times one",
    ]  # fmt: skip
    assert table.rows == [
        ["Example", "tp=1, pp=1", "", "4", "1.00", "200", "1.00"],
        ["Example", "tp=2, pp=1", "`peer`", "2.5", "1.60", "300", "1.50"],
    ]


def test_switches_have_a_row_of_their_own():
    switched = record(2, "peer", 2.0)
    switched["settings"]["switches"] = ["close_with_norm"]
    chosen = fastest([switched, record(2, "peer", 2.5), record(1, "alone", 4.0)])
    assert splits(chosen).rows[1:] == [
        ["Example", "tp=2, pp=1", "`peer`", "2.5", "1.60"],
        ["Example", "tp=2, pp=1", "`peer`, `close_with_norm`", "2", "2.00"],
    ]


def test_machines_are_not_compared_with_each_other():
    rows = splits(fastest([record(1, "alone", 4.0, gpu="NVIDIA Other"), record(2, "peer", 2.0)]))
    assert rows.rows == [
        ["Example", "tp=2, pp=1", "`peer`", "2", "-"],
        ["Other", "tp=1, pp=1", "", "4", "1.00"],
    ]


def test_ranks_of_a_cpu_are_named_by_its_cores():
    cpu = record(2, "mpi-staged", 5.0)
    cpu["settings"]["device"] = "cpu"
    cpu["environment"] = {"device": {"cores": 8}}
    assert splits([cpu]).rows == [["8 cores", "tp=2, pp=1", "`mpi-staged`", "5", "-"]]
