"""Every rank: decodes by graphs, in pieces or whole, and kernel by kernel.

Run under mpirun by test_on_gpus.py, with tp, pp and the path of arrays. Rank 0 prints two lines,
without graphs and with them: tokens with the bits of their log-probabilities, and of how many
pieces and layers its part of a step is.
"""

import json
import sys

from llm_numba import LLM, SamplingParams
from llm_numba.parallel import Mesh

PROMPTS = ["Once upon a time", "Mia", "The dog and the cat"]
KINDS = (
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 30, "seed": 3},
    {"temperature": 1.0, "seed": 5, "repetition_penalty": 1.2, "logprobs": 3},
)


def said(llm: LLM) -> list[list]:
    """Batches of one kind, and one of all kinds."""
    found = []
    kinds = [SamplingParams(**kind, max_tokens=12, ignore_eos=True) for kind in KINDS]
    for params in (*([kind] * len(PROMPTS) for kind in kinds), kinds):
        for output in llm.generate(PROMPTS, params):
            (sample,) = output.outputs
            seen = sample.logprobs or []
            bits = [[(i, each.logprob.hex()) for i, each in row.items()] for row in seen]
            found.append([sample.token_ids, bits])
    return found


if __name__ == "__main__":
    tp, pp, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with Mesh(tp, pp, comm=path) as mesh:
        for eager in (True, False):
            options = {"device": "cuda", "dtype": "float32", "gpu_memory_gb": 2.0}
            with LLM(mesh=mesh, enforce_eager=eager, max_num_seqs=4, **options) as llm:
                if llm.leads:
                    runner = llm.engine.runner
                    layers = runner.model.config.num_layers
                    print(json.dumps([said(llm), runner.num_pieces, layers]), flush=True)
                else:
                    llm.follow()
