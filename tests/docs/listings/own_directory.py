from llm_numba import LLM, SamplingParams

# Any directory that Transformers' save_pretrained() wrote. This one has no tokenizer,
# so prompts are token ids.
llm = LLM("tests/golden/fixtures/qwen3", max_model_len=64)
config = llm.config
print(config.architecture, f"{config.num_layers} layers, {config.num_heads} query heads")
answer = llm.generate([3, 1, 4, 1, 5], SamplingParams(temperature=0, max_tokens=6))[0]
print(answer.outputs[0].token_ids)
