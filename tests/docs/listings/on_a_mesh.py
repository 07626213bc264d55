import os

from llm_numba import LLM, SamplingParams
from llm_numba.parallel import Mesh

tp, pp = int(os.environ.get("TP", 1)), int(os.environ.get("PP", 1))
params = SamplingParams(temperature=0, max_tokens=12)

with Mesh(tp, pp) as mesh, LLM("storyteller", device="cpu", mesh=mesh) as llm:
    if llm.leads:  # rank 0
        print(llm.generate("Once upon a time", params)[0].outputs[0].text)
    else:
        llm.follow()  # until rank 0 closes its LLM
