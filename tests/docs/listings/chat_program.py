from llm_numba import LLM, SamplingParams

llm = LLM()
greedy = SamplingParams(temperature=0, max_tokens=120)
messages = []
story = "Emma had a red ball. Jack had a blue kite. Emma lost the red ball."
for text in (f"{story}\n\nWho lost the red ball?", "What colour was the kite?"):
    messages.append({"role": "user", "content": text})
    answer = llm.chat(messages, greedy)
    reply = answer.outputs[0].text
    messages.append({"role": "assistant", "content": reply})
    cached, total = answer.metrics.num_cached_tokens, answer.metrics.num_prompt_tokens
    print(f"{reply}    [{cached} of {total} prompt tokens were in the cache]")
