from llm_numba import LLM, SamplingParams
from llm_numba.parallel import Mesh, run_ranks

params = SamplingParams(temperature=0, max_tokens=14)
prompt = "Emma lost the red"


def rank(world):
    mesh = Mesh(tp=2, pp=2, world=world)
    with LLM("storyteller", device="cpu", mesh=mesh, num_blocks=128) as llm:
        answer = None
        if llm.leads:
            answer = llm.generate(prompt, params)[0].outputs[0].text
        else:
            llm.follow()
        megabytes = (llm.memory.needs.weights / 1e6, llm.memory.kv_cache / 1e6)
        return mesh.stage, mesh.tensor.rank, *megabytes, answer


alone = LLM("storyteller", device="cpu", num_blocks=128)
weights, cache = alone.memory.needs.weights / 1e6, alone.memory.kv_cache / 1e6
print(f"one rank: {weights:.1f} MB of weights, {cache:.1f} MB of cache")
for stage, part, weights, cache, answer in run_ranks(4, rank):
    print(f"stage {stage}, part {part}: {weights:.1f} MB of weights, {cache:.1f} MB of cache")
    if answer:
        print(repr(answer))
        assert answer == alone.generate(prompt, params)[0].outputs[0].text
