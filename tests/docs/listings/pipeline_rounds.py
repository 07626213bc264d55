from llm_numba import LLM, SamplingParams
from llm_numba.parallel import Mesh, run_ranks

told = []


def rank(world):
    mesh = Mesh(tp=1, pp=2, world=world)
    with LLM("storyteller", device="cpu", mesh=mesh, num_blocks=128) as llm:
        if not llm.leads:
            llm.follow()
            return
        tell = world.tell
        world.tell = lambda message: told.append(message) or tell(message)
        params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
        llm.generate(["Tom", "Mia", "Anna", "Ben"], params)


run_ranks(2, rank)
for number, message in enumerate(told[:-1], start=1):
    # A sequence is known by the first block of its table.
    who = ["ABCD"[row[0]] for row in message.batch.block_tables]
    print(f"step {number}: {' '.join(who):8} tokens {len(message.batch.token_ids)}")
