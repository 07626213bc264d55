from llm_numba import LLM, SamplingParams
from llm_numba.engine.request import Request, Sequence
from llm_numba.engine.step import IN_FLIGHT, Step, Work

llm = LLM("storyteller", device="cpu", dtype="float32")
runner, prompt = llm.engine.runner, llm.tokenizer.encode("Emma lost the red")
params = SamplingParams(temperature=0)
request = Request("0", None, prompt, params, seed=0, max_tokens=8)
sequence = Sequence(request, 0, runner.kv_cache.new_table(), None)


def work(token_ids: list[int]) -> Step:
    """One sequence's next tokens, and room for them in the cache."""
    start = sequence.table.num_tokens
    slots = sequence.table.append_slots(len(token_ids))
    return Step([Work(sequence, token_ids, start, slots, [sequence])], len(token_ids))


# Five steps are submitted, and no token has been read. All but the first begin with one.
steps = [runner.submit(work(prompt))]
steps += [runner.submit(work([IN_FLIGHT])) for _ in range(4)]
tokens = [step.wait()[0].token_id for step in steps]
print(tokens, repr(llm.tokenizer.decode(tokens)))
sequence.table.free()

whole = llm.generate("Emma lost the red", SamplingParams(temperature=0, max_tokens=5))
assert whole[0].outputs[0].token_ids == tokens
