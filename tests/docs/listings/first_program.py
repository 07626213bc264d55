from llm_numba import LLM, SamplingParams

llm = LLM()  # the bundled model; or the path of a directory in Hugging Face layout
params = SamplingParams(temperature=0.8, seed=1, max_tokens=100, stop="\n\n")
prompts = ["Once upon a time", "Emma lost the red ball."]
for answer in llm.generate(prompts, params):
    print(answer.prompt + answer.outputs[0].text)
    print("---", answer.outputs[0].finish_reason)
