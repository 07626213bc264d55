"""Ranks with a GPU each: every path, every split, against what one GPU says.

They need two GPUs or more, and an MPI that takes their arrays for what goes by ``mpi``.
"""

import json
import os

import numpy as np
import pytest
from ranks import PROGRAMS

from llm_numba import LLM, SamplingParams
from llm_numba.parallel.paths import PATHS
from llm_numba.runtime import visible_gpus

pytestmark = pytest.mark.gpu

COUNTS = (2, 3, 4, 8)
# For the one GPU's model: ranks need the same GPU while it is there.
ROOM_GB = 2.0
SPLITS = [(2, 1), (1, 2), (2, 2), (4, 1), (1, 4)]
PROMPTS = ["Once upon a time", "Mia"]
each_path = pytest.mark.parametrize("path", PATHS)
each_split = pytest.mark.parametrize(("tp", "pp"), SPLITS, ids=str)


@pytest.fixture(name="on_gpus")
def _on_gpus(mpirun):
    """Run a program as ranks that see the GPUs, and the settings of this machine's MPI."""

    def run(ranks, *command):
        if (there := len(visible_gpus())) < ranks:
            pytest.skip(f"needs {ranks} GPUs, and there are {there}")
        kept = ("OMPI_MCA_", "NCCL_", "UCX_", "LLM_NUMBA_", "CUDA_VISIBLE_DEVICES")
        settings = {name: text for name, text in os.environ.items() if name.startswith(kept)}
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(there)))}
        # Multicast over NVLink is off: see docs/parallel/clusters.md.
        return mpirun(ranks, *command, **(gpus | {"NCCL_NVLS_ENABLE": "0"} | settings))

    return run


@each_path
@pytest.mark.parametrize("ranks", COUNTS)
def test_ranks_exchange_what_they_should(on_gpus, ranks, path):
    """A thousand times in a graph as well, in pieces where it cannot hold that; see the program."""
    ended = on_gpus(ranks, PROGRAMS / "exchanging.py", ranks, path, "cuda")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "all is well"
    assert ended.orphans == []


@each_path
@each_split
def test_every_split_says_the_words_of_one_gpu(on_gpus, tp, pp, path):
    alone = LLM(device="cuda", dtype="float32", gpu_memory_gb=ROOM_GB)
    params = SamplingParams(temperature=0.0, max_tokens=32)
    expected = [output.outputs[0].token_ids for output in alone.generate(PROMPTS, params)]
    command = ("-m", "llm_numba", "generate", *PROMPTS, "--temperature", 0, "--max-tokens", 32)
    options = ("--device", "cuda", "--dtype", "float32", "--json", "--comm", path)
    ended = on_gpus(tp * pp, *command, *options, "--tp", tp, "--pp", pp)
    assert ended.code == 0, ended.err
    found = [json.loads(line)["outputs"][0]["token_ids"] for line in ended.out.splitlines()]
    assert found == expected


@each_path
def test_logits_of_two_gpus_are_those_of_one(on_gpus, path, tmp_path):
    """To 1e-5 of the largest: sums over ranks are added in another order, in float32."""
    text = list(range(3, 60))
    expected = LLM(device="cuda", dtype="float32", gpu_memory_gb=ROOM_GB).logits(text)
    script = (
        "import sys, numpy as np; from llm_numba import LLM; from llm_numba.parallel import Mesh\n"
        "with Mesh(2, comm=sys.argv[1]) as mesh:\n"
        "    with LLM(device='cuda', dtype='float32', mesh=mesh) as llm:\n"
        "        if llm.leads: np.save(sys.argv[2], llm.logits(list(range(3, 60))))\n"
        "        else: llm.follow()\n"
    )
    ended = on_gpus(2, "-c", script, path, tmp_path / "logits.npy")
    assert ended.code == 0, ended.err
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@each_path
@each_split
def test_graphs_of_ranks_say_what_single_launches_do_to_the_bit(on_gpus, tp, pp, path):
    """In one piece, or cut where the host exchanges arrays: by doubling, log2 P times a sum."""
    ended = on_gpus(tp * pp, PROGRAMS / "decoding.py", tp, pp, path)
    assert ended.code == 0, ended.err
    (launched, none, _), (replayed, pieces, layers) = map(json.loads, ended.out.splitlines())
    assert replayed == launched
    assert none == 0
    sums, rounds = 1 + 2 * layers, tp.bit_length() - 1
    # The only stage gathers the parts of the vocabulary, too, in one message each.
    cuts = sums * rounds + (pp == 1) if path.startswith("mpi") else 0
    assert pieces == 1 + cuts


def test_more_ranks_than_gpus_are_refused(mpirun):
    command = ("-m", "llm_numba", "generate", "Mia", "--device", "cuda", "--tp", 2)
    ended = mpirun(2, *command, CUDA_VISIBLE_DEVICES="0")
    assert ended.code == 2
    assert ended.err.count("which shows them 1 GPU; each rank needs one of its own") == 1
    assert ended.orphans == []
