import pickle

from llm_numba import LLM, SamplingParams
from llm_numba.parallel import Mesh, run_ranks

told = []


def rank(world):
    mesh = Mesh(tp=2, pp=1, world=world)
    with LLM("storyteller", device="cpu", mesh=mesh, num_blocks=128) as llm:
        if not llm.leads:
            llm.follow()
            return
        tell = world.tell
        world.tell = lambda message: told.append(message) or tell(message)
        prompts = ["Emma lost the red", "Tom"]
        llm.generate(prompts, SamplingParams(temperature=0.8, seed=1, max_tokens=3))


run_ranks(2, rank)
for number, message in enumerate(told[:-1], start=1):
    batch, sampling = message.batch, message.sampling
    print(f"step {number}: {len(pickle.dumps(message)) / 1000:.0f} KB")
    for name in ("token_ids", "positions", "slots", "query_starts", "context_lens", "scored"):
        print(f"  {name:12} {getattr(batch, name).tolist()}")
    print(f"  {'draws':12} {sampling.draws.tolist()}")
print("then:", told[-1])
