from llm_numba.models import Tokenizer, resolve_model

tokenizer = Tokenizer(resolve_model("storyteller"))
text = "Emma had a red ball. One day, Emma lost the red"
token_ids = tokenizer.encode(text)
for position, token_id in enumerate(token_ids):
    print(position, token_id, repr(tokenizer.decode([token_id], skip_special_tokens=False)))

assert tokenizer.decode(token_ids) == text
print(len(text), "characters,", len(token_ids), "tokens of", len(tokenizer))
