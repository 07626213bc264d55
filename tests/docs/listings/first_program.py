from llm_numba import LLM, SamplingParams

llm = LLM()  # the bundled model; or the path of a directory in Hugging Face layout
prompts = ["Once upon a time", "In a land of green hills"]
params = [
    SamplingParams(temperature=0.8, seed=seed, max_tokens=100, stop="\n\n")
    for seed in (1, 3)  # one for each prompt; or one SamplingParams for all
]
for answer in llm.generate(prompts, params):
    print(answer.prompt + answer.outputs[0].text)
    print("---", answer.outputs[0].finish_reason)
