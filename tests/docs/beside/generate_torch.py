import transformers

from llm_numba.models import resolve_model

path = resolve_model("storyteller")
tokenizer = transformers.AutoTokenizer.from_pretrained(path)
# By default it would take bfloat16, and at
# the fifth token another word is likelier.
model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="float32")

prompt = "Once upon a time"
ids = tokenizer(prompt, return_tensors="pt")
out = model.generate(**ids, do_sample=False, max_new_tokens=12)[0][
    ids["input_ids"].shape[1] :
].tolist()

print(out)
print(tokenizer.decode(out))
