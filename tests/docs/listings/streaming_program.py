from llm_numba import LLM, SamplingParams

llm = LLM()
for chunk in llm.stream("Once upon a time", SamplingParams(temperature=0, max_tokens=30)):
    print(chunk.text, end="", flush=True)
print()
print(chunk.finish_reason, len(chunk.output.outputs[0].token_ids))
