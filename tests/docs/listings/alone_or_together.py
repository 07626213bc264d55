from llm_numba import LLM, SamplingParams

llm = LLM()
params = SamplingParams(seed=3, temperature=1.0, max_tokens=24)
prompts = ["Once upon a time", "Emma lost the red ball.", "One day, Jack", "The blue kite"]
together = llm.generate(prompts, params)
for prompt, answer in zip(prompts, together, strict=True):
    alone = llm.generate(prompt, params)[0]
    assert alone.outputs[0].token_ids == answer.outputs[0].token_ids
print(len(prompts), "answers, token for token the same alone and in a batch")
