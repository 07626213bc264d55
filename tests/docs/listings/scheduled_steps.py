from llm_numba import LLM, SamplingParams

llm = LLM(device="cpu", max_num_batched_tokens=12, block_size=4, num_blocks=12, max_model_len=48)
runner, submit = llm.engine.runner, llm.engine.runner.submit


def show_and_submit(step):
    parts = [f"{w.sequence.request.request_id}: {len(w.token_ids)}" for w in step.works]
    print(f"{step.num_tokens:2} tokens | " + " | ".join(parts))
    return submit(step)


runner.submit = show_and_submit
prompts = [
    "Once upon a time",
    "Emma had a red ball. Jack had a blue kite. Emma lost the red ball. She was very sad",
    "One day",
]
params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
llm.generate(prompts, params)
stats = llm.stats()
print(f"{stats.num_preemptions} was stopped; {stats.kv_waste:.0%} of the slots were empty")
