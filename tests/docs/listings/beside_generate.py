from llm_numba import LLM, SamplingParams

llm = LLM("storyteller", device="cpu")
greedy = SamplingParams(temperature=0, max_tokens=12)
prompt = "Once upon a time"
answer = llm.generate(prompt, greedy)[0]

print(answer.outputs[0].token_ids)
print(answer.outputs[0].text)
